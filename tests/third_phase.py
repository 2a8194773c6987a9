"""A third phase of a study, as its developer would write it: the best point so far is run once more with a new seed."""

from collections.abc import Sequence
from typing import ClassVar

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator.phase import Found, Phase, StudyContext
from hpsearch.decisions import schedule
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES

SEED = 100


class Again(Phase):
    """One run."""

    name: ClassVar[str] = "again"
    noun: ClassVar[str] = "run"
    place: ClassVar[str] = "again"
    tag: ClassVar[str] = "hpsearch.again"

    def __init__(self, study: StudyContext, before: Found) -> None:
        search = study.settings.search.model_copy(update={"rungs": ()})
        super().__init__(study, study.settings.model_copy(update={"search": search}), study.ref)
        self.before = before

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        return True

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        search = settings.search.model_copy(update={"rungs": ()})
        return space.apply(settings, trial.params).model_copy(update={"seed": trial.seed, "search": search})

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        return schedule.best_first(trials, OBJECTIVES[settings.task.metric])[:1]

    @classmethod
    def open(cls, study: StudyContext, before: Sequence[Phase]) -> "Again":
        return cls(study, before[-1].found())

    def next(self, hours: float) -> TrialRecord | None:
        if self.trials:
            return None
        winner = self.before.winner
        entrant = winner.entrant or f"trial {winner.number}"
        return TrialRecord(0, winner.params, Status.RUNNING, entrant=entrant, seed=SEED)

    def done(self) -> bool:
        return bool(self.trials) and all(trial.status.final for trial in self.trials.values())

    def planned(self) -> float:
        return 1.0

    def found(self) -> Found:
        run = self.trials[0]
        place = self.study.folder.inside(self.trial_folder(run.number))
        return Found(run, place, self.before.reference, self.before.reference_folder, None)
