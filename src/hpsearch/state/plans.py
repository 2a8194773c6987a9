"""What the time of a study was planned for, and what more of it is expected to bring, as results keep it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedStep:
    """What a plan has for one phase."""

    phase: str
    runs: int
    examples: int
    """Training examples of each."""
    passes: float
    """Over these, of a recipe of the usual length."""
    seconds: float
    """Of all of them, by the clock."""


@dataclass(frozen=True)
class PlanMade:
    """What the time that was left was for, when a phase began."""

    time: str
    """UTC, ISO 8601, to the second."""
    phase: str
    """That began."""
    hours: float
    """Of the budget."""
    until: float
    """Seconds of the phase, over all runs of the command, at which it shall be over."""
    left: float
    """Seconds, test and report included."""
    end: float
    """Of them, for test and report."""
    pace: dict[str, float]
    """`train` and `score`: seconds an example; `trial`: seconds of a trial besides."""
    steps: tuple[PlannedStep, ...]
    alone: bool = False
    """Whether nothing is searched: the reference recipe and what is near it have all the time."""


@dataclass(frozen=True)
class Plans:
    """Of one study, as `plans.json` has them."""

    made: tuple[PlanMade, ...]


@dataclass(frozen=True)
class Outlook:
    """What the study is expected to reach with more hours, on the same test examples."""

    hours: float
    """In all."""
    examples: int
    """Training examples of its winner."""
    value: float
    low: float
    """Of the 80 % interval."""
    high: float
