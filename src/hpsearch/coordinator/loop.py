"""The loop of a phase: it gives trials to idle workers and passes the workers' messages to the books."""

import contextlib
import errno
import math
import os
import time
from dataclasses import replace

from hpsearch.coordinator.books import Books
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.helm import Helm
from hpsearch.coordinator.phase import Phase
from hpsearch.errors import Interrupted, OutOfReachError, RequestError
from hpsearch.report.display import Display
from hpsearch.state.messages import Lost, Message, NoRoom, OutOfMemory, Progress, Retimed, RungReport, TrialResult
from hpsearch.state.records import Status, TrialRecord
from hpsearch.training.parts import with_change
from hpsearch.workers.interface import Worker


class Loop:
    """Runs one phase."""

    def __init__(self, phase: Phase, books: Books, crew: Crew, display: Display) -> None:
        self.phase, self.books, self.crew, self.display = phase, books, crew, display
        self._helm = Helm(phase, books, crew, display)

    def run(self) -> None:
        """Run the phase until nothing is left to do or the budget is spent.

        Running trials are saved before one of these errors is raised. They continue when the command is given again.

        Raises:
            Interrupted: a signal came.
            OutOfReachError: the study's database or the cluster does not answer, or a node's disk is full.
            RequestError: all workers of a cluster were lost, and a fresh one can't have what the settings ask for.
        """
        try:
            self._run()
        except (OutOfReachError, RequestError):
            self._pause_all()
            raise

    def _run(self) -> None:
        started, before = time.monotonic(), self.phase.hours
        if not self.phase.done():
            ended = sum(trial.status.final for trial in self.phase.trials.values())
            self.crew.headcount.needed(self.phase.total - ended if self.phase.total is not None else math.inf)
        while True:
            hours = self.phase.clocked = before + (time.monotonic() - started) / 3600
            if self.crew.interrupted:
                self._pause_all()
                raise Interrupted(
                    f"study {self.phase.study.folder.name} is interrupted and saved; give the same command to go on"
                )
            if (reason := self.phase.over(hours)) is not None:
                self.display.note(reason)
                lost = self._pause_all()
                for worker in [w for w in self.crew.workers if w.trial is not None or w in lost]:
                    self.crew.renew(worker)  # the next phase must not hear of this one's trials
                return
            self.crew.move()
            self.phase.study.have(self.crew.follow())
            self._helm.heed()
            for worker in [w for w in self.crew.workers if w.trial is None and w.ready]:
                if not self._feed(worker, hours):
                    break  # there is nothing for the others either
            busy = [worker for worker in self.crew.workers if worker.trial is not None]
            self.books.hear_of_deliveries()
            if not busy and any(worker.ready for worker in self.crew.workers):
                return
            for worker, message in self.crew.hear([w for w in self.crew.workers if w in busy or not w.ready]):
                self._handle(worker, message)
            for worker in busy:
                if self.crew.hangs(worker):
                    self._lost(worker, Lost(worker.trial, self.crew.silence))

    def _feed(self, worker: Worker, hours: float) -> bool:
        """Give an idle worker the next trial, if there is one. A running trial without a worker comes first."""
        held = {w.trial for w in self.crew.workers}
        trials = self.phase.trials
        orphans = [t for t in trials.values() if t.status is Status.RUNNING and t.number not in held]
        trial = orphans[0] if orphans else self.phase.next(hours)
        if trial is not None:
            self._give(worker, trial, resumed=trial.number in trials)
            self.crew.headcount.work_found(self.crew.workers)
        return trial is not None

    def _give(self, worker: Worker, trial: TrialRecord, resumed: bool) -> None:
        settings = self.phase.settings_of(trial)
        trial = replace(trial, status=Status.RUNNING, node=worker.node, device=self.crew.hardware_of(worker).name)
        self.books.keep(trial)
        self.display.trial_started(trial.number, trial.shown, resumed=resumed)
        self.crew.give(worker, trial.number, settings, self.phase.ref, self.phase.trial_folder(trial.number))

    def _handle(self, worker: Worker, message: Message) -> None:
        if isinstance(message, Progress):
            self.books.points([message])
            remaining = self.books.remaining_steps()
            self.display.progress(message.number, message.step, message.total_steps, message.metrics, remaining)
            if (total := self.phase.retime(message)) is not None:
                worker.retime(total)
        elif isinstance(message, Retimed):
            self._retimed(message)
        elif isinstance(message, RungReport):
            worker.answer(self.books.at_rung(message))
        elif isinstance(message, TrialResult):
            self._ended(message)
        elif isinstance(message, Lost):
            self._lost(worker, message)
        elif isinstance(message, OutOfMemory):
            self._out_of_memory(worker, message)
        elif isinstance(message, NoRoom):
            folder = self.phase.trial_folder(message.number).path
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        else:
            raise AssertionError(f"a worker sent {message} in place of a trial")

    def _retimed(self, message: Retimed) -> None:
        trial = self.phase.trials[message.number]
        retimed = with_change(trial.retimed, message.step, message.total_steps)
        self.books.keep(replace(trial, retimed=retimed, total_steps=message.total_steps))
        self.display.note(
            f"{self.phase.noun} {message.number} is retimed at step {message.step:,}: {message.total_steps:,} steps in "
            f"all, {message.former:,} before, to end with the budget"
        )

    def _ended(self, result: TrialResult) -> None:
        """Record the end of a worker's part in a trial, end beaten trials, and delete files that are not needed."""
        self.phase.answered(result)
        before = self.phase.trials[result.number]
        trial = result.added_to(before)
        if result.status is Status.PAUSED and before.status is Status.RUNNING:
            trial = replace(trial, status=Status.RUNNING)  # it was asked to pause between rungs, and continues later
        self.books.keep(trial)
        held = {worker.trial for worker in self.crew.workers}
        for beaten in self.phase.beaten():
            if beaten.number not in held:
                self.books.keep(beaten)
        self.books.free_disk()

    def _lost(self, worker: Worker, lost: Lost) -> None:
        """Replace a worker that died. Its trial continues in a fresh one, or fails after too many losses."""
        self.crew.renew(worker)
        if lost.number is None:  # the worker was idle, or the loss is no fault of its trial
            self.display.note(f"worker {worker.index} is replaced: {lost.reason}")
            return
        trial = self.phase.trials[lost.number]
        trial = replace(trial, attempts=trial.attempts + 1, status=Status.RUNNING)
        self.display.note(f"{self.phase.noun} {trial.number} lost its worker: {lost.reason}")
        self.books.keep(trial)
        if trial.attempts >= self.phase.settings.hardware.max_attempts:
            self.books.keep(replace(trial, status=Status.FAILED, reason=lost.reason))

    def _out_of_memory(self, worker: Worker, message: OutOfMemory) -> None:
        """Halve the micro-batch and continue the trial from its checkpoint in a fresh worker.

        The trial fails where one example does not fit in memory.
        """
        self.crew.renew(worker)
        trial = self.phase.trials[message.number]
        if self.crew.halve(worker, self.phase.settings_of(trial).train.batch_size, message.examples):
            self.books.keep(replace(trial, status=Status.RUNNING))
        else:
            reason = f"one example does not fit in memory: {message.reason}"
            self.books.keep(replace(trial, status=Status.FAILED, reason=reason))

    def _pause_all(self) -> list[Worker]:
        """Save every running trial, and return the workers that are lost meanwhile.

        A trial whose worker does not answer in time keeps its last checkpoint.
        """
        lost = []
        deadline = time.monotonic() + self.crew.workplace.saving_seconds
        for worker in self.crew.workers:
            worker.pause()
        while (busy := [w for w in self.crew.workers if w.trial is not None]) and time.monotonic() < deadline:
            for worker, message in self._heard(busy):
                if isinstance(message, Lost | OutOfMemory):
                    lost.append(worker)
                elif isinstance(message, TrialResult):
                    self._ended(message)
                elif isinstance(message, Progress):
                    self.books.points([message])
                elif isinstance(message, Retimed):
                    self._retimed(message)
                elif isinstance(message, RungReport):
                    self.books.at_rung(message)
        return lost

    def _heard(self, busy: list[Worker]) -> list[tuple[Worker, Message]]:
        """Return what workers say while they save, whatever else is out of reach."""
        found: list[tuple[Worker, Message]] = []
        with contextlib.suppress(OutOfReachError, RequestError):
            found.extend(self.crew.hear(busy))
        return found
