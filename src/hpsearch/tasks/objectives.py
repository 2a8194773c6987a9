"""The metrics that a task may search for, and the direction in which each is better. Nothing else knows a direction."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Score = TypeVar("Score", float, NDArray[np.float64])


@dataclass(frozen=True)
class Objective:
    """A metric that may be searched for, and its direction. All comparisons of scores use it."""

    name: str
    direction: Literal["maximize", "minimize"]
    """Direction of the metric, in Optuna's words."""
    share: bool
    """Whether an example counts between 0 and 1. Then a score does, too, and differences are given in points."""

    @property
    def remark(self) -> str:
        """Remark on the direction of a score; empty where more is better, as readers expect."""
        return "" if self.direction == "maximize" else "less is better"

    def worth(self, score: Score) -> Score:
        """Return the worth of a score, of which more is always better. The worth of a worth is the score."""
        return score if self.direction == "maximize" else -score

    def better(self, score: float, other: float) -> bool:
        """Return whether one score is better than another, and not equal."""
        return self.worth(score) > self.worth(other)

    def gain(self, score: float, other: float) -> float:
        """Return by how much one score is better than another; below 0 where it is worse."""
        return self.worth(score) - self.worth(other)


# Every metric that a task may search for.
LOG_LOSS = Objective("log_loss", "minimize", share=False)
OBJECTIVES = {
    name: Objective(name, "maximize", share=True)
    for name in ("accuracy", "f1", "f1_micro", "f1_weighted", "precision", "recall", "exact_match")
} | {LOG_LOSS.name: LOG_LOSS}
