"""Which trials can be compared: those of as many training examples, and of a length that was chosen alike."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hpsearch.decisions import schedule
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.metrics import Objective


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
