"""How much more training examples would lower the error.

The logarithm of the error falls linearly with the logarithm of the number of examples. The slope is known from other
data sets, and from the study's own runs of one recipe on few and many examples. The more these runs tell, the more they
weigh.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Estimates from other data sets, and from runs that differ by their seed. They rest on the few lines of
# experiments/2026-11-table.
SLOPE, SLOPES = 0.2, 0.12  # mean and standard deviation of the slope of log error against log examples
RUN = 0.06  # standard deviation of the log error of a run
WIDE = 1.2816  # standard errors to either side of an 80 % interval


@dataclass(frozen=True)
class Run:
    """A fine-tune of one recipe."""

    recipe: str
    """Key of the recipe. Runs of one recipe differ by examples and seed."""
    examples: int
    """Number of training examples."""
    error: float
    """Error on validation, above 0: 1 - score for a share, the loss for a loss."""
    doubt: float
    """Standard error of the error's logarithm, over validation examples."""


@dataclass(frozen=True)
class Slope:
    """Fall of the log error for each unit of the log of the examples."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Expected:
    """An expected error, with its 80 % interval."""

    error: float
    low: float
    high: float


def doubt(error: float, examples: int) -> float:
    """Return the standard error of the logarithm of a share of errors among `examples` examples."""
    return math.sqrt(max(0.0, 1 - error) / max(1.0, error * examples))


def slope(runs: Sequence[Run]) -> Slope:
    """Return the slope of a study, from what is known of others and from its own runs.

    Each recipe has its own level of error. So only runs of one recipe on different numbers of examples tell anything.
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
    """Return the error to expect of a run of the same recipe with more training examples, on the same scored examples.

    Args:
        error: error of a run.
        examples: number of its training examples.
        more: number of training examples of the other run.
        slope: slope of the study.
    """
    further = math.log(more / examples)
    middle, wide = math.log(error) - slope.mean * further, WIDE * math.hypot(slope.deviation * further, RUN * 2**0.5)
    return Expected(*(math.exp(middle + side * wide) for side in (0, -1, 1)))
