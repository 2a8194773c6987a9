"""Lengths of trials: which can be compared by them, and where their rungs can lie."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hpsearch.config.settings import Settings, possible
from hpsearch.decisions import schedule
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.metrics import Objective
from hpsearch.training import parts

LATEST = 0.5  # share of a schedule; a first rung that would have to come then or later saves little


@dataclass(frozen=True)
class Length:
    """What must be equal of trials that are compared, beside their settings."""

    examples: int | None
    """Training examples; None: all."""
    epochs: float | None
    """Passes of one of the few fine-tunes that the time holds; None where the parameters say."""

    @staticmethod
    def of_record(trial: TrialRecord) -> "Length":
        """Of a trial."""
        return Length(trial.examples, trial.epochs)

    def has(self, trial: TrialRecord) -> bool:
        """Whether a trial is of this length."""
        return (trial.examples, trial.epochs is None) == (self.examples, self.epochs is None)

    def of(self, trial: TrialRecord) -> TrialRecord:
        """A trial of this length."""
        return replace(trial, examples=self.examples, epochs=self.epochs)


def best_of_last_length(trials: Iterable[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Complete trials that can be compared, best first: those of the length that the newest has."""
    complete = [trial for trial in trials if trial.status is Status.COMPLETE]
    if not complete:
        return []
    newest = Length.of_record(max(complete, key=lambda trial: trial.number))
    return schedule.best_first([trial for trial in complete if newest.has(trial)], objective)


def with_rungs_late_enough(settings: Settings, train: int) -> Settings:
    """The settings with rungs that come before anything can be seen moved to where it can.

    Before some hundred examples most trials are at chance, and a rung would choose by luck: experiments/search_race.
    Where that is half of the shortest schedule or more, there is little to save and no rung at all.

    Args:
        settings: as asked for.
        train: training examples of a trial.
    """
    factor = min(possible(settings, "train.epochs_factor"))
    lengths = [settings.train.model_copy(update={"epochs": epochs}) for epochs in possible(settings, "train.epochs")]
    passes = min(parts.passes(settings.model_copy(update={"train": length}), train) for length in lengths)
    shortest = passes * factor * train
    first = math.ceil(100 * settings.search.rungs_after / shortest) / 100
    rungs = settings.search.rungs if first < LATEST else ()
    rungs = tuple(dict.fromkeys(max(rung, first) for rung in rungs))
    return settings.model_copy(update={"search": settings.search.model_copy(update={"rungs": rungs})})
