"""The workers of a study: the crew starts and replaces them, gives them work and asks them questions.

The questions are what fits in memory, how long training takes and how a model scores. The crew also handles the
signals that end a sweep.
"""

import errno
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

from hpsearch.config.settings import Settings
from hpsearch.coordinator.headcount import Headcount
from hpsearch.coordinator.memory import MicroBatch, MicroBatches
from hpsearch.errors import Interrupted, NoResultError, OutOfReachError
from hpsearch.report.display import Display
from hpsearch.state.floors import FloorRecord
from hpsearch.state.folder import StudyFolder, TrialFolder, phase_of
from hpsearch.state.messages import (
    Alive,
    DataName,
    FitFloor,
    FloorFitted,
    Hardware,
    Lost,
    Message,
    NoRoom,
    Pace,
    Part,
    Probe,
    Ready,
    Score,
    Scored,
    Train,
    named,
)
from hpsearch.state.records import DataRef, StudyHardware, TrialRecord
from hpsearch.state.roster import ENDED, IDLE, STARTING, Doing, Roster, by_node
from hpsearch.training.models import with_attention
from hpsearch.workers.interface import Worker, Workplace

HEAR_SECONDS = 0.5  # between two checks of the clock and of signals
LATE, LATE_SECONDS = 2.0, 60.0  # a floor is left out after LATE times its seconds plus LATE_SECONDS
SEAL_SECONDS = 60.0  # for an idle worker to seal the checkpoint of its last trial

M = TypeVar("M", Scored, FloorFitted)


class Crew:
    """The workers that all phases of a study share."""

    def __init__(
        self,
        settings: Settings,
        home: Path,
        ref: DataRef,
        workplace: Workplace,
        display: Display,
        on_interrupt: Callable[[], None],
    ) -> None:
        self.settings, self.home, self.ref, self.workplace, self.display = settings, home, ref, workplace, display
        self.folder = StudyFolder.of(home, settings.study)
        self.workers: list[Worker] = []
        self._roster = Roster(self.folder)
        self._hardware: dict[int, Hardware] = {}  # by worker
        self._micro = MicroBatches(settings, ref, workplace.hardware, home)
        self._work: dict[int, str] = {}  # worker: its last work, for people
        self._asked: Worker | None = None  # the worker that answers a question
        self._full: set[str] = set()  # nodes whose disk is full
        self._saving: dict[int, Worker] = {}  # by index: workers that leave, and whose trials are being saved
        self._shown: dict[str, str] = {}  # what the display says of each node
        self._most = max(1, workplace.count)  # largest number of workers so far
        self.headcount = Headcount(settings.cluster.autoscaling)
        self.interrupted = False
        self._on_interrupt = on_interrupt

    @contextmanager
    def staffed(self) -> Iterator[None]:
        """Start the workers, and end them afterwards.

        A first SIGINT or SIGTERM asks the study to pause. A second one interrupts it at once.
        """
        self._roster.begin(time.time())
        self.workers = [self._start(index) for index in range(self._most)]
        former = {sign: signal.signal(sign, self._on_signal) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.write_roster()
            yield
        finally:
            for worker in self.workers:
                worker.end(SEAL_SECONDS)
                self._roster.tell(Doing(time.time(), worker.index, worker.node, ENDED))
            self.tell_carried()
            for sign, handler in former.items():
                signal.signal(sign, handler)

    def follow(self) -> int:
        """Have as many workers as there is room and work for, and return for how many there is room."""
        place, before = max(1, self.workplace.count), len(self.workers)
        going, coming = self.headcount.surplus(self.workers, place, time.monotonic())
        for worker in going:
            worker.end(SEAL_SECONDS)
            self.workers.remove(worker)
            self._roster.tell(Doing(time.time(), worker.index, worker.node, ENDED))
        taken = {worker.index for worker in self.workers}
        free = (index for index in itertools.count() if index not in taken)
        self.workers += [self._start(next(free)) for _ in range(coming)]
        self._most = max(self._most, len(self.workers))
        if len(self.workers) != before:
            self.display.note(f"cluster: the number of workers changes from {before} to {len(self.workers)}")
        return place

    def rest(self) -> None:
        """Keep one worker, where the nodes of the others can go."""
        self.headcount.one_needed(self.workers)
        self.follow()

    def tell_carried(self) -> None:
        """Write down how much has travelled between this disk and those of nodes."""
        self._roster.carried(self.workplace.carried)

    def renew(self, worker: Worker, timeout_seconds: float = 0.0) -> None:
        """Replace a worker by a fresh one. An idle one gets so many seconds to finish writing."""
        worker.end(timeout_seconds)
        self.workers[self.workers.index(worker)] = self._start(worker.index)
        self.write_roster()

    def move(self) -> None:
        """Have the trials of workers whose machine will go saved, and have other workers in their place."""
        for worker in [worker for worker in self.workers if worker.leaving]:
            if worker.trial is None:
                self.renew(worker, SEAL_SECONDS)
            elif self._saving.get(worker.index) is not worker:
                self._saving[worker.index] = worker
                self.display.note(f"cluster: node {worker.node} will go soon; what worker {worker.index} does is saved")
                worker.pause()

    def give(self, worker: Worker, number: int, settings: Settings, ref: DataRef, folder: TrialFolder) -> None:
        """Have an idle worker train a trial, in micro-batches that fit; `folder` is the trial's."""
        fitting, data = self._micro.of(self.hardware_of(worker)).applied(settings), DataName.of(ref, self.home)
        work = Train(number, fitting, data, named(folder.path, self.home))
        self._give(worker, work, f"{phase_of(folder.path.parent.name)} {number}")

    def _give(self, worker: Worker, work: Train | Score | FitFloor, said: str) -> None:
        worker.give(work)
        self._work[worker.index] = said
        self.write_roster()

    def write_roster(self) -> None:
        """Write what each worker does now, where that has changed."""
        now = time.time()
        all_do = [Doing(now, worker.index, worker.node, self._doing(worker)) for worker in self.workers]
        for doing in all_do:
            self._roster.tell(doing)
        shown = by_node(all_do) if len(all_do) > 1 else {}
        if shown != self._shown:
            self._shown = shown
            self.display.staff(shown)

    def _doing(self, worker: Worker) -> str:
        if not worker.ready:
            return STARTING
        if worker.trial is not None:
            return self._work[worker.index]
        return "measures" if worker is self._asked else IDLE

    def hardware_of(self, worker: Worker) -> Hardware:
        """Return a worker's hardware."""
        return self._hardware.get(worker.index, self.workplace.hardware)

    def hear(self, workers: Sequence[Worker], seconds: float = HEAR_SECONDS) -> Iterator[tuple[Worker, Message]]:
        """Yield the workers' messages about their work, within these seconds; see `Workplace.hear`.

        Raises what that raises, and OutOfReachError if the disk of a node is full.
        """
        for worker, message in self.workplace.hear(workers, seconds):
            if isinstance(message, Ready):
                self._hardware[worker.index] = message.hardware
                if message.hardware != self.workplace.hardware:
                    self.display.note(f"hardware: worker {worker.index} has another: {message.hardware}")
            elif isinstance(message, NoRoom) and message.where and message.where not in self._full:
                self._full.add(message.where)  # the other workers can still save
                raise OutOfReachError(
                    f"cluster: the disk of node {message.where} is full; free some of it and give the same command: it "
                    "goes on from what is saved"
                )
            elif not isinstance(message, Alive):
                yield worker, message
        self.write_roster()

    @property
    def micro(self) -> MicroBatch:
        """The micro-batch of the first worker's hardware, which is settled before the first trial."""
        return self._micro.first

    def micro_on(self, device: str | None) -> MicroBatch:
        """Return the micro-batch of workers on the processor or GPU of this name."""
        return self._micro.named(device)

    @property
    def hardware(self) -> StudyHardware:
        """Hardware that trials are computed with, for MLflow runs and reports."""
        return with_attention(self.workplace.hardware.of_study(self._most), self.settings.model)

    def hangs(self, worker: Worker) -> bool:
        """Return whether a worker that has a trial was silent for longer than `hardware.hang_seconds`."""
        return worker.trial is not None and worker.silent_seconds > self.settings.hardware.hang_seconds

    @property
    def silence(self) -> str:
        """Message about a worker that hangs."""
        return f"the worker gave no sign of life for hardware.hang_seconds={self.settings.hardware.hang_seconds:g}"

    def halve(self, worker: Worker, batch_size: int, examples: int) -> bool:
        """Train in smaller parts after a worker's memory ran out; return False if it ran out over a single example.

        Workers on other hardware are not concerned.

        Args:
            worker: the worker.
            batch_size: examples of the batch.
            examples: size of the forward pass that ran out of memory.
        """
        micro = self._micro.of(self.hardware_of(worker))
        before = micro.examples
        if not micro.halve(batch_size, examples):
            return False
        if micro.examples < before:
            micro.keep(self.hardware_of(worker))
            self.display.note(micro.parts)
        return True

    def ask(self, worker: Worker, question: Probe | Pace) -> Message | None:
        """Return an idle worker's answer to a question; None if it hangs. Raises Interrupted."""
        worker.ask(question)
        self._asked = worker
        while worker.silent_seconds <= self.settings.hardware.hang_seconds:
            for _, answer in self.hear([worker]):
                self._asked = None
                return answer
            if self.interrupted:
                raise Interrupted("interrupted before the first trial; give the same command to go on")
        self.display.note(self.silence)
        return None

    def score(
        self,
        record: TrialRecord,
        settings: Settings,
        ref: DataRef,
        folder: TrialFolder,
        part: Part,
        words: TrialFolder | None = None,
    ) -> Scored:
        """Have a worker score the model in a complete trial's folder, and its blend with that in `words` if given.

        Raises:
            Interrupted: a signal came.
            NoResultError: the scoring failed `hardware.max_attempts` times.
        """
        data, place = DataName.of(ref, self.home), named(folder.path, self.home)
        beside = named(words.path, self.home) if words is not None else None
        return self._scored(Score(record.number, settings, data, place, part, record.fitted, words=beside))

    def score_floor(self, floor: FloorRecord, settings: Settings, ref: DataRef, part: Part) -> Scored:
        """Have a worker score a floor; `settings` are the study's. Raises what `score` raises."""
        data, place = DataName.of(ref, self.home), named(self.folder.floor(floor.name).path, self.home)
        return self._scored(Score(0, settings, data, place, part, floor.fitted, floor.name))

    def fit_floor(self, number: int, name: str, settings: Settings, ref: DataRef, seconds: float) -> FloorFitted:
        """Have a worker fit a floor in `seconds`. If that fails, the result holds the fault.

        Raises:
            Interrupted: a signal came.
        """
        data, place = DataName.of(ref, self.home), named(self.folder.floor(name).path, self.home)
        work, most = FitFloor(number, name, settings, data, place, seconds), LATE * seconds + LATE_SECONDS
        ended = 0
        while ended < self.settings.hardware.max_attempts:
            worker = self.ready_worker()
            answer = self._done(worker, work, FloorFitted, "interrupted while floors were fitted", most)
            if isinstance(answer, FloorFitted):
                return answer
            self.renew(worker)
            if answer is None:
                return FloorFitted(number, fault=f"it took more than {most:.0f} s, where {seconds:.0f} s are planned")
            if answer.for_memory:
                return FloorFitted(number, fault="memory ran out")
            ended += answer.number is not None
        return FloorFitted(number, fault=f"its worker ended {self.settings.hardware.max_attempts} times")

    def _scored(self, work: Score) -> Scored:
        began, ended = time.monotonic(), 0
        while ended < self.settings.hardware.max_attempts:
            worker = self.ready_worker()
            left = replace(work.part, seconds=work.part.seconds - (time.monotonic() - began))
            asked = replace(work, part=left)
            answer = self._done(worker, asked, Scored, "interrupted while test was scored", math.inf)
            if isinstance(answer, Scored):
                return answer
            self.renew(worker)
            ended += answer is None or answer.number is not None  # the loss of a node is no fault of the work
        raise NoResultError(f"the worker that scores test ended {self.settings.hardware.max_attempts} times")

    def _done(
        self, worker: Worker, work: Score | FitFloor, kind: type[M], interrupted: str, seconds: float
    ) -> M | Lost | None:
        """Return the answer of an idle worker; None if it hangs or is late. Raises Interrupted."""
        until = time.monotonic() + seconds
        self._give(worker, work, "scores test" if isinstance(work, Score) else f"floor {work.name}")
        while not self.hangs(worker):
            for _, message in self.hear([worker]):
                if isinstance(message, Lost):
                    self._say_lost(worker, message)
                if isinstance(message, NoRoom):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder.path))
                if isinstance(message, kind | Lost):
                    self.write_roster()
                    return message
            if worker.trial is None:  # its work ended otherwise
                return Lost(work.number, "the worker was lost")
            if self.interrupted:
                raise Interrupted(f"{interrupted}; give the same command to go on")
            if time.monotonic() > until:
                return None
        self.display.note(self.silence)
        return None

    def ready_worker(self) -> Worker:
        """Return an idle worker that is ready, while no trial runs; wait for one. Raises Interrupted.

        One with the hardware of the first worker comes first, because that is what is measured.
        """
        seconds = 0.0  # at first: a worker may have been lost while nobody listened to it
        while True:
            for worker, message in self.hear(self.workers, seconds):
                if isinstance(message, Lost):
                    self._say_lost(worker, message)
                    self.renew(worker)
            if ready := [worker for worker in self.workers if worker.ready]:
                break
            seconds = HEAR_SECONDS
            if self.interrupted:
                raise Interrupted("interrupted before a worker was there; give the same command to go on")
        return min(ready, key=lambda worker: self.hardware_of(worker) != self.workplace.hardware)

    def _start(self, index: int) -> Worker:
        return self.workplace.start(index, named(self.folder.workers, self.home))

    def _say_lost(self, worker: Worker, lost: Lost) -> None:
        self.display.note(f"worker {worker.index} is replaced: {lost.reason}")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise Interrupted("interrupted a second time; running trials keep their last checkpoint")
        self.interrupted = True
        self._on_interrupt()
