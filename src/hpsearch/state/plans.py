"""What the time of a study was planned for, and what more time is expected to bring, as results store it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedStep:
    """The part of a plan for one phase."""

    phase: str
    runs: int
    examples: int
    """Number of training examples of each run."""
    passes: float
    """Passes over these examples, for a recipe of the usual length."""
    seconds: float
    """Wall-clock seconds of all runs together."""


@dataclass(frozen=True)
class PlanMade:
    """The plan for the remaining time, made when a phase began."""

    time: str
    """UTC, ISO 8601, to the second."""
    phase: str
    """Phase that began."""
    hours: float
    """Hours of the budget."""
    until: float
    """Seconds of the phase, over all runs of the command, at which it is to end."""
    left: float
    """Remaining seconds, with test and report."""
    end: float
    """Seconds of these for test and report."""
    pace: dict[str, float]
    """`train` and `score`: seconds for each example; `trial`: other seconds of a trial."""
    steps: tuple[PlannedStep, ...]
    alone: bool = False
    """Whether nothing is searched, so that the reference recipe and points near it have all the time."""


@dataclass(frozen=True)
class Plans:
    """Plans of one study, as stored in `plans.json`."""

    made: tuple[PlanMade, ...]


@dataclass(frozen=True)
class Outlook:
    """The score that the study is expected to reach with more hours, on the same test examples."""

    hours: float
    """Hours in all."""
    examples: int
    """Number of training examples of the winner."""
    value: float
    low: float
    """Low end of the 80 % interval."""
    high: float
