"""The coordinator: everything that remembers. Hands runs to workers, hears of them, keeps and tells what they come to.

A phase of a study says what is next: `search` and `confirmation`.
"""

import errno
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpsearch.config.settings import Settings
from hpsearch.coordinator.crew import Crew
from hpsearch.errors import Interrupted, OutOfReachError
from hpsearch.state import identity
from hpsearch.state.records import (
    Alive,
    DataRef,
    Decision,
    NoRoom,
    OutOfMemory,
    Progress,
    RungReport,
    Status,
    TrialRecord,
    TrialResult,
    TrialSpec,
    add_points,
    read_points,
)
from hpsearch.tracking.delivery import Delivery
from hpsearch.training import checkpoints
from hpsearch.training.trial import MODEL
from hpsearch.workers.local import Lost, Worker, wait_for

SECONDS = "seconds.json"  # file of a study
INTERRUPT_SECONDS = 20.0  # to save checkpoints after a signal
TELL_SECONDS = 60.0  # for MLflow to be told the last of a study


def read_seconds(folder: Path) -> dict[str, float]:
    """Seconds of each phase of the study in `folder`, over all runs of its command that came to an end of some kind."""
    path = folder / SECONDS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


class Coordinator(ABC):
    """A phase of a study: numbered trials, from the first one or from wherever they were left."""

    noun: str
    """What people are told of: a trial, or a run."""

    phase: str
    """Its name in the study's `seconds.json`."""

    def __init__(self, crew: Crew, settings: Settings, ref: DataRef, folder: Path) -> None:
        """`folder` holds a folder for each trial, named by its number."""
        self._clocked = read_seconds(crew.folder).get(self.phase, 0.0) / 3600  # hours
        self.crew, self.settings, self.ref, self.folder = crew, settings, ref, folder
        self.trials: dict[int, TrialRecord] = {}
        self.logged: dict[int, set[tuple[int, str]]] = {}  # trial: (step, metric) in its points file
        self.delivery: Delivery
        self.complaint: str | None = None  # of MLflow's silence, as last shown

    # ---- what a phase decides

    @abstractmethod
    def settings_of(self, trial: TrialRecord) -> Settings:
        """What a trial is trained with."""

    @abstractmethod
    def _next(self, hours: float) -> TrialRecord | None:
        """What an idle worker is given after `hours` of the phase; None while there is nothing."""

    @abstractmethod
    def _over(self, hours: float) -> bool:
        """Whether trials that are running must be paused for good."""

    @abstractmethod
    def _at_rung(self, report: RungReport) -> Decision:
        """Book a trial's score and decide how it goes on."""

    @abstractmethod
    def _kept(self, before: TrialRecord | None, trial: TrialRecord) -> None:
        """A trial's record is on disk: tell who must know of it besides MLflow."""

    @abstractmethod
    def _tidy(self) -> None:
        """A trial's part is over: settle what follows from it, and free the disk of what nobody needs."""

    @abstractmethod
    def _planned(self) -> float:
        """Trials that the phase plans in all, counted in whole ones."""

    def origin(self, trial: TrialRecord) -> dict[str, Any] | None:
        """What `reproduce` goes by: settings, data, hardware, code and libraries, and what came of them."""
        if trial.status is Status.FAILED:
            return None
        settings = self.crew.micro.applied(self.settings_of(trial)).model_dump(mode="json")
        settings |= {"tracking": {"uri": None}, "storage": {"uri": None}}  # they may hold a password
        return {
            "settings": settings,
            "digests": self.ref.digests,
            "hardware": self.crew.hardware.describe(),
            "status": str(trial.status),
            "rung": max(trial.rungs, default=-1),
            "metrics": trial.metrics,
        } | identity.made_by()

    # ---- the loop

    def run(self) -> None:
        """Do all that is to be done, or as much as the budget holds.

        Raises:
            Interrupted: a signal came; trials are saved and go on when the command is given again.
            OutOfReachError: the study's database does not answer; the same.
        """
        try:
            self._loop()
        except OutOfReachError:
            self._pause_all()
            raise

    def _loop(self) -> None:
        started, before = time.monotonic(), self.hours
        while True:
            hours = self._clocked = before + (time.monotonic() - started) / 3600
            if self.crew.interrupted:
                self._pause_all()
                raise Interrupted(
                    f"study {self.settings.study} is interrupted and saved; give the same command to go on"
                )
            if self._over(hours):
                self._pause_all()
                return
            for worker in [w for w in self.crew.workers if w.trial is None]:
                self._feed(worker, hours)
            busy = [worker for worker in self.crew.workers if worker.trial is not None]
            self._hear_of_deliveries()
            if not busy:
                return
            for worker in wait_for(busy, timeout_seconds=0.5):
                self._handle(worker)
            for worker in busy:
                if self.crew.hangs(worker):
                    self._lost(worker, Lost(worker.trial, self.crew.silence))

    @property
    def hours(self) -> float:
        """Spent so far: by the clock, or by the trials where a command was killed before it could write that down."""
        trained = sum(sum(t.seconds.values()) for t in self.trials.values()) / 3600 / self.crew.hardware.workers
        return max(trained, self._clocked)

    def _feed(self, worker: Worker, hours: float) -> None:
        """Give an idle worker what is next: first of all a trial that lost its worker."""
        held = {w.trial for w in self.crew.workers}
        orphans = [t for t in self.trials.values() if t.status is Status.RUNNING and t.number not in held]
        trial = orphans[0] if orphans else self._next(hours)
        if trial is not None:
            self._give(worker, trial, resumed=trial.number in self.trials)

    def _give(self, worker: Worker, trial: TrialRecord, resumed: bool) -> None:
        settings = self.settings_of(trial)
        trial = replace(trial, status=Status.RUNNING)
        self._keep(trial)
        self.crew.display.trial_started(trial.number, trial.shown, resumed=resumed)
        fitting = self.crew.micro.applied(settings)
        worker.give(TrialSpec(trial.number, fitting, self.ref, self.trial_folder(trial.number)))

    def _handle(self, worker: Worker) -> None:
        message = worker.receive()
        if isinstance(message, Progress):
            self._points([message])
            remaining = self._remaining_steps()
            self.crew.display.progress(message.number, message.step, message.total_steps, message.metrics, remaining)
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
            raise AssertionError(f"a worker sent {message} in place of a trial")

    def _ended(self, result: TrialResult) -> None:
        """A worker's part in a trial is over."""
        before = self.trials[result.number]
        trial = before.after(result)
        if result.status is Status.PAUSED and before.status is Status.RUNNING:
            trial = replace(trial, status=Status.RUNNING)  # asked to pause between rungs: it goes on where it is
        self._keep(trial)
        self._tidy()

    def _lost(self, worker: Worker, lost: Lost) -> None:
        """A worker died: its trial goes on in a fresh one, unless it has cost too many."""
        self.crew.renew(worker)
        if lost.number is None:
            return
        trial = self.trials[lost.number]
        trial = replace(trial, attempts=trial.attempts + 1, status=Status.RUNNING)
        self.crew.display.note(f"{self.noun} {trial.number} lost its worker: {lost.reason}")
        self._keep(trial)
        if trial.attempts >= self.settings.hardware.max_attempts:
            self._keep(replace(trial, status=Status.FAILED, reason=lost.reason))

    def _out_of_memory(self, worker: Worker, message: OutOfMemory) -> None:
        """Halve the micro-batch and have the trial go on from its checkpoint in a fresh worker."""
        self.crew.renew(worker)
        trial = self.trials[message.number]
        if self.crew.halve(self.settings_of(trial).train.batch_size, message.examples):
            self._keep(replace(trial, status=Status.RUNNING))
        else:
            reason = f"one example does not fit in memory: {message.reason}"
            self._keep(replace(trial, status=Status.FAILED, reason=reason))

    def _pause_all(self) -> None:
        """Have every running trial saved; what does not answer in time keeps its last checkpoint."""
        deadline = time.monotonic() + INTERRUPT_SECONDS
        for worker in self.crew.workers:
            worker.pause()
        while (busy := [w for w in self.crew.workers if w.trial is not None]) and time.monotonic() < deadline:
            for worker in wait_for(busy, timeout_seconds=0.5):
                message = worker.receive()
                if isinstance(message, TrialResult):
                    self._ended(message)
                elif isinstance(message, Progress):
                    self._points([message])
                elif isinstance(message, RungReport):
                    self._at_rung(message)

    # ---- what is remembered

    def recorded(self) -> dict[int, TrialRecord]:
        """The records in the phase's folder."""
        found = (TrialRecord.load(path.parent) for path in sorted(self.folder.glob("*/trial.json")))
        return {trial.number: trial for trial in found}

    def take_up(self, trial: TrialRecord) -> None:
        """Remember a trial of an earlier run of the command, with its points."""
        self.trials[trial.number] = trial
        points = read_points(self.trial_folder(trial.number))
        self.logged[trial.number] = {(step, name) for step, values in points for name in values}

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its record, points, checkpoints and model."""
        return self.folder / str(number)

    def _keep(self, trial: TrialRecord) -> None:
        """Write a trial's record; then, and only then, others are told."""
        before = self.trials.get(trial.number)
        self.trials[trial.number] = trial
        trial.save(self.trial_folder(trial.number))
        self.delivery.put(trial, self)
        self._kept(before, trial)
        if trial.status.final and (before is None or not before.status.final):
            self.crew.display.trial_ended(trial)

    def _free_disk(self, best: Sequence[TrialRecord | None]) -> None:
        """Of trials that have come to their end keep no checkpoint, and no model but those of the best."""
        for trial in self.trials.values():
            if trial.status.final:
                checkpoints.discard(self.trial_folder(trial.number))
                if trial not in best:
                    shutil.rmtree(self.trial_folder(trial.number) / MODEL, ignore_errors=True)

    def tell_all(self) -> None:
        """Tell MLflow all that it does not know.

        Raises:
            OutOfReachError: it does not answer; what it was not told waits in the state folder.
        """
        for trial in self.trials.values():
            if trial.status.final and not trial.told:
                self.delivery.put(trial, self)
        self.delivery.flush(TELL_SECONDS)
        self._hear_of_deliveries()

    def _hear_of_deliveries(self) -> None:
        """Note what MLflow has been told."""
        for done in self.delivery.delivered(self):
            trial = self.trials[done.number]
            told = replace(trial, run_id=done.run_id, told=done.final)
            if told != trial:
                self.trials[trial.number] = told
                told.save(self.trial_folder(trial.number))
        if (complaint := self.delivery.complaint) != self.complaint:
            self.complaint = complaint
            self.crew.display.note(
                f"MLflow will be told later, training goes on: {complaint}" if complaint else "MLflow answers again"
            )

    def _points(self, points: Sequence[Progress]) -> None:
        """Log points of curves, but none that is there already: a resumed trial passes some steps again."""
        for point in points:
            logged = self.logged.setdefault(point.number, set())
            new = {name: value for name, value in point.metrics.items() if (point.step, name) not in logged}
            if not new:
                continue
            logged |= {(point.step, name) for name in new}
            add_points(self.trial_folder(point.number), point.step, new)
            self.delivery.put(self.trials[point.number], self)

    def _remaining_steps(self) -> int | None:
        """Steps still planned, in the mean length of the trials so far; those of running trials at the least."""
        known = [t.total_steps for t in self.trials.values() if t.total_steps]
        if not known:
            return None
        trained = {n: max((step for step, _ in points), default=0) for n, points in self.logged.items()}
        running = [t for t in self.trials.values() if t.status is Status.RUNNING]
        least = sum(max(0, t.total_steps - trained.get(t.number, 0)) for t in running)
        return max(least, round(self._planned() * sum(known) / len(known) - sum(trained.values())))
