"""Lengths of trials: they decide which trials can be compared, and where rungs can lie."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hpsearch.config.settings import Settings, possible
from hpsearch.decisions import schedule
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import Objective
from hpsearch.training import parts

LATEST = 0.5  # share of a schedule; a first rung at this point or later saves little


@dataclass(frozen=True)
class Length:
    """What trials must have in common to be compared, beside their settings."""

    examples: int | None
    """Number of training examples; None means all."""
    epochs: float | None
    """Passes of one of the few fine-tunes that the time holds; None where settings and parameters decide."""

    @staticmethod
    def of_record(trial: TrialRecord) -> "Length":
        """Return the length of a trial."""
        return Length(trial.examples, trial.epochs)

    def has(self, trial: TrialRecord) -> bool:
        """Return whether a trial has this length; any two fixed numbers of passes count as equal."""
        return (trial.examples, trial.epochs is None) == (self.examples, self.epochs is None)

    def of(self, trial: TrialRecord) -> TrialRecord:
        """Return a copy of the trial with this length."""
        return replace(trial, examples=self.examples, epochs=self.epochs)


def best_of_last_length(trials: Iterable[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Return the complete trials that can be compared, best first: those with the length of the newest.

    Of a few runs with fixed passes, the one to keep comes first.
    """
    complete = [trial for trial in trials if trial.status is Status.COMPLETE]
    if not complete:
        return []
    newest = Length.of_record(max(complete, key=lambda trial: trial.number))
    order = schedule.best_first if newest.epochs is None else schedule.kept_first
    return order([trial for trial in complete if newest.has(trial)], objective)


def with_rungs_late_enough(settings: Settings, train: int) -> Settings:
    """Return the settings with rungs that come too early moved to `search.rungs_after` training examples.

    Before some hundred examples most trials are at chance, and a rung would choose by luck: experiments/search_race.
    If `search.rungs_after` is half of the shortest schedule or more, a rung saves little, and all are removed.

    Args:
        settings: the settings as requested.
        train: number of training examples of a trial.
    """
    factor = min(possible(settings, "train.epochs_factor"))
    lengths = [settings.train.model_copy(update={"epochs": epochs}) for epochs in possible(settings, "train.epochs")]
    passes = min(parts.passes(settings.model_copy(update={"train": length}), train) for length in lengths)
    shortest = passes * factor * train
    first = math.ceil(100 * settings.search.rungs_after / shortest) / 100
    rungs = settings.search.rungs if first < LATEST else ()
    rungs = tuple(dict.fromkeys(max(rung, first) for rung in rungs))
    return settings.model_copy(update={"search": settings.search.model_copy(update={"rungs": rungs})})


def rungs(settings: Settings) -> str:
    """Return the message on where trials are compared."""
    search = settings.search
    if search.rungs:
        return f"trials are compared at {', '.join(f'{rung:.0%}' for rung in search.rungs)} of their schedules"
    return (
        f"every trial is trained to its end; search.rungs_after={search.rungs_after} training examples are half of the "
        "shortest schedule or more, or search.rungs is empty"
    )
