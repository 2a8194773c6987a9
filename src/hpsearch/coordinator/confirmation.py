"""The confirmation: the search's best points and the reference recipe are run again with fresh seeds."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator.phase import Fault, Fields, Found, Phase, Stored, StudyContext
from hpsearch.coordinator.race import Race, Rounds, optimism
from hpsearch.coordinator.search import Search
from hpsearch.decisions import plan, racing, schedule
from hpsearch.decisions.plan import Known
from hpsearch.decisions.racing import Entrant
from hpsearch.report import sections
from hpsearch.report.sections import Section, Told
from hpsearch.state.measured import Answers
from hpsearch.state.messages import TrialResult
from hpsearch.state.records import Status, TrialRecord, write_durably
from hpsearch.tasks import metrics

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

LEAST = 0.5  # of the time that is left: where that is not enough for both, the final model has no more


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
        super().__init__(study, study.settings, study.ref)
        given = study.settings.budget.confirmation
        self._search = search
        self._planner: Planner | None = None
        self._known: Known | None = None
        self._factor = 1.0  # times the usual length, of the finalists
        # Without hours these are numbers; with them a plan comes, unless the phase is only looked at.
        finalists = given.finalists if given.finalists is not None else plan.FINALISTS
        points = 0 if search.alone else finalists
        examples = min(given.examples or search.examples, self.ref.sizes["train"])
        self._take_up(points, given.seeds or plan.SEEDS, examples)
        if study.settings.budget.hours is None:  # with hours, what is run is known when it begins
            self._bring_back()

    def begin(self, planner: "Planner | None", before: Sequence[Phase]) -> None:
        """Run as many, on as many examples, as the time holds that is not the final model's."""
        self._planner = planner
        if planner is not None and not self._search.alone:
            self._known = known = planner.known([*before, self])
            left = max(0.0, planner.left - known.end)
            best = self._search.best_first()[: self.settings.budget.confirmation.finalists or plan.FINALISTS]
            self._factor = fmean(planner.factor(known, trial.params) for trial in best)
            seconds = max(left - self._final(known), LEAST * left)
            finalists, seeds, step = plan.of_confirmation(known, seconds, self._search.examples, self._factor)
            assert step is not None, "there is to be a finalist"
            if step.seconds > max(seconds, left if planner.finishing else 0.0):
                self._stay()
            else:
                there = [run.examples for run in self.trials.values() if run.examples is not None]
                if there and 2 * max(there) >= step.examples:  # what was run on nearly as many is not run again
                    step = known.race(finalists, seeds, max(there), self._factor)
                self._take_up(*self._no_fewer(finalists, seeds, step.examples), step.examples)
                planner.record(self, known, {self.name: step})
            self._bring_back()

    def _bring_back(self) -> None:
        """Have best runs without a model run once more: it was not needed then, or other seeds counted."""
        for best in self.kept_models():
            if not self.trial_folder(best.number).model.exists():
                self.trials[best.number] = replace(best, status=Status.RUNNING, told=False)  # it comes to the same

    def _no_fewer(self, finalists: int, seeds: int, examples: int) -> tuple[int, int]:
        """Finalists and seeds, no fewer than have been run on so many examples."""
        there = [run for run in self.trials.values() if run.examples == examples]
        points = {run.entrant for run in there} - {racing.REFERENCE}
        return max(finalists, len(points), int(bool(there))), max(seeds, len({run.seed for run in there}))

    def _take_up(self, finalists: int, seeds: int, examples: int) -> None:
        settings, best_first = self.settings, self._search.best_first()
        entrants = racing.entrants(best_first, space.reference(settings), finalists, settings.search.space)
        if self._planner is not None and len(entrants) == 1:
            seeds = 1  # whom nobody races against needs no more
        self._race(entrants if finalists else [], seeds, examples)

    def _stay(self) -> None:
        """With what has been confirmed, if anything has: the time holds no more."""
        complete = [run for run in self.trials.values() if run.status is Status.COMPLETE]
        sizes = {run.number: run.examples or self.ref.sizes["train"] for run in complete}
        most = max(sizes.values(), default=self._search.examples)
        there = [run for run in complete if sizes[run.number] == most]
        entrants = {run.entrant: Entrant(run.entrant, run.params) for run in there if run.entrant is not None}
        self._race(list(entrants.values()), max(1, len({run.seed for run in there})), most)

    def _race(self, entrants: list[Entrant], seeds: int, examples: int) -> None:
        self._rounds = Rounds(seeds, examples, examples == self.ref.sizes["train"], self.study.folds)
        self._examples = examples
        self.race = Race(entrants, self.settings, self.ref, self.trials, self.trial_folder, self._rounds)

    @property
    def examples(self) -> int:
        """That a run is trained on."""
        return self._examples

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        """Where there is to be a finalist."""
        return settings.budget.confirmation.finalists != 0

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """The study's, with a run's parameters and seed, and without rungs."""
        search = settings.search.model_copy(update={"rungs": ()})
        return space.apply(settings, trial.params).model_copy(update={"seed": trial.seed, "search": search})

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The best run of each entrant, of those on the most examples."""
        objective = metrics.OBJECTIVES[settings.task.metric]
        complete = [run for run in trials if run.status is Status.COMPLETE]
        most = max((run.examples for run in complete if run.examples is not None), default=None)
        runs = [run for run in complete if run.examples in (most, None)]  # None: all, and none has more
        names = dict.fromkeys(run.entrant for run in runs)
        best = (schedule.best_first([run for run in runs if run.entrant == name], objective)[:1] for name in names)
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
    def introduction(self) -> str | None:
        """Who is run on what."""
        names, seeds = [one.name for one in self.race.entrants], len(self.race.seeds)
        if not names:
            return None
        return (
            f"confirmation: {', '.join(names)}, each with up to {seeds} fresh seeds "
            f"on {self._examples:,} training examples (the search had {self._search.examples:,})"
        )

    def done(self) -> bool:
        """Whether nothing is left to be run, within the time there is."""
        running = any(trial.status is Status.RUNNING for trial in self.trials.values())
        return not running and self.next(self.hours) is None

    def next(self, hours: float) -> TrialRecord | None:
        """The next run, round by round; the first round is run whatever the time."""
        begun = {(run.entrant, run.seed): run for run in self.trials.values() if self._counts(run)}
        out = self.race.out()
        for done, seed in enumerate(self.race.seeds):
            due = [one for one in self.race.entrants if out.get(one.name, len(self.race.seeds)) > done]
            if done and not self._holds(sum((one.name, seed) not in begun for one in due)):
                return None
            for entrant in due:
                if (entrant.name, seed) not in begun:
                    number = max(self.trials, default=-1) + 1
                    return TrialRecord(
                        number=number,
                        params=entrant.params,
                        status=Status.RUNNING,
                        entrant=entrant.name,
                        seed=seed,
                        examples=self._examples,
                        fold=self._rounds.fold(done),
                    )
            if any(not begun[entrant.name, seed].status.final for entrant in due):
                return None  # who loses this round is not known yet
        return None

    def _counts(self, run: TrialRecord) -> bool:
        """Whether it need not be run again: one that was cut off is."""
        return self.race.has(run) and run.status is not Status.PRUNED

    def _holds(self, runs: int) -> bool:
        """Whether the time holds so many more runs, beside the final model."""
        if self._planner is None or self._known is None:
            return True
        known = self._planner.known([self._search, self])
        there = self._planner.left - known.end - self._final(known)
        return known.step(runs, self._examples, max(1.0, self._factor)).seconds <= there

    def _final(self, known: Known) -> float:
        """Seconds of the final model, if there is to be one."""
        return plan.of_final(known, math.inf, self._factor).seconds if self.settings.budget.final else 0.0

    def over(self, hours: float) -> str | None:
        """Once all time is."""
        if self._planner is None or not self._planner.over or not self.race.entrants:
            return None
        return f"budget.hours={self._planner.hours:.3g} are over; no run goes on"

    def closing(self) -> list[TrialRecord]:
        """A run that was cut off ends where it is."""
        return [replace(one, status=Status.PRUNED) for one in self.trials.values() if not one.status.final]

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
        best = self._search.best_first()[0]
        return {
            "confirmation": tuple(self.race.confirmed(standing) for standing in standings),
            "optimism": optimism(best, standings, self.race.objective),
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
        """The best run of the race's winner, beside the reference recipe's; the search's best trial if none was run.

        Raises:
            NoResultError: all failed.
        """
        if not any(self.race.complete(one.name) for one in self.race.entrants) and not self._failed():
            return self._search.found()
        name = self.race.winner().entrant.name
        best, other = self.race.best_run(name), self.race.best_run(racing.REFERENCE)
        assert best is not None, "a winner has a complete run"
        if name == racing.REFERENCE:
            other = None
        where = [self.study.folder.inside(self.trial_folder(run.number)) for run in (best, other) if run is not None]
        return Found(best, where[0], other, where[1] if other is not None else None, self.race.corrected())

    def _failed(self) -> bool:
        return any(run.status is Status.FAILED for run in self.trials.values() if self.race.has(run))
