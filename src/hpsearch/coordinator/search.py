"""The search: trials drawn by Optuna, paused at rungs, of which the best share goes on."""

import math
from dataclasses import replace

from hpsearch.config import space
from hpsearch.config.settings import Settings, possible
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import Coordinator
from hpsearch.coordinator.study import Study
from hpsearch.decisions import schedule
from hpsearch.errors import OutOfReachError, RequestError
from hpsearch.state.records import Decision, Progress, RungReport, Status, TrialRecord
from hpsearch.tasks import metrics

TRIALS = "trials"  # folder of a study
LATEST = 0.5  # share of a schedule; a first rung that would have to come then or later saves little


class Search(Coordinator):
    """One study's search, from the first trial or from wherever it was left."""

    noun, phase = "trial", "search"

    def __init__(self, crew: Crew, study: Study) -> None:
        super().__init__(crew, crew.settings, crew.ref, crew.folder / TRIALS)
        self.study = study
        self.plan = make_plan(self.settings)

    def load(self) -> None:
        """Take up what the state folder and the study remember; tell what was not told.

        Raises:
            RequestError: they are not of one study: one has trials that the other has never heard of.
        """
        known = {trial.number: trial for trial in self.study.known()}
        recorded = self.recorded()
        ended = {number for number, trial in known.items() if trial.status.final}
        for numbers, place in (
            (ended - recorded.keys(), "the study database"),
            (recorded.keys() - known.keys(), f"the state folder {self.folder.parent}"),
        ):
            if numbers:
                raise RequestError(
                    f"study {self.settings.study}: {place} alone knows of trials {sorted(numbers)}; give HPSEARCH_HOME "
                    "and storage.uri that belong together, or STUDY=<another name>"
                )
        for number, trial in known.items():
            self.take_up(recorded.get(number, trial))
            self.study.tell(self.trials[number])

    def settings_of(self, trial: TrialRecord) -> Settings:
        """The study's, with the trial's parameters."""
        return space.apply(self.settings, trial.params)

    def complete(self) -> list[TrialRecord]:
        """Complete trials, best first."""
        return schedule.complete(self.trials.values(), self.plan.maximize)

    def prune_paused(self) -> None:
        """The search is over: what is paused stays where it is."""
        for trial in list(self.trials.values()):
            if not trial.status.final:
                self._keep(replace(trial, status=Status.PRUNED))
        self._tidy()

    @property
    def max_hours(self) -> float | None:
        """What the search may take; the rest is for the confirmation."""
        return search_hours(self.settings)

    def drop_models(self) -> None:
        """A confirmation run's model is kept in their place."""
        self._free_disk([])

    def _next(self, hours: float) -> TrialRecord | None:
        trials = list(self.trials.values())
        action = schedule.next_action(self.plan, trials, schedule.may_start(self.plan, trials, hours, self.max_hours))
        if isinstance(action, schedule.Start):
            return self.study.ask(trials)
        return self.trials[action.number] if isinstance(action, schedule.Resume) else None

    def _over(self, hours: float) -> bool:
        over = self.max_hours is not None and hours >= self.max_hours
        if over:
            kept = " but for the confirmation" if self.max_hours != self.settings.budget.max_hours else ""
            self.crew.display.note(
                f"budget.max_hours={self.settings.budget.max_hours} is spent{kept}; no trial goes on"
            )
        return over

    def _at_rung(self, report: RungReport) -> Decision:
        """Book a trial's score and decide whether it goes on at once, waits for the others, or can end."""
        before = self.trials[report.number]
        trial = replace(
            before,
            status=Status.PAUSED,
            step=report.step,
            total_steps=report.total_steps,
            rungs=before.rungs | {report.rung: report.score},
            score=report.score,
            metrics=before.metrics | report.metrics,
        )
        self._keep(trial)
        self._points([Progress(report.number, report.step, report.total_steps, report.metrics)])
        trials = list(self.trials.values())
        decision = Decision.PAUSE
        if trial.number in schedule.losers(self.plan, trials):
            decision = Decision.STOP
        elif len(trials) >= self.plan.max_trials:
            action = schedule.next_action(self.plan, trials, may_start=False)
            if action == schedule.Resume(trial.number):
                decision = Decision.CONTINUE
                self._keep(replace(trial, status=Status.RUNNING))
        self.crew.display.rung(report.number, report.rung, report.score, decision)
        return decision

    def _kept(self, before: TrialRecord | None, trial: TrialRecord) -> None:
        """Tell the study. Once it does not answer, the next start tells it."""
        ended = trial.status.final and (before is None or not before.status.final)
        if self.study.away or not (ended or (before is not None and trial.rungs != before.rungs)):
            return
        try:
            self.study.tell(trial)
        except OutOfReachError:
            if not self.crew.interrupted:
                raise

    def _tidy(self) -> None:
        """Losers end; checkpoints of trials that can go on are kept, and the weights of the best complete one."""
        held = {worker.trial for worker in self.crew.workers}
        for number in schedule.losers(self.plan, list(self.trials.values())):
            if number not in held:
                self._keep(replace(self.trials[number], status=Status.PRUNED))
        self._free_disk(self.complete()[:1])

    def _planned(self) -> float:
        return schedule.share_to_train(self.plan, max(self.plan.max_trials, len(self.trials)))


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
    maximize = metrics.DIRECTIONS[settings.task.metric] == "maximize"
    at_least = max(1, settings.budget.confirmation.finalists)
    return schedule.Plan(trials, settings.search.rungs, settings.search.keep, at_least, maximize)
