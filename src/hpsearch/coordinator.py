"""The coordinator: everything that remembers. Feeds workers, decides at rungs, scores test once, reports."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from hpsearch import checkpoints, metrics, schedule, space
from hpsearch.delivery import Delivery
from hpsearch.display import Display
from hpsearch.errors import Interrupted, NoResultError, OutOfReachError, RequestError
from hpsearch.hardware import Hardware
from hpsearch.memory import MicroBatch
from hpsearch.records import (
    Alive,
    DataRef,
    Decision,
    NoRoom,
    OutOfMemory,
    Progress,
    RungReport,
    Scored,
    ScoreSpec,
    Status,
    TrialRecord,
    TrialResult,
    TrialSpec,
    add_points,
    read_points,
)
from hpsearch.settings import Settings
from hpsearch.study import Study
from hpsearch.trial import MODEL
from hpsearch.workers import Lost, Worker, wait_for

INTERRUPT_SECONDS = 20.0  # to save checkpoints after a signal
TELL_SECONDS = 60.0  # for MLflow to be told the last of the search


class Coordinator:
    """One study's search, from the first trial or from wherever it was left."""

    def __init__(self, settings: Settings, home: Path, ref: DataRef, hardware: Hardware, study: Study) -> None:
        self.settings, self.ref, self.hardware = settings, ref, hardware
        self.folder = home / "studies" / settings.study
        self.micro = MicroBatch(settings, hardware, home)
        self.study = study
        self.plan = make_plan(settings)
        self.trials: dict[int, TrialRecord] = {}
        self.logged: dict[int, set[tuple[int, str]]] = {}  # trial: (step, metric) in its points file
        self.display: Display
        self.delivery: Delivery
        self.workers: list[Worker] = []
        self.interrupted = False
        self.complaint: str | None = None  # of MLflow's silence, as last shown

    # ---- the search

    def search(self) -> None:
        """Run the plan to its end, or to the end of the budget.

        Raises:
            Interrupted: a signal came; trials are saved and go on when the command is given again.
            OutOfReachError: the study's database does not answer; the same.
        """
        try:
            self._search()
        except OutOfReachError:
            self._pause_all()
            raise

    def _search(self) -> None:
        started = time.monotonic()
        hours_before = sum(sum(t.seconds.values()) for t in self.trials.values()) / 3600 / self.hardware.workers
        while True:
            hours = hours_before + (time.monotonic() - started) / 3600
            over = self.settings.budget.max_hours is not None and hours >= self.settings.budget.max_hours
            if self.interrupted:
                self._pause_all()
                raise Interrupted(
                    f"study {self.settings.study} is interrupted and saved; give the same command to go on"
                )
            if over:
                self.display.note(f"budget.max_hours={self.settings.budget.max_hours} is spent; no trial goes on")
                self._pause_all()
                return
            for worker in [w for w in self.workers if w.trial is None]:
                self._feed(worker, hours)
            busy = [worker for worker in self.workers if worker.trial is not None]
            self._hear_of_deliveries()
            if not busy:
                return
            for worker in wait_for(busy, timeout_seconds=0.5):
                self._handle(worker)
            for worker in busy:
                if self._hangs(worker):
                    self._lost(worker, Lost(worker.trial, self._silence()))

    def _hangs(self, worker: Worker) -> bool:
        return worker.trial is not None and worker.silent_seconds > self.settings.hardware.hang_seconds

    def _silence(self) -> str:
        return f"the worker gave no sign of life for hardware.hang_seconds={self.settings.hardware.hang_seconds:g}"

    def _feed(self, worker: Worker, hours: float) -> None:
        """Give an idle worker what the schedule says: first of all a trial that lost its worker."""
        held = {w.trial for w in self.workers}
        orphans = [t for t in self.trials.values() if t.status is Status.RUNNING and t.number not in held]
        if orphans:
            self._give(worker, orphans[0], resumed=True)
            return
        action = schedule.next_action(self.plan, list(self.trials.values()), self._may_start(hours))
        if isinstance(action, schedule.Start):
            self._give(worker, self.study.ask(list(self.trials.values())), resumed=False)
        elif isinstance(action, schedule.Resume):
            self._give(worker, self.trials[action.number], resumed=True)

    def _may_start(self, hours: float) -> bool:
        return schedule.may_start(self.plan, list(self.trials.values()), hours, self.settings.budget.max_hours)

    def _give(self, worker: Worker, trial: TrialRecord, resumed: bool) -> None:
        settings = space.apply(self.settings, trial.params)
        trial = replace(trial, status=Status.RUNNING)
        self._keep(trial)
        self.display.trial_started(trial.number, trial.params, resumed=resumed)
        fitting = self.micro.applied(settings)
        worker.give(TrialSpec(trial.number, fitting, self.ref, self.trial_folder(trial.number)))

    def _handle(self, worker: Worker) -> None:
        message = worker.receive()
        if isinstance(message, Progress):
            self._points([message])
            remaining = self._remaining_steps()
            self.display.progress(message.number, message.step, message.total_steps, message.metrics, remaining)
        elif isinstance(message, RungReport):
            worker.answer(self._at_rung(message))
        elif isinstance(message, TrialResult):
            self._ended(message)
        elif isinstance(message, Lost):
            self._lost(worker, message)
        elif isinstance(message, OutOfMemory):
            self._out_of_memory(worker, message)
        elif isinstance(message, NoRoom):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.trial_folder(message.number)))
        elif isinstance(message, Alive):
            pass
        else:
            raise AssertionError(f"a worker sent {message} in the search")

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
        self.display.rung(report.number, report.rung, report.score, decision)
        return decision

    def _ended(self, result: TrialResult) -> None:
        """A worker's part in a trial is over."""
        before = self.trials[result.number]
        trial = before.after(result)
        if result.status is Status.PAUSED and before.status is Status.RUNNING:
            trial = replace(trial, status=Status.RUNNING)  # asked to pause between rungs: it goes on where it is
        self._keep(trial)
        held = {worker.trial for worker in self.workers}
        for number in schedule.losers(self.plan, list(self.trials.values())):
            if number not in held:
                self._keep(replace(self.trials[number], status=Status.PRUNED))
        self._free_disk()

    def _lost(self, worker: Worker, lost: Lost) -> None:
        """A worker died: its trial goes on in a fresh one, unless it has cost too many."""
        self._renew(worker)
        if lost.number is None:
            return
        trial = self.trials[lost.number]
        trial = replace(trial, attempts=trial.attempts + 1, status=Status.RUNNING)
        self.display.note(f"trial {trial.number} lost its worker: {lost.reason}")
        self._keep(trial)
        if trial.attempts >= self.settings.hardware.max_attempts:
            self._keep(replace(trial, status=Status.FAILED, reason=lost.reason))

    def settle_memory(self) -> None:
        """Find the largest micro-batch that fits, before the first trial.

        Raises:
            RequestError: one example does not fit.
        """
        micro = self.micro
        while not micro.known:
            if self.workers[0].fits(micro.question(self.ref)):
                micro.keep()
                continue
            self._renew(self.workers[0])
            if not micro.halve(micro.largest):
                raise RequestError(
                    f"task.max_length={micro.length}: not one example of that length fits in memory with "
                    f"model {self.settings.model.name} on {self.hardware.name}; lower task.max_length, or take a "
                    "smaller model"
                )
        if micro.examples < micro.largest:
            self.display.note(_in_parts(micro.examples))

    def _out_of_memory(self, worker: Worker, message: OutOfMemory) -> None:
        """Halve the micro-batch and have the trial go on from its checkpoint in a fresh worker."""
        self._renew(worker)
        trial = self.trials[message.number]
        if self.micro.halve(space.apply(self.settings, trial.params).train.batch_size):
            self.micro.keep()
            self.display.note(_in_parts(self.micro.examples))
            self._keep(replace(trial, status=Status.RUNNING))
        else:
            reason = f"one example does not fit in memory: {message.reason}"
            self._keep(replace(trial, status=Status.FAILED, reason=reason))

    def _renew(self, worker: Worker) -> None:
        """A fresh process in the place of a worker."""
        worker.end(timeout_seconds=0.0)
        self.workers[self.workers.index(worker)] = Worker(worker.index, self.hardware, worker.log)

    def _pause_all(self) -> None:
        """Have every running trial saved; what does not answer in time keeps its last checkpoint."""
        deadline = time.monotonic() + INTERRUPT_SECONDS
        for worker in self.workers:
            worker.pause()
        while (busy := [w for w in self.workers if w.trial is not None]) and time.monotonic() < deadline:
            for worker in wait_for(busy, timeout_seconds=0.5):
                message = worker.receive()
                if isinstance(message, TrialResult):
                    self._ended(message)
                elif isinstance(message, Progress):
                    self._points([message])
                elif isinstance(message, RungReport):
                    self._at_rung(message)

    # ---- what is remembered

    def load(self) -> None:
        """Take up what the state folder and the study remember; tell what was not told.

        Raises:
            RequestError: they are not of one study: one has trials that the other has never heard of.
        """
        known = {trial.number: trial for trial in self.study.known()}
        recorded = {int(path.parent.name) for path in self.folder.glob("trials/*/trial.json")}
        ended = {number for number, trial in known.items() if trial.status.final}
        for numbers, place in (
            (ended - recorded, "the study database"),
            (recorded - known.keys(), f"the state folder {self.folder}"),
        ):
            if numbers:
                raise RequestError(
                    f"study {self.settings.study}: {place} alone knows of trials {sorted(numbers)}; give HPSEARCH_HOME "
                    "and storage.uri that belong together, or STUDY=<another name>"
                )
        for number, trial in known.items():
            folder = self.trial_folder(number)
            if number in recorded:
                trial = TrialRecord.load(folder)
            self.trials[trial.number] = trial
            self.logged[trial.number] = {(step, name) for step, values in read_points(folder) for name in values}
            self.study.tell(trial)

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its record, points, checkpoints and model."""
        return self.folder / "trials" / str(number)

    def complete(self) -> list[TrialRecord]:
        """Complete trials, best first."""
        return schedule.complete(self.trials.values(), self.plan.maximize)

    def prune_paused(self) -> None:
        """The search is over: what is paused stays where it is."""
        for trial in list(self.trials.values()):
            if not trial.status.final:
                self._keep(replace(trial, status=Status.PRUNED))
        self._free_disk()

    def _keep(self, trial: TrialRecord) -> None:
        """Write a trial's record; then, and only then, study and tracking are told."""
        before = self.trials.get(trial.number)
        self.trials[trial.number] = trial
        trial.save(self.trial_folder(trial.number))
        self.delivery.put(trial)
        ended = trial.status.final and (before is None or not before.status.final)
        if ended or (before is not None and trial.rungs != before.rungs):
            self._tell_study(trial)
        if ended:
            self.display.trial_ended(trial)

    def _tell_study(self, trial: TrialRecord) -> None:
        """Once it does not answer, the next start tells it."""
        if self.study.away:
            return
        try:
            self.study.tell(trial)
        except OutOfReachError:
            if not self.interrupted:
                raise

    def tell_all(self) -> None:
        """Tell MLflow all that it does not know.

        Raises:
            OutOfReachError: it does not answer; what it was not told waits in the state folder.
        """
        for trial in self.trials.values():
            if trial.status.final and not trial.told:
                self.delivery.put(trial)
        self.delivery.flush(TELL_SECONDS)
        self._hear_of_deliveries()

    def _hear_of_deliveries(self) -> None:
        """Note what MLflow has been told."""
        for done in self.delivery.delivered():
            trial = self.trials[done.number]
            told = replace(trial, run_id=done.run_id, told=done.final)
            if told != trial:
                self.trials[trial.number] = told
                told.save(self.trial_folder(trial.number))
        if (complaint := self.delivery.complaint) != self.complaint:
            self.complaint = complaint
            self.display.note(
                f"MLflow will be told later, training goes on: {complaint}" if complaint else "MLflow answers again"
            )

    def _free_disk(self) -> None:
        """Keep checkpoints of trials that can go on, and the weights of the best complete one."""
        best = self.complete()[:1]
        for trial in self.trials.values():
            if trial.status.final:
                checkpoints.discard(self.trial_folder(trial.number))
                if trial not in best:
                    shutil.rmtree(self.trial_folder(trial.number) / MODEL, ignore_errors=True)

    def _points(self, points: Sequence[Progress]) -> None:
        """Log points of curves, but none that is there already: a resumed trial passes some steps again."""
        for point in points:
            logged = self.logged.setdefault(point.number, set())
            new = {name: value for name, value in point.metrics.items() if (point.step, name) not in logged}
            if not new:
                continue
            logged |= {(point.step, name) for name in new}
            add_points(self.trial_folder(point.number), point.step, new)
            self.delivery.put(self.trials[point.number])

    def _remaining_steps(self) -> int | None:
        """Steps still planned, in the mean length of the trials so far."""
        known = [t for t in self.trials.values() if t.total_steps]
        if not known:
            return None
        mean = sum(t.total_steps for t in known) / len(known)
        planned = schedule.share_to_train(self.plan, max(self.plan.max_trials, len(self.trials))) * mean
        trained = sum(max((step for step, _ in points), default=0) for points in self.logged.values())
        return max(0, round(planned - trained))

    # ---- processes and signals

    @contextmanager
    def staffed(self) -> Iterator[None]:
        """Workers, started before and ended after; signals are taken as a wish to pause, a second one at once."""
        logs = self.folder / "workers"
        self.workers = [Worker(i, self.hardware, logs / f"{i}.log") for i in range(self.hardware.workers)]
        former = {sign: signal.signal(sign, self._on_signal) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for worker in self.workers:
                worker.end(timeout_seconds=5.0)
            for sign, handler in former.items():
                signal.signal(sign, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise Interrupted("interrupted a second time; running trials keep their last checkpoint")
        self.interrupted = self.study.hurry = True

    def score(self, trial: TrialRecord, split: str) -> Scored:
        """Have a complete trial's model scored on a split."""
        settings = space.apply(self.settings, trial.params)
        spec = ScoreSpec(trial.number, settings, self.ref, self.trial_folder(trial.number) / MODEL, split, trial.fitted)
        worker = self.workers[0]
        for _ in range(self.settings.hardware.max_attempts):
            worker.give(spec)
            while worker.trial is not None:
                for ready in wait_for([worker], timeout_seconds=0.5):
                    message = ready.receive()
                    if isinstance(message, Scored):
                        return message
                if self.interrupted:
                    raise Interrupted("interrupted while test was scored; give the same command to go on")
                if self._hangs(worker):
                    self.display.note(self._silence())
                    break
            self._renew(worker)
            worker = self.workers[0]
        raise NoResultError(f"the worker that scores {split} ended {self.settings.hardware.max_attempts} times")


def _in_parts(examples: int) -> str:
    return f"memory: batches are trained in parts of at most {examples} examples; the updates are the same"


def make_plan(settings: Settings) -> schedule.Plan:
    """The schedule's part of the settings; a grid has no more trials than points."""
    trials = settings.budget.max_trials
    if settings.sampler.name == "GridSampler":
        points = 1
        for values in space.grid(settings.search.space).values():
            points *= len(values)
        trials = min(trials, points)
    maximize = metrics.DIRECTIONS[settings.task.metric] == "maximize"
    return schedule.Plan(trials, settings.search.rungs, settings.search.keep, maximize)
