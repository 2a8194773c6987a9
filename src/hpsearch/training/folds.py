"""Cross-validation: train and validation examples together, in parts that are validated on in turn.

For few labels: a validation split of some dozen examples chooses by luck, and all of the examples together do not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.tokens import Selected, Tokens
from hpsearch.state.records import DataRef
from hpsearch.training import data

Fold = tuple[int, int]
"""Which part, of how many."""
SPLITS = ("validation", "train")  # in this order both are stratified, so every n-th example is a fair sample


def rows(ref: DataRef, fold: Fold) -> dict[str, list[Any]]:
    """The rows that a fold is validated on: the columns of the task kind."""
    found: dict[str, list[Any]] = {}
    for split, chosen in _within(ref.sizes, fold).items():
        for name, column in data.load(ref, split).select(chosen).to_dict().items():
            found.setdefault(name, []).extend(column)
    return found


def tokens(of: dict[str, Tokens], fold: Fold) -> tuple[Selected, Selected]:
    """What a fold is trained on, and what it is validated on."""
    sizes = {split: found.examples for split, found in of.items()}
    inside = _within(sizes, fold)
    outside = {split: np.setdiff1d(np.arange(sizes[split]), chosen) for split, chosen in inside.items()}
    return tuple(Selected([(of[split], chosen[split]) for split in SPLITS]) for chosen in (outside, inside))  # type: ignore[return-value]


def _within(sizes: dict[str, int], fold: Fold) -> dict[str, NDArray[np.int64]]:
    """Examples of each split that a fold is validated on."""
    which, count = fold
    found, before = {}, 0
    for split in SPLITS:
        found[split] = np.flatnonzero((np.arange(sizes[split]) + before) % count == which)
        before += sizes[split]
    return found
