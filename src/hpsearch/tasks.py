"""One declaration for each task kind: what it reads from the data, which head it trains, how it is scored."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpsearch import metrics


@dataclass(frozen=True)
class Kind:
    """A kind of task. All that differs from kind to kind is here."""

    name: str
    roles: tuple[str, ...]  # keys of task.columns
    head: str  # class of transformers that loads a pretrained model with the head
    metrics: Callable[[NDArray[np.floating], NDArray[np.integer]], dict[str, float]]  # (logits, labels)
    confusion: Callable[[NDArray[np.floating], NDArray[np.integer]], tuple[tuple[int, ...], ...]]


KINDS: dict[str, Kind] = {
    "text_classification": Kind(
        name="text_classification",
        roles=("text", "label"),
        head="AutoModelForSequenceClassification",
        metrics=metrics.classification,
        confusion=metrics.confusion,
    ),
}
