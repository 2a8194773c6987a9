"""Counts of found, excess and missed answers (true and false positives, false negatives) by class, and their rates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpsearch.state.measured import ClassScores


def parts(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Split (..., 3 * classes) into found, excess and missed, (..., classes) each."""
    return tuple(np.split(sums, 3, axis=-1))


def rates(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return precision, recall and F1 of each class, (..., classes) each; 0 where the divisor is 0."""
    found, excess, missed = parts(sums)
    return (
        ratio(found, found + excess),
        ratio(found, found + missed),
        ratio(2 * found, 2 * found + excess + missed),
    )


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return part / whole; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def by_class(sums: NDArray[np.float64], labels: Sequence[str]) -> dict[str, ClassScores]:
    """Return the scores of each class that the truths have, from sums (3 * classes,)."""
    found, _, missed = parts(sums)
    columns = zip(labels, (found + missed).astype(int), *rates(sums), strict=True)
    return {label: ClassScores(int(n), *map(float, of_class)) for label, n, *of_class in columns if n}
