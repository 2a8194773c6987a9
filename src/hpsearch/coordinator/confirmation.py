"""The confirmation: the search's best points and the reference recipe are run again with fresh seeds."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator.phase import Fault, Fields, Found, Phase, Stored, StudyContext
from hpsearch.coordinator.race import Race, optimism
from hpsearch.coordinator.search import Search
from hpsearch.decisions import racing, schedule
from hpsearch.report import sections
from hpsearch.report.sections import Section, Told
from hpsearch.state.measured import Answers
from hpsearch.state.messages import TrialResult
from hpsearch.state.records import Status, TrialRecord, write_durably
from hpsearch.tasks import metrics
from hpsearch.training import data


def settings_for(settings: Settings) -> Settings:
    """What confirmation runs are trained with, apart from parameters and seed: perhaps more examples, no rungs."""
    examples = settings.budget.train_examples
    if examples is not None:
        examples = max(1, round(examples * settings.budget.confirmation.train_factor))
    budget = settings.budget.model_copy(update={"train_examples": examples})
    search = settings.search.model_copy(update={"rungs": ()})
    return settings.model_copy(update={"budget": budget, "search": search})


class Confirmation(Phase):
    """The race of a study's entrants."""

    name: ClassVar[str] = "confirmation"
    noun: ClassVar[str] = "run"
    place: ClassVar[str] = "confirmation"
    tag: ClassVar[str] = "hpsearch.confirmation"
    left_out: ClassVar[str] = "budget.confirmation.finalists=0"

    def __init__(self, study: StudyContext, search: Search) -> None:
        """Take up what there is.

        Args:
            study: that it is a phase of.
            search: says who is run.
        """
        settings = settings_for(study.settings)
        super().__init__(study, settings, data.prepare(study.corpus, settings, study.home))
        finalists, best_first = settings.budget.confirmation.finalists, search.best_first()
        entrants = racing.entrants(best_first, space.reference(study.settings), finalists)
        self.race = Race(entrants, self.settings, self.ref, self.trials, self.trial_folder)
        self._hours_before, self._examples_before = search.hours, search.ref.sizes["train"]
        self._best = best_first[0]
        for best in self.kept_models():
            if not self.trial_folder(best.number).model.exists():
                # Its model was not needed then, or other seeds counted. Run once more, it comes to the same.
                self.trials[best.number] = replace(best, status=Status.RUNNING, told=False)

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        """Where there is to be a finalist."""
        return settings.budget.confirmation.finalists > 0

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """The study's, with a run's parameters and seed."""
        return space.apply(settings_for(settings), trial.params).model_copy(update={"seed": trial.seed})

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The best run of each entrant."""
        names, objective = dict.fromkeys(run.entrant for run in trials), metrics.OBJECTIVES[settings.task.metric]
        best = (schedule.best_first([run for run in trials if run.entrant == name], objective)[:1] for name in names)
        return [run for found in best for run in found]

    @classmethod
    def faults(cls, stored: Stored) -> Iterator[Fault]:
        """Complete runs without their answers."""
        for number, run in stored.records.items():
            if run.status is Status.COMPLETE and not stored.folder.trial(cls.place, number).answers.exists():
                yield Fault(f"run {number} is complete, and what its model said on validation is missing")

    @classmethod
    def open(cls, study: StudyContext, before: Sequence[Phase]) -> "Confirmation":
        """Of the best points of the search."""
        [search] = [phase for phase in before if isinstance(phase, Search)]
        return cls(study, search)

    @property
    def introduction(self) -> str:
        """Who is run on what."""
        names, seeds = [one.name for one in self.race.entrants], len(self.race.seeds)
        return (
            f"confirmation: {', '.join(names)}, each with up to {seeds} fresh seeds "
            f"on {self.ref.sizes['train']:,} training examples (the search had {self._examples_before:,})"
        )

    def done(self) -> bool:
        """Whether nothing is left to be run, within the time there is."""
        running = any(trial.status is Status.RUNNING for trial in self.trials.values())
        return not running and self.next(self.hours) is None

    def next(self, hours: float) -> TrialRecord | None:
        """The next run, round by round; the first round is run whatever the time."""
        begun = {(trial.entrant, trial.seed): trial for trial in self.trials.values()}
        out = self.race.out()
        for done, seed in enumerate(self.race.seeds):
            if done and self._spent(hours):
                return None
            due = [one for one in self.race.entrants if out.get(one.name, len(self.race.seeds)) > done]
            for entrant in due:
                if (entrant.name, seed) not in begun:
                    number = max(self.trials, default=-1) + 1
                    return TrialRecord(number, entrant.params, Status.RUNNING, entrant=entrant.name, seed=seed)
            if any(not begun[entrant.name, seed].status.final for entrant in due):
                return None  # who loses this round is not known yet
        return None

    def _spent(self, hours: float) -> bool:
        limit = self.settings.budget.max_hours
        return limit is not None and self._hours_before + hours >= limit

    def answered(self, result: TrialResult) -> None:
        """A complete run's answers are on disk before its record says that it is complete."""
        if result.status is Status.COMPLETE:
            kept = {"predictions": result.predictions, "likelihoods": result.likelihoods}
            write_durably(self.trial_folder(result.number).answers, json.dumps(kept))

    def kept_models(self) -> list[TrialRecord]:
        """The best run of each entrant, by the seeds that count."""
        best = (self.race.best_run(one.name) for one in self.race.entrants)
        return [run for run in best if run is not None]

    def said(self) -> Iterator[tuple[TrialRecord, Answers]]:
        """Of every complete run that counts."""
        for one in self.race.entrants:
            for run in self.race.complete(one.name):
                yield run, self.race.answers(run.number)

    def fields(self) -> Fields:
        """What each entrant came to, and what the search's best score was worth."""
        standings = self.race.standings()
        return {
            "confirmation": tuple(self.race.confirmed(standing) for standing in standings),
            "optimism": optimism(self._best, standings, self.race.objective),
        }

    @classmethod
    def section(cls, told: Told) -> Section | None:
        """The race, by entrant."""
        return sections.race(told) if told.summary.confirmation else None

    def planned(self) -> float:
        """As many as the race still allows."""
        out = self.race.out()
        return sum(out.get(one.name, len(self.race.seeds)) for one in self.race.entrants)

    def found(self) -> Found:
        """The best run of the race's winner, beside the reference recipe's. Raises NoResultError."""
        name = self.race.winner().entrant.name
        best, other = self.race.best_run(name), self.race.best_run(racing.REFERENCE)
        assert best is not None, "a winner has a complete run"
        if name == racing.REFERENCE:
            other = None
        where = [self.study.folder.inside(self.trial_folder(run.number)) for run in (best, other) if run is not None]
        return Found(best, where[0], other, where[1] if other is not None else None, self.race.corrected())
