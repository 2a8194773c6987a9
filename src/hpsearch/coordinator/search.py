"""The search: trials drawn by Optuna, paused at rungs, of which the best share goes on."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from hpsearch.config import space
from hpsearch.config.settings import Settings, possible
from hpsearch.coordinator.phase import Fault, Fields, Found, Phase, Stored, StudyContext
from hpsearch.coordinator.study import STATES, Study
from hpsearch.decisions import schedule
from hpsearch.errors import NoResultError, OutOfReachError, RequestError
from hpsearch.report import sections
from hpsearch.report.sections import Section, Told
from hpsearch.state.messages import Decision
from hpsearch.state.outcome import Best, Counts, PhaseOutcome
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks import metrics
from hpsearch.tasks.metrics import Objective

LATEST = 0.5  # share of a schedule; a first rung that would have to come then or later saves little


class Search(Phase):
    """One study's search, from the first trial or from wherever it was left."""

    name: ClassVar[str] = "search"
    noun: ClassVar[str] = "trial"
    place: ClassVar[str] = "trials"
    tag: ClassVar[str] = "hpsearch.trial"

    def __init__(self, study: StudyContext) -> None:
        """Take up what the state folder and Optuna remember; tell Optuna what it was not told.

        Raises:
            RequestError: they are not of one study: one has trials that the other has never heard of.
        """
        super().__init__(study, study.settings, study.ref)
        self.plan = make_plan(study.settings)
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
        self.trials = {number: self.trials.get(number, trial) for number, trial in known.items()}
        for trial in self.trials.values():
            study.optuna.tell(trial)

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        """Every study has one."""
        return True

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """The study's, with the trial's parameters."""
        return space.apply(settings, trial.params)

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The best complete one."""
        return schedule.best_first(trials, metrics.OBJECTIVES[settings.task.metric])[:1]

    @classmethod
    def faults(cls, stored: Stored) -> Iterator[Fault]:
        """Too many trials, a best model that is missing, and what Optuna says otherwise."""
        records, settings = stored.records, stored.settings
        if len(records) > settings.budget.max_trials:
            yield Fault(f"there are {len(records)} trials, and budget.max_trials is {settings.budget.max_trials}")
        if not stored.published and not stored.later:
            for best in cls.keepers(settings, list(records.values())):
                if not stored.folder.trial(cls.place, best.number).weights.exists():
                    yield Fault(f"the model of the best trial, {best.number}, is missing")
        yield from _of_optuna(records, stored.optuna)

    @classmethod
    def open(cls, study: StudyContext, before: Sequence[Phase]) -> "Search":
        """As far as it has come. Raises RequestError if state folder and study database do not belong together."""
        return cls(study)

    @property
    def total(self) -> int:
        """Trials, unless the time ends before."""
        return self.plan.max_trials

    def best_first(self) -> list[TrialRecord]:
        """Complete trials."""
        return schedule.best_first(self.trials.values(), self.plan.objective)

    @property
    def max_hours(self) -> float | None:
        """What the search may take; the rest is for the confirmation."""
        return search_hours(self.settings)

    def next(self, hours: float) -> TrialRecord | None:
        """A new trial, or the best that waits at a rung and may pass."""
        action = self._action(hours)
        if isinstance(action, schedule.Start):
            return self.study.optuna.ask(list(self.trials.values()))
        return self.trials[action.number] if isinstance(action, schedule.Resume) else None

    def over(self, hours: float) -> str | None:
        """Once the time is spent."""
        if self.max_hours is None or hours < self.max_hours:
            return None
        kept = " but for the confirmation" if self.max_hours != self.settings.budget.max_hours else ""
        return f"budget.max_hours={self.settings.budget.max_hours} is spent{kept}; no trial goes on"

    def decide(self, number: int) -> Decision:
        """At once where it passes whatever is still to come, never where it can't, else it waits for the others."""
        trials = list(self.trials.values())
        if number in schedule.losers(self.plan, trials):
            return Decision.STOP
        all_begun = len(trials) >= self.plan.max_trials
        if all_begun and schedule.next_action(self.plan, trials, may_start=False) == schedule.Resume(number):
            return Decision.CONTINUE
        return Decision.PAUSE

    def recorded(self, before: TrialRecord | None, trial: TrialRecord) -> None:
        """Tell Optuna. Once it does not answer, the next start tells it."""
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
        """Paused trials that can't be among those that pass."""
        lost = schedule.losers(self.plan, list(self.trials.values()))
        return [replace(self.trials[number], status=Status.PRUNED) for number in lost]

    def closing(self) -> list[TrialRecord]:
        """What is paused stays where it is. Raises NoResultError if no trial is complete."""
        self.found()
        return [replace(one, status=Status.PRUNED) for one in self.trials.values() if not one.status.final]

    def done(self) -> bool:
        """Whether all trials have ended, and no more may start."""
        ended = all(trial.status.final for trial in self.trials.values())
        return ended and isinstance(self._action(self.hours), schedule.Done)

    def planned(self) -> float:
        """By the shares that pass each rung."""
        return schedule.share_to_train(self.plan, max(self.plan.max_trials, len(self.trials)))

    def found(self) -> Found:
        """The best trial; nothing is compared with it."""
        complete = self.best_first()
        if not complete:
            raise NoResultError(self._no_result())
        best = complete[0]
        return Found(best, self.study.folder.inside(self.trial_folder(best.number)), None, None, None)

    def fields(self) -> Fields:
        """How its trials ended, which is the best, and what they say of the space."""
        trials, best = list(self.trials.values()), self.best_first()[0]
        assert best.score is not None, "a complete trial has its score"
        counts = Counter(trial.status for trial in trials)
        return {
            "trials": Counts(counts[Status.COMPLETE], counts[Status.PRUNED], counts[Status.FAILED]),
            "best": Best(best.number, best.params, best.score),
            "expected": tuple(expected(trials, self.plan.objective)),
            "importance": self.study.optuna.importance(trials),
        }

    def outcome(self, seconds: float) -> PhaseOutcome:
        """Without its trials, of which there may be thousands: `trials.json` has them."""
        return replace(super().outcome(seconds), runs=())

    @classmethod
    def section(cls, told: Told) -> Section:
        """All trials."""
        return sections.trials(told)

    def _action(self, hours: float) -> schedule.Action:
        trials = list(self.trials.values())
        return schedule.next_action(self.plan, trials, schedule.may_start(self.plan, trials, hours, self.max_hours))

    def _no_result(self) -> str:
        """Why there is no complete trial, with the reasons of the failed ones."""
        reasons = Counter(trial.reason for trial in self.trials.values() if trial.reason)
        said = "; ".join(f"{count} failed: {reason}" for reason, count in reasons.most_common(3))
        return (
            f"study {self.study.folder.name} has no complete trial: the budget ended first"
            + (f" ({said})" if said else "")
            + "; a larger budget (budget.max_hours, budget.max_trials) continues it"
        )


def _of_optuna(records: Mapping[int, TrialRecord], study: Study) -> Iterator[Fault]:
    """Where Optuna's trials and the records differ."""
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


def expected(trials: Sequence[TrialRecord], objective: Objective) -> list[float]:
    """Expected best validation score of 1, 2, ... trials drawn from these (Dodge et al. 2019, arXiv 1909.03004).

    Each trial counts with its last score, of a rung if it was stopped there.
    """
    scores = sorted(objective.worth(t.score) for t in trials if t.score is not None)
    total = len(scores)
    found = []
    for k in range(1, total + 1):
        mean = sum(s * (((i + 1) / total) ** k - (i / total) ** k) for i, s in enumerate(scores))
        found.append(objective.worth(mean))
    return found


def search_hours(settings: Settings) -> float | None:
    """Hours that the search may take of the budget's."""
    hours = settings.budget.max_hours
    reserve = settings.budget.confirmation.reserve if settings.budget.confirmation.finalists else 0.0
    return hours * (1 - reserve) if hours is not None else None


def with_rungs_late_enough(settings: Settings, train: int) -> Settings:
    """The settings with rungs that come before anything can be seen moved to where it can.

    Before some hundred examples most trials are at chance, and a rung would choose by luck: experiments/search_race.
    Where that is half of the shortest schedule or more, there is little to save and no rung at all.

    Args:
        settings: as asked for.
        train: training examples of a trial.
    """
    shortest = min(possible(settings, "train.epochs")) * train
    first = math.ceil(100 * settings.search.rungs_after / shortest) / 100
    rungs = settings.search.rungs if first < LATEST else ()
    rungs = tuple(dict.fromkeys(max(rung, first) for rung in rungs))
    return settings.model_copy(update={"search": settings.search.model_copy(update={"rungs": rungs})})


def make_plan(settings: Settings) -> schedule.Plan:
    """The schedule's part of the settings; a grid has no more trials than points.

    As many trials are run to their end as the confirmation has places.
    """
    trials = settings.budget.max_trials
    if settings.sampler.name == "GridSampler":
        points = 1
        for values in space.grid(settings.search.space).values():
            points *= len(values)
        trials = min(trials, points)
    at_least = max(1, settings.budget.confirmation.finalists)
    objective = metrics.OBJECTIVES[settings.task.metric]
    return schedule.Plan(trials, settings.search.rungs, settings.search.keep, at_least, objective)
