"""How many examples of a batch are trained at once, where the whole batch does not fit in memory."""

from hpsearch.config.settings import TrainSettings


def micro_batch(batch_size: int, at_most: int | None) -> int:
    """Examples a forward pass: the largest divisor of the batch size that is at most `at_most` (None: no limit)."""
    if at_most is None:
        return batch_size
    return next(micro for micro in range(min(at_most, batch_size), 0, -1) if batch_size % micro == 0)


def examples_at_once(train: TrainSettings) -> int:
    """Of a forward pass, as the settings have it."""
    return micro_batch(train.batch_size, train.micro_batch_size)
