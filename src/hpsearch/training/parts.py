"""How long a fine-tune is, and in which parts its batches are trained: arithmetic that imports nothing that is slow."""

import math
from collections.abc import Sequence

from hpsearch.config.settings import Settings, TrainSettings

# A fine-tune of fewer is left half trained: Mosbach et al. 2021 (arXiv 2006.04884), Zhang et al. 2021 (2006.05987).
LEAST_SEEN = 6400  # examples, each as often as it is seen: 400 updates of 16
MOST_PASSES = 20
LONGEST = 4  # times its planned length that a schedule can become


def passes(settings: Settings, examples: int) -> float:
    """Passes over so many training examples, before `train.epochs_factor`."""
    if settings.train.epochs is not None:
        return settings.train.epochs
    return max(settings.model.reference.epochs, min(MOST_PASSES, LEAST_SEEN / examples))


def steps_per_epoch(train: TrainSettings, examples: int) -> int:
    """Updates in one pass over the examples; the last may be of an incomplete batch."""
    return math.ceil(examples / train.batch_size)


def planned_steps(settings: Settings, examples: int) -> int:
    """Updates of the whole schedule, as it begins."""
    epochs = passes(settings, examples) * settings.train.epochs_factor
    return max(1, round(epochs * steps_per_epoch(settings.train, examples)))


def total_steps(settings: Settings, examples: int) -> int:
    """Updates of the whole schedule, as it is now."""
    retimed = settings.train.retimed
    return retimed[-1][1] if retimed else planned_steps(settings, examples)


def place(step: int, planned: int, retimed: Sequence[tuple[int, int]]) -> float:
    """The step of the schedule as it began whose learning rate a step has, however often the length was changed.

    Args:
        step: updates done.
        planned: updates of the schedule as it began.
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
    """`train.retimed` with another length from `step` on; changes that were to come after it are none any more.

    A trial that goes on from a checkpoint passes steps again that had a change after them.
    """
    return (*(change for change in retimed if change[0] < step), (step, total))


def passes_of_batch(train: TrainSettings) -> int:
    """How often a batch passes the model in an update."""
    return 2 if train.rdrop else 1


def micro_batch(batch_size: int, at_most: int | None) -> int:
    """Examples a forward pass: the largest divisor of the batch size that is at most `at_most` (None: no limit)."""
    if at_most is None:
        return batch_size
    return next(micro for micro in range(min(at_most, batch_size), 0, -1) if batch_size % micro == 0)


def examples_at_once(train: TrainSettings) -> int:
    """Of a forward pass, as the settings have it."""
    return micro_batch(train.batch_size, train.micro_batch_size)
