"""The confirmation: the search's best points and the reference recipe are run again with fresh seeds."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from hpsearch import formats
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
from hpsearch.tasks.objectives import OBJECTIVES

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

LEAST = 0.5  # least share of the time left for the confirmation, where the final model needs more than the rest


class Confirmation(Phase):
    """The race between a study's entrants: its finalists and the reference recipe."""

    name: ClassVar[str] = "confirmation"
    noun: ClassVar[str] = "run"
    place: ClassVar[str] = "confirmation"
    tag: ClassVar[str] = "hpsearch.confirmation"
    left_out: ClassVar[str] = "budget.confirmation.finalists=0"

    def __init__(self, study: StudyContext, search: Search) -> None:
        """Continue from the runs in the state folder.

        Args:
            study: the study of this phase.
            search: the search whose best points are run.
        """
        super().__init__(study, study.settings, study.ref)
        given = study.settings.budget.confirmation
        self._search = search
        self._planner: Planner | None = None
        self._known: Known | None = None
        self._factor = 1.0  # mean length of the finalists, in usual lengths
        # Without hours the settings hold numbers. With hours, `begin` replaces these values by a plan.
        finalists = given.finalists if given.finalists is not None else plan.FINALISTS
        points = 0 if search.alone else finalists
        examples = min(given.examples or search.examples, self.ref.sizes["train"])
        self._take_up(points, given.seeds or plan.SEEDS, examples)
        if study.settings.budget.hours is None:  # with hours, `begin` decides what is run
            self._bring_back()

    def begin(self, planner: "Planner | None", before: Sequence[Phase]) -> None:
        """Plan as many runs, on as many examples, as fit into the time that the final model leaves."""
        self._planner = planner
        if planner is not None and not self._search.alone:
            self._known = known = planner.known([*before, self])
            left = max(0.0, planner.left - known.end)
            best = self._search.best_first()[: self.settings.budget.confirmation.finalists or plan.FINALISTS]
            self._factor = fmean(planner.factor(known, trial.params) for trial in best)
            seconds = max(left - self._final(known), LEAST * left)
            finalists, seeds, step = plan.of_confirmation(known, seconds, self._search.examples, self._factor)
            assert step is not None, "there is to be a finalist"
            if step.seconds > max(seconds, left if self.study.finishing else 0.0):
                self._stay()
            else:
                there = [run.examples for run in self.trials.values() if run.examples is not None]
                if there and 2 * max(there) >= step.examples:  # runs on half as many or more are not repeated
                    step = known.race(finalists, seeds, max(there), self._factor)
                self._take_up(*self._no_fewer(finalists, seeds, step.examples), step.examples)
                planner.record(self, known, {self.name: step})
            self._bring_back()

    def _bring_back(self) -> None:
        """Repeat the best runs without a model: it was not needed before, or other seeds counted then."""
        for best in self.kept_models():
            if not self.trial_folder(best.number).model.exists():
                self.trials[best.number] = replace(best, status=Status.RUNNING, told=False)  # with the same result

    def _no_fewer(self, finalists: int, seeds: int, examples: int) -> tuple[int, int]:
        """Return the numbers of finalists and seeds, no fewer than were already run on this number of examples."""
        there = [run for run in self.trials.values() if run.examples == examples]
        points = {run.entrant for run in there} - {racing.REFERENCE}
        return max(finalists, len(points), int(bool(there))), max(seeds, len({run.seed for run in there}))

    def _take_up(self, finalists: int, seeds: int, examples: int) -> None:
        settings, best_first = self.settings, self._search.best_first()
        entrants = racing.entrants(best_first, space.reference(settings), finalists, settings.search.space)
        if self._planner is not None and len(entrants) == 1:
            seeds = 1  # a single entrant needs no more
        self._race(entrants if finalists else [], seeds, examples)

    def _stay(self) -> None:
        """Race only the entrants that have complete runs, if any do: the time holds no more runs."""
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
        """Number of training examples of a run."""
        return self._examples

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        """Return whether the study has finalists to confirm."""
        return settings.budget.confirmation.finalists != 0

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """Return the study's settings with a run's parameters and seed, and without rungs."""
        search = settings.search.model_copy(update={"rungs": ()})
        return space.apply(settings, trial.params).model_copy(update={"seed": trial.seed, "search": search})

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the best complete run of each entrant, among the runs on the most examples."""
        objective = OBJECTIVES[settings.task.metric]
        complete = [run for run in trials if run.status is Status.COMPLETE]
        most = max((run.examples for run in complete if run.examples is not None), default=None)
        runs = [run for run in complete if run.examples in (most, None)]  # None: all examples, and no run has more
        names = dict.fromkeys(run.entrant for run in runs)
        best = (schedule.best_first([run for run in runs if run.entrant == name], objective)[:1] for name in names)
        return [run for found in best for run in found]

    @classmethod
    def faults(cls, stored: Stored) -> Iterator[Fault]:
        """Yield a fault for each complete run without its answers on validation."""
        for number, run in stored.records.items():
            if run.status is Status.COMPLETE and not stored.folder.trial(cls.place, number).answers.exists():
                yield Fault(f"run {number} is complete, and its answers on validation are missing")

    @classmethod
    def open(cls, study: StudyContext, before: Sequence[Phase]) -> "Confirmation":
        """Return the confirmation of the search's best points."""
        [search] = [phase for phase in before if isinstance(phase, Search)]
        return cls(study, search)

    @property
    def introduction(self) -> str | None:
        """Message that names entrants, seeds and training examples; None without entrants."""
        names, seeds = [one.name for one in self.race.entrants], len(self.race.seeds)
        if not names:
            return None
        return (
            f"confirmation: {', '.join(names)}, each with up to {seeds} fresh seeds "
            f"on {self._examples:,} training examples (the search had {self._search.examples:,})"
        )

    def done(self) -> bool:
        """Return whether nothing is left to run within the time."""
        running = any(trial.status is Status.RUNNING for trial in self.trials.values())
        return not running and self.next(self.hours) is None

    def next(self, hours: float) -> TrialRecord | None:
        """Return the next run, round by round; None for now. The first round is run however little time is left."""
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
                return None  # the losers of this round are not known yet
        return None

    def _counts(self, run: TrialRecord) -> bool:
        """Return whether a run belongs to the race and need not be run again; a run that was cut off must be."""
        return self.race.has(run) and run.status is not Status.PRUNED

    def _holds(self, runs: int) -> bool:
        """Return whether the time holds this number of further runs beside the final model."""
        if self._planner is None or self._known is None:
            return True
        known = self._planner.known([self._search, self])
        there = self._planner.left - known.end - self._final(known)
        return known.step(runs, self._examples, max(1.0, self._factor)).seconds <= there

    def _final(self, known: Known) -> float:
        """Return the seconds that the final model needs; 0 if the budget has none."""
        return plan.of_final(known, math.inf, self._factor).seconds if self.settings.budget.final else 0.0

    def over(self, hours: float) -> str | None:
        """Return why no run goes on, once the study's hours are over; None otherwise."""
        if self._planner is None or not self._planner.over or not self.race.entrants:
            return None
        return f"the budget of {formats.duration(self._planner.hours * 3600)} is over; no run goes on"

    def closing(self) -> list[TrialRecord]:
        """Return the runs that have not ended, as pruned."""
        return [replace(one, status=Status.PRUNED) for one in self.trials.values() if not one.status.final]

    def answered(self, result: TrialResult) -> None:
        """Write a complete run's answers to disk, before its record says that it is complete."""
        if result.status is Status.COMPLETE:
            kept = {"predictions": result.predictions, "likelihoods": result.likelihoods}
            write_durably(self.trial_folder(result.number).answers, json.dumps(kept))

    def kept_models(self) -> list[TrialRecord]:
        """Return the best run of each entrant, among the seeds of the race."""
        best = (self.race.best_run(one.name) for one in self.race.entrants)
        return [run for run in best if run is not None]

    def said(self) -> Iterator[tuple[TrialRecord, Answers]]:
        """Yield every complete run of the race, with its answers on validation."""
        for one in self.race.entrants:
            for run in self.race.complete(one.name):
                yield run, self.race.answers(run.number)

    def fields(self) -> Fields:
        """Return the result of each entrant, and how optimistic the search's best score was."""
        standings = self.race.standings()
        best = self._search.best_first()[0]
        return {
            "confirmation": tuple(self.race.confirmed(standing) for standing in standings),
            "optimism": optimism(best, standings, self.race.objective),
        }

    @classmethod
    def section(cls, told: Told) -> Section | None:
        """Return the race by entrant; None where the summary has no confirmation."""
        return sections.race(told) if told.summary.confirmation else None

    def planned(self) -> float:
        """Return the number of runs that the race allows in all; an entrant that is out gets no more."""
        out = self.race.out()
        return sum(out.get(one.name, len(self.race.seeds)) for one in self.race.entrants)

    def found(self) -> Found:
        """Return the best run of the race's winner, beside the best run of the reference recipe.

        If no run is complete and none failed, the result of the search is returned.

        Raises:
            NoResultError: no run is complete, and at least one failed.
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
