"""What more training examples would buy: the logarithm of the error falls in a line with that of the examples.

How steeply is known from other data sets, and from the study's own runs of one recipe on few and many examples; the
more these tell, the more they weigh.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Of other data sets, and of runs that differ by their seed: judged by the few lines that experiments/2026-11-table has.
SLOPE, SLOPES = 0.2, 0.12  # mean and standard deviation, of log error against log examples
RUN = 0.06  # standard deviation of the log error of a run
WIDE = 1.2816  # standard errors to either side of an 80 % interval


@dataclass(frozen=True)
class Run:
    """A fine-tune of some recipe."""

    recipe: str
    """Runs of one recipe differ by examples and seed."""
    examples: int
    """That it was trained on."""
    error: float
    """On validation: 1 - score for a share, the loss for a loss; above 0."""
    doubt: float
    """Standard error of its logarithm, over validation examples."""


@dataclass(frozen=True)
class Slope:
    """By how much the log error falls for each unit of the log of the examples."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Expected:
    """An error, with its 80 % interval."""

    error: float
    low: float
    high: float


def doubt(error: float, examples: int) -> float:
    """Standard error of the logarithm of a share of errors among so many examples."""
    return math.sqrt(max(0.0, 1 - error) / max(1.0, error * examples))


def slope(runs: Sequence[Run]) -> Slope:
    """The slope of a study, from what is known of others and from its own runs.

    Each recipe has a level of its own, so that only runs of one recipe on different numbers of examples tell anything.
    """
    precision, weighted = 1 / SLOPES**2, SLOPE / SLOPES**2
    for recipe in dict.fromkeys(run.recipe for run in runs):
        own = [run for run in runs if run.recipe == recipe]
        weights = np.array([1 / (RUN**2 + run.doubt**2) for run in own])
        x, y = np.log([run.examples for run in own]), np.log([run.error for run in own])
        x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
        precision += float(weights @ x**2)
        weighted -= float(weights @ (x * y))
    return Slope(weighted / precision, precision**-0.5)


def expected(error: float, examples: int, more: int, slope: Slope) -> Expected:
    """What a run of the same recipe is expected to have on the same examples, trained on more.

    Args:
        error: of a run.
        examples: that it was trained on.
        more: that the other would be trained on.
        slope: of the study.
    """
    further = math.log(more / examples)
    middle, wide = math.log(error) - slope.mean * further, WIDE * math.hypot(slope.deviation * further, RUN * 2**0.5)
    return Expected(*(math.exp(middle + side * wide) for side in (0, -1, 1)))
