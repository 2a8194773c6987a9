"""The order in which a trial reads its examples, and the part of each batch that a process reads."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, Sampler

# Examples are sorted by length within groups of this many batches, so that a batch has similar lengths.
GROUPED_BATCHES = 50


class LengthGroupedOrder(Sampler[int]):
    """Order of the examples in an epoch: random batches of similar length, the same for the same seed and epoch."""

    def __init__(self, lengths: NDArray[np.integer], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. The loader calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        group = GROUPED_BATCHES * self.batch_size
        batches = []
        for start in range(0, len(order), group):
            part = order[start : start + group]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        # An incomplete batch stays last: the loader cuts this order into batches again.
        incomplete = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        shuffled = [batches[i] for i in rng.permutation(len(batches))]
        return iter(np.concatenate(shuffled + incomplete).tolist())


class Parts(BatchSampler):
    """The micro-batches of one process, which takes its part of every batch.

    All processes have equally many micro-batches, so that they stay in step. Where the last batch has too few examples
    for all, some micro-batches are empty.
    """

    def __init__(self, order: LengthGroupedOrder, micro: int, rank: int, processes: int) -> None:
        """Cut batches into parts.

        Args:
            order: order of the examples.
            micro: largest number of examples in a micro-batch.
            rank: number of the process, from 0.
            processes: number of processes.
        """
        super().__init__(order, micro, drop_last=False)
        self._order, self._micro, self._rank, self._processes = order, micro, rank, processes

    def __len__(self) -> int:
        whole, rest = divmod(len(self._order), self._order.batch_size)
        return whole * self._count(self._order.batch_size) + self._count(rest)

    def __iter__(self) -> Iterator[list[int]]:
        examples, size = list(self._order), self._order.batch_size
        for start in range(0, len(examples), size):
            batch = examples[start : start + size]
            mine = batch[self._rank :: self._processes]
            for part in range(self._count(len(batch))):
                yield mine[part * self._micro : (part + 1) * self._micro]

    def _count(self, examples: int) -> int:
        """Return the number of micro-batches of each process for a batch of so many examples."""
        return math.ceil(math.ceil(examples / self._processes) / self._micro)
