"""Cross-validation: train and validation examples are joined and cut into parts that are validated on in turn.

It is for tasks with few labelled examples. A choice on some dozen validation examples is luck. A choice on all of the
examples together is not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.tokens import Selected, Tokens
from hpsearch.state.records import DataRef
from hpsearch.training import data

Fold = tuple[int, int]
"""Index of the part that is validated on, and number of parts."""
SPLITS = ("validation", "train")  # in this order; both are stratified, so every n-th example is a fair sample


def rows(ref: DataRef, fold: Fold) -> dict[str, list[Any]]:
    """Return the rows that a fold is validated on, with the columns of the task kind."""
    found: dict[str, list[Any]] = {}
    for split, chosen in _within(ref.sizes, fold).items():
        for name, column in data.load(ref, split).select(chosen).to_dict().items():
            found.setdefault(name, []).extend(column)
    return found


def tokens(of: dict[str, Tokens], fold: Fold) -> tuple[Selected, Selected]:
    """Return the tokens that a fold is trained on, and those that it is validated on."""
    sizes = {split: found.examples for split, found in of.items()}
    inside = _within(sizes, fold)
    outside = {split: np.setdiff1d(np.arange(sizes[split]), chosen) for split, chosen in inside.items()}
    return tuple(Selected([(of[split], chosen[split]) for split in SPLITS]) for chosen in (outside, inside))  # type: ignore[return-value]


def _within(sizes: dict[str, int], fold: Fold) -> dict[str, NDArray[np.int64]]:
    """Return the indices of each split's examples that a fold is validated on."""
    which, count = fold
    found, before = {}, 0
    for split in SPLITS:
        found[split] = np.flatnonzero((np.arange(sizes[split]) + before) % count == which)
        before += sizes[split]
    return found
