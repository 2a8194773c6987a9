"""The parts of a winner's model, and the tags for them in its MLflow run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHA256 = "hpsearch.sha256"  # digest of the weights of the winner's model
BLEND = "hpsearch.blend"  # weights of the fine-tune and the words in a blend
PARTS = {"model": SHA256, "words": "hpsearch.words_sha256"}  # part of a model: tag with the digest of its weights


@dataclass(frozen=True)
class Words:
    """The linear model of words that a winner's fine-tune is blended with."""

    folder: Path
    """Folder of the linear model of words."""
    weights: tuple[float, float]
    """Weights of the fine-tune's logits and of the words' logits."""
    fitted: dict[str, Any]
    """Thresholds of the blend, in the form of the kind."""
