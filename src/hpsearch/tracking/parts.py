"""The parts of a winner's model, and what its MLflow run says of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHA256 = "hpsearch.sha256"  # of the weights of the winner's model
BLEND = "hpsearch.blend"  # weights of fine-tune and words, where they are one model
PARTS = {"model": SHA256, "words": "hpsearch.words_sha256"}  # of a model: the tag of each


@dataclass(frozen=True)
class Words:
    """The linear model of words that a winner is one model with."""

    folder: Path
    """Of that model."""
    weights: tuple[float, float]
    """Of the winner's logits and of its."""
    fitted: dict[str, Any]
    """Thresholds of both together, as the kind has them."""
