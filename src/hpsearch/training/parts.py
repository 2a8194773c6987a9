"""Length of a fine-tune, and size of the parts of its batches: arithmetic without slow imports."""

import math
from collections.abc import Sequence

from hpsearch.config.settings import Settings, TrainSettings

# A fine-tune on fewer stays half trained: Mosbach et al. 2021 (arXiv 2006.04884), Zhang et al. 2021 (2006.05987).
LEAST_SEEN = 6400  # examples, each counted as often as it is seen: 400 updates of 16
MOST_PASSES = 20
LONGEST = 4  # most that a schedule can grow to, as a multiple of its planned length


def passes(settings: Settings, examples: int) -> float:
    """Return the number of passes over `examples` training examples, before `train.epochs_factor`."""
    if settings.train.epochs is not None:
        return settings.train.epochs
    return max(settings.model.reference.epochs, min(MOST_PASSES, LEAST_SEEN / examples))


def steps_per_epoch(train: TrainSettings, examples: int) -> int:
    """Return the number of updates in one pass over the examples. The last batch may be incomplete."""
    return math.ceil(examples / train.batch_size)


def planned_steps(settings: Settings, examples: int) -> int:
    """Return the number of updates that the schedule has at its start."""
    epochs = passes(settings, examples) * settings.train.epochs_factor
    return max(1, round(epochs * steps_per_epoch(settings.train, examples)))


def total_steps(settings: Settings, examples: int) -> int:
    """Return the number of updates that the schedule has now, after changes of its length."""
    retimed = settings.train.retimed
    return retimed[-1][1] if retimed else planned_steps(settings, examples)


def place(step: int, planned: int, retimed: Sequence[tuple[int, int]]) -> float:
    """Return the step of the original schedule whose learning rate applies at `step`.

    The length may have changed any number of times, and the result need not be whole.

    Args:
        step: updates done.
        planned: updates of the original schedule.
        retimed: `train.retimed`, in its order.
    """
    begun, behind, total = 0, 0.0, planned
    for at, changed in retimed:
        if step <= at:
            break
        behind += (planned - behind) * (at - begun) / (total - begun)
        begun, total = at, changed
    if begun == 0:
        return step
    return min(float(planned), behind + (planned - behind) * (step - begun) / max(1, total - begun))


def with_change(retimed: Sequence[tuple[int, int]], step: int, total: int) -> tuple[tuple[int, int], ...]:
    """Return `train.retimed` with the length `total` from `step` on.

    Changes at `step` or later are dropped: a trial that continues from a checkpoint repeats the steps before them.
    """
    return (*(change for change in retimed if change[0] < step), (step, total))


def passes_of_batch(train: TrainSettings) -> int:
    """Return how often a batch passes through the model in an update."""
    return 2 if train.rdrop else 1


def micro_batch(batch_size: int, at_most: int | None) -> int:
    """Return the examples in a forward pass, where a batch is cut into as few parts as hold up to `at_most` each.

    The parts are as equal as they can be; only the last may be smaller. None: no limit.
    """
    if at_most is None:
        return batch_size
    return math.ceil(batch_size / math.ceil(batch_size / at_most))


def slice_size(batch_size: int, processes: int) -> int:
    """Return the largest number of examples that one of so many processes takes of a batch."""
    return math.ceil(batch_size / processes)


def examples_at_once(train: TrainSettings, processes: int = 1) -> int:
    """Return the number of examples in a forward pass under these settings, in a trial of so many processes."""
    return micro_batch(slice_size(train.batch_size, processes), train.micro_batch_size)
