"""What is found, said in excess and missed of each class: counts, and the rates made of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpsearch.state.measured import ClassScores


def parts(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Found, excess and missed, (..., classes) each, from (..., 3 * classes)."""
    return tuple(np.split(sums, 3, axis=-1))


def rates(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Precision, recall and F1 of each class, (..., classes) each; 0 where there is nothing to divide by."""
    found, excess, missed = parts(sums)
    return (
        ratio(found, found + excess),
        ratio(found, found + missed),
        ratio(2 * found, 2 * found + excess + missed),
    )


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part by whole; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def by_class(sums: NDArray[np.float64], labels: Sequence[str]) -> dict[str, ClassScores]:
    """Of each class of which there is something to find, from (3 * classes,)."""
    found, _, missed = parts(sums)
    columns = zip(labels, (found + missed).astype(int), *rates(sums), strict=True)
    return {label: ClassScores(int(n), *map(float, of_class)) for label, n, *of_class in columns if n}
