"""The search: Optuna draws trials, they pause at rungs, and the best share of them continues."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hpsearch import formats
from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator.few import Few, reference_of
from hpsearch.coordinator.lengths import Length, best_of_last_length, rungs
from hpsearch.coordinator.phase import Fault, Fields, Found, Phase, Stored, StudyContext
from hpsearch.coordinator.study import STATES, Study
from hpsearch.coordinator.wanted import Wanted
from hpsearch.decisions import plan, schedule
from hpsearch.errors import NoResultError, OutOfReachError, RequestError
from hpsearch.report import sections
from hpsearch.report.sections import Section, Told
from hpsearch.state.messages import Decision, Progress
from hpsearch.state.outcome import Best, Counts, PhaseOutcome
from hpsearch.state.records import Status, TrialRecord
from hpsearch.state.steering import Asked
from hpsearch.tasks.objectives import OBJECTIVES

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

MORE = 2  # multiple of the planned trials that may begin: the machine may become faster


class Search(Phase):
    """The search of one study, new or continued."""

    name: ClassVar[str] = "search"
    noun: ClassVar[str] = "trial"
    place: ClassVar[str] = "trials"
    tag: ClassVar[str] = "hpsearch.trial"
    skips: ClassVar[bool] = True

    def __init__(self, study: StudyContext) -> None:
        """Load the trials from the state folder and Optuna, and tell Optuna what it does not know yet.

        Raises:
            RequestError: state folder and Optuna belong to different studies: one lacks trials that the other has.
        """
        super().__init__(study, study.settings, study.ref)
        known = {trial.number: trial for trial in study.optuna.known()}
        ended = {number for number, trial in known.items() if trial.status.final}
        for numbers, place in (
            (ended - self.trials.keys(), "the study database"),
            (self.trials.keys() - known.keys(), f"the state folder {study.folder.path}"),
        ):
            if numbers:
                raise RequestError(
                    f"study {study.folder.name}: {place} alone knows of trials {sorted(numbers)}; give HPSEARCH_HOME "
                    "and storage.uri that belong together, or STUDY=<another name>"
                )
        self._drawn = set(known.keys() - self.trials.keys())  # a crash came before their records were written
        self.trials = {number: self.trials.get(number, trial) for number, trial in known.items()}
        self._wanted = Wanted(study.folder, self.trials.values())
        self.trials |= {number: self._wanted.begun(self.trials[number]) for number in self._drawn}
        for trial in self.trials.values():
            study.optuna.tell(trial)
        budget = study.settings.budget
        self._planner: Planner | None = None
        self._few: Few | None = None  # None: there is a search
        self._ends_at: float | None = None  # hours of the phase; None: no limit
        asked = self._part(budget.search_examples) if budget.search_examples is not None else None
        self._take_up(Length(asked, None), budget.max_trials or 1)

    def begin(self, planner: "Planner | None", before: Sequence[Phase]) -> None:
        """Take the time that the plan gives the search. New trials get as many examples as the trials so far."""
        if planner is None:
            return
        self._planner, self._few = planner, None
        known = planner.known([*before, self])
        recorded = [trial for number, trial in self.trials.items() if number not in self._drawn]
        begun = [trial for trial in recorded if trial.status is not Status.FAILED]
        searched = [trial for trial in begun if trial.epochs is None]
        if searched:  # it keeps their number of examples, however few more trials the hours hold
            examples = searched[-1].examples or known.sizes.train
            known = replace(known, asked=replace(known.asked, search_examples=examples))
        whole, until = plan.of_all(known, planner.left), planner.until(self)
        if not self.trials:
            planner.check_fits(whole, known)
        if until is None and searched and whole.alone:
            until = self.hours
        # A few fine-tunes begun with this budget continue as such, however little time an interruption has left.
        if not searched and (whole.alone or (planner.begun(self) and bool(begun))):
            self._few = Few(self.study, planner, known, len(begun))
        if until is None:
            search = self._few.step if self._few is not None else whole.search
            if self.settings.budget.max_trials is not None:  # trials begin as long as the hours hold them
                spare = (1 - plan.RESERVE) * planner.left - whole.seconds
                search = replace(search, seconds=search.seconds + max(0.0, spare))
            steps = {"search": search, "confirmation": whole.confirmation, "final": whole.final}
            planner.record(self, known, steps, whole.alone)
            until = self.hours if whole.alone else self.hours + search.seconds / 3600
        if self._few is not None:
            length = self._few.length
            trials = plan.MOST_ALONE * self.study.workers
        else:
            length = Length(searched[-1].examples if searched else self._part(whole.search.examples), None)
            trials = max(MORE * whole.search.runs, len(searched) + whole.search.runs)
        self._ends_at = until
        self._take_up(length, self.settings.budget.max_trials or trials)
        if self._few is not None:
            self.trials |= {number: self._few.seeded(self.trials[number]) for number in self._drawn}

    def _take_up(self, length: Length, trials: int) -> None:
        self._length, self.plan = length, make_plan(self.settings, trials)
        for number in self._drawn:
            trial = self.trials[number]
            if not trial.status.final:
                self.trials[number] = length.of(trial)

    def _part(self, examples: int) -> int | None:
        """Return the number of examples as a record has it; None: all."""
        return examples if examples < self.ref.sizes["train"] else None

    def _comparable(self) -> list[TrialRecord]:
        """Return the trials of the length that the search has now."""
        return [trial for trial in self.trials.values() if self._length.has(trial)]

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        """Return True, because every study has a search."""
        return True

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """Return the study's settings with the trial's parameters, and with its seed where it has its own."""
        own = space.apply(settings, trial.params)
        return own if trial.seed is None else own.model_copy(update={"seed": trial.seed})

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the best complete trial and, where the hours held no search, the best of the reference recipe."""
        best = best_of_last_length(trials, OBJECTIVES[settings.task.metric])
        beside = reference_of(best, space.reference(settings))
        return best[:1] if beside is None else [best[0], beside]

    @classmethod
    def faults(cls, stored: Stored) -> Iterator[Fault]:
        """Yield faults: too many trials, a missing best model, and differences from Optuna."""
        records, settings = stored.records, stored.settings
        most = settings.budget.max_trials
        if most is not None and len(records) > most and settings.budget.hours is None:
            yield Fault(f"there are {len(records)} trials, and budget.max_trials is {most}")
        if not stored.published and not stored.later:
            for kept in cls.keepers(settings, list(records.values())):
                if not stored.folder.trial(cls.place, kept.number).weights.exists():
                    yield Fault(f"the model that is kept, of trial {kept.number}, is missing")
        yield from _of_optuna(records, stored.optuna)

    @classmethod
    def open(cls, study: StudyContext, before: Sequence[Phase]) -> "Search":
        """Open the search. Raises RequestError if state folder and study database do not belong together."""
        return cls(study)

    @property
    def introduction(self) -> str | None:
        """Message on where trials are compared, or why there is no search; None where nothing is left to run."""
        if self._few is not None:
            return self._few.introduction
        return rungs(self.settings) if self.settings.search.space and not self.done() else None

    @property
    def total(self) -> int | None:
        """Most trials that the search can have; None where the time alone limits them."""
        return self.plan.max_trials if self.settings.budget.hours is None else self.settings.budget.max_trials

    @property
    def examples(self) -> int:
        """Number of training examples of a trial."""
        best = self.best_first()
        examples = best[0].examples if best else self._length.examples
        return examples if examples is not None else self.ref.sizes["train"]

    @property
    def alone(self) -> bool:
        """Whether nothing was searched, because the time held only a few fine-tunes."""
        best = self.best_first()
        return bool(best) and best[0].epochs is not None

    def best_first(self) -> list[TrialRecord]:
        """Return the complete trials that can be compared, best first."""
        return best_of_last_length(self.trials.values(), self.plan.objective)

    def next(self, hours: float) -> TrialRecord | None:
        """Return a new trial, or the best trial that waits at a rung and may pass."""
        if self._few is not None:
            return self._next_of_few(self._few)
        action = self._action(hours)
        if isinstance(action, schedule.Start):
            points = self._wanted.points if self._comparable() else []  # the reference recipe comes first
            point = points[0] if points else None
            trial = self.study.optuna.ask(len(self.trials), self._comparable(), point)
            return self._wanted.begun(self._length.of(trial))
        return self.trials[action.number] if isinstance(action, schedule.Resume) else None

    def _next_of_few(self, few: Few) -> TrialRecord | None:
        """Return the reference recipe, then points near it, as long as the time holds one more."""
        if not few.plan_next(self._comparable(), self, self.plan.objective, self._wanted.points):
            return None
        self._length = few.length
        trial = self.study.optuna.ask(len(self.trials), [], few.point)
        return self._wanted.begun(few.seeded(few.length.of(trial)))

    def take(self, asked: Asked) -> str | None:
        """See Phase."""
        if any(trial.command == asked.name for trial in self.trials.values()):
            return None  # its trial has begun, and a crash came before the reply
        if self.study.finishing:
            return "the study is to finish, and begins no trial"
        most = self.plan.max_trials if self._few is None else None
        return self._wanted.take(asked, self.settings, self._comparable(), most)

    def extend(self, hours: float) -> str | None:
        """See Phase."""
        if self._planner is None:
            return "the study has no hours, it runs all its trials; budget.max_trials=<more> continues it"
        self._planner.extend(hours)
        self.begin(self._planner, ())
        return None

    def over(self, hours: float) -> str | None:
        """Return why the search ends: its own time is spent and it has a result, or all time is spent; else None."""
        if self.study.finishing and self.best_first():
            return "the study is to finish; no trial goes on"
        if self._planner is None or self._ends_at is None:
            return None
        if self._planner.late if self._few is not None else self._planner.over:
            return f"the budget of {formats.duration(self._planner.hours * 3600)} is over; no trial goes on"
        if hours >= self._ends_at and self._few is None and self.best_first():
            return "the search has had its part of budget.hours; no trial goes on"
        return None

    def decide(self, number: int) -> Decision:
        """Continue a trial that passes whatever is to come, stop one that can't pass, and let any other one wait."""
        trials = self._comparable()
        if number in schedule.losers(self.plan, trials):
            return Decision.STOP
        all_begun = len(trials) >= self.plan.max_trials
        if all_begun and schedule.next_action(self.plan, trials, may_start=False) == schedule.Resume(number):
            return Decision.CONTINUE
        return Decision.PAUSE

    def retime(self, progress: Progress) -> int | None:
        """Return new total steps where one of a few fine-tunes would end too late or too early."""
        trial = self.trials[progress.number]
        if self._few is None or trial.epochs is None:
            return None
        return self._few.retime(progress, trial, self.settings_of(trial).train.batch_size)

    def recorded(self, before: TrialRecord | None, trial: TrialRecord) -> None:
        """Tell Optuna of a trial. Once Optuna does not answer, the next start tells it."""
        self._drawn.discard(trial.number)  # it has its record now
        ended = trial.status.final and (before is None or not before.status.final)
        optuna = self.study.optuna
        if optuna.away or not (ended or (before is not None and trial.rungs != before.rungs)):
            return
        try:
            optuna.tell(trial)
        except OutOfReachError:
            if not optuna.hurry:  # an interrupted command saves what it can
                raise

    def beaten(self) -> list[TrialRecord]:
        """Return the paused trials that can't pass their rung, as pruned ones."""
        lost = schedule.losers(self.plan, self._comparable())
        return [replace(self.trials[number], status=Status.PRUNED) for number in lost]

    def closing(self) -> list[TrialRecord]:
        """Return all unfinished trials as pruned ones. Raises NoResultError if no trial is complete."""
        self.found()
        return [replace(one, status=Status.PRUNED) for one in self.trials.values() if not one.status.final]

    def done(self) -> bool:
        """Return whether all trials have ended and no more may start."""
        ended = all(trial.status.final for trial in self.trials.values())
        return ended and isinstance(self._action(self.hours), schedule.Done)

    def planned(self) -> float:
        """Return the planned training in whole trials, by the shares that pass each rung."""
        if self._few is not None:
            return 0.0  # the time decides about further runs
        trials = self._comparable()
        most = self.plan.max_trials if self._planner is None else len(trials)
        return schedule.share_to_train(self.plan, max(most, len(trials)))

    def found(self) -> Found:
        """Return the best trial and, where the hours held no search, the best of the reference recipe."""
        complete = self.best_first()
        if not complete:
            raise NoResultError(self._no_result())
        best, beside = complete[0], reference_of(complete, space.reference(self.settings))
        where = self._inside(best)
        return Found(best, where, beside, self._inside(beside) if beside is not None else None, None)

    def _inside(self, trial: TrialRecord) -> str:
        return self.study.folder.inside(self.trial_folder(trial.number))

    def fields(self) -> Fields:
        """Return how the trials ended, which is the best, and what they show about the space."""
        trials, best = list(self.trials.values()), self.best_first()[0]
        assert best.score is not None, "a complete trial has its score"
        counts = Counter(trial.status for trial in trials)
        compared = [trial for trial in trials if Length.of_record(best).has(trial)]
        return {
            "trials": Counts(counts[Status.COMPLETE], counts[Status.PRUNED], counts[Status.FAILED]),
            "best": Best(best.number, best.params, best.score),
            "expected": tuple(schedule.expected(compared, self.plan.objective)),
            "importance": self.study.optuna.importance(compared),
        }

    def outcome(self, seconds: float) -> PhaseOutcome:
        """Return the result without trials. There may be thousands of them, and `trials.json` has them."""
        return replace(super().outcome(seconds), runs=())

    @classmethod
    def section(cls, told: Told) -> Section:
        """Return a section with all trials."""
        return sections.trials(told)

    def _action(self, hours: float) -> schedule.Action:
        trials = self._comparable()
        others = [trial for trial in self.trials.values() if not self._length.has(trial)]
        before = sum(sum(trial.seconds.values()) for trial in others) / 3600 / self.study.most_workers
        until = self._ends_at - before if self._ends_at is not None else None
        may_start = schedule.may_start(self.plan, trials, hours - before, until)
        enough = self.study.finishing and any(trial.status is not Status.FAILED for trial in trials)
        return schedule.next_action(self.plan, trials, may_start and not enough)

    def _no_result(self) -> str:
        """Return the message that no trial is complete, with the reasons of failed trials."""
        reasons = Counter(trial.reason for trial in self.trials.values() if trial.reason)
        said = "; ".join(f"{count} failed: {reason}" for reason, count in reasons.most_common(3))
        return (
            f"study {self.study.folder.name} has no complete trial: the budget ended first"
            + (f" ({said})" if said else "")
            + "; a larger budget (BUDGET=<more hours>, budget.max_trials) continues it"
        )


def _of_optuna(records: Mapping[int, TrialRecord], study: Study) -> Iterator[Fault]:
    """Yield the differences between Optuna's trials and the records."""
    known = {trial.number: trial for trial in study.optuna.get_trials(deepcopy=False)}
    for number, told in known.items():
        if told.state.is_finished() and number not in records:
            yield Fault(f"trial {number} is {told.state.name} in Optuna, and the state folder has no record of it")
    for number, record in records.items():
        frozen = known.get(number)
        if frozen is None:
            yield Fault(f"trial {number} is unknown to Optuna")
            continue
        if frozen.params != record.params:
            yield Fault(f"trial {number} has other parameters in Optuna: {frozen.params} for {record.params}")
        wanted = STATES[record.status] if record.status.final else None
        if frozen.state.is_finished():
            if frozen.state is not wanted:
                yield Fault(f"trial {number} is {frozen.state.name} in Optuna and {record.status} in the state folder")
            elif record.status is Status.COMPLETE and frozen.value != record.score:
                yield Fault(f"trial {number} has the value {frozen.value} in Optuna and {record.score} here")
        elif wanted is not None or frozen.intermediate_values != record.rungs:
            yield Fault(f"Optuna has not been told that trial {number} is {record.status}", partial(study.tell, record))


def make_plan(settings: Settings, trials: int) -> schedule.Plan:
    """Return the schedule's plan for `trials` trials. A grid has no more trials than points.

    At least as many trials are run to their end as the confirmation has places.
    """
    if settings.sampler.name == "GridSampler":
        points = 1
        for values in space.grid(settings.search.space).values():
            points *= len(values)
        trials = min(trials, points)
    finalists = settings.budget.confirmation.finalists
    at_least = max(1, finalists if finalists is not None else plan.FINALISTS)
    objective = OBJECTIVES[settings.task.metric]
    return schedule.Plan(trials, settings.search.rungs, settings.search.keep, at_least, objective)
