"""The workers of a study: started, renewed, asked what fits and how a model scores; signals that end them."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hpsearch.config.settings import Settings
from hpsearch.coordinator.memory import MicroBatch
from hpsearch.errors import Interrupted, NoResultError, RequestError
from hpsearch.report.display import Display
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import DataRef, Fits, Hardware, Scored, ScoreSpec
from hpsearch.training.trainer import micro_batch
from hpsearch.workers.local import Lost, Worker, wait_for

SEAL_SECONDS = 60.0  # for an idle worker to seal the checkpoint of the trial that it had last


class Crew:
    """The workers that a study's search and confirmation share."""

    def __init__(
        self, settings: Settings, home: Path, ref: DataRef, hardware: Hardware, on_interrupt: Callable[[], None]
    ) -> None:
        self.settings, self.ref, self.hardware = settings, ref, hardware
        self.folder = StudyFolder.of(home, settings.study)
        self.micro = MicroBatch(settings, ref, hardware, home)
        self.workers: list[Worker] = []
        self.display: Display
        self.interrupted = False
        self._on_interrupt = on_interrupt

    @contextmanager
    def staffed(self) -> Iterator[None]:
        """Workers, started before and ended after; signals are taken as a wish to pause, a second one at once."""
        self.workers = [Worker(i, self.hardware, self.folder.worker_log(i)) for i in range(self.hardware.workers)]
        former = {sign: signal.signal(sign, self._on_signal) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for worker in self.workers:
                worker.end(SEAL_SECONDS if worker.spec else 5.0)
            for sign, handler in former.items():
                signal.signal(sign, handler)

    def renew(self, worker: Worker) -> None:
        """A fresh process in the place of a worker."""
        worker.end(timeout_seconds=0.0)
        self.workers[self.workers.index(worker)] = Worker(worker.index, self.hardware, worker.log)

    def hangs(self, worker: Worker) -> bool:
        """Whether a worker that has a trial gives no sign of life."""
        return worker.trial is not None and worker.silent_seconds > self.settings.hardware.hang_seconds

    @property
    def silence(self) -> str:
        """What to say of it."""
        return f"the worker gave no sign of life for hardware.hang_seconds={self.settings.hardware.hang_seconds:g}"

    def settle_memory(self) -> None:
        """Find the largest micro-batch that fits, before the first trial.

        Raises:
            Interrupted: a signal came.
            RequestError: one example does not fit, or an update fails for another reason.
        """
        micro, ended = self.micro, 0
        while not micro.known:
            fits = self._fits(self.workers[0])
            if fits:
                micro.keep()
                continue
            self.renew(self.workers[0])
            ended += fits is None
            if fits is None and ended < self.settings.hardware.max_attempts:
                continue  # somebody has killed it, perhaps
            ended = 0
            if not micro.halve(micro.largest, micro_batch(micro.largest, micro.examples)):
                raise RequestError(
                    f"task.max_length={micro.length}: not one example of that length fits in memory with "
                    f"model {self.settings.model.name} on {self.hardware.name}; lower task.max_length, or take a "
                    "smaller model"
                )
        if micro.examples < micro.largest:
            self._say_parts()

    def halve(self, batch_size: int, examples: int) -> bool:
        """Memory ran out over `examples` at once, of such a batch: train in smaller parts. False if it was one."""
        before = self.micro.examples
        if not self.micro.halve(batch_size, examples):
            return False
        if self.micro.examples < before:
            self.micro.keep()
            self._say_parts()
        return True

    def score(self, spec: ScoreSpec) -> Scored:
        """Have a trained model scored.

        Raises:
            Interrupted: a signal came.
            NoResultError: workers end over it, again and again.
        """
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
                if self.hangs(worker):
                    self.display.note(self.silence)
                    break
            self.renew(worker)
            worker = self.workers[0]
        raise NoResultError(f"the worker that scores {spec.split} ended {self.settings.hardware.max_attempts} times")

    def _fits(self, worker: Worker) -> bool | None:
        """Ask an idle worker. False also if it hangs: memory on a disk is none. None if it ends for an unknown reason.

        Raises:
            Interrupted: a signal came.
            RequestError: the update fails for another reason, as every trial would.
        """
        worker.ask(self.micro.question())
        while worker.silent_seconds <= self.settings.hardware.hang_seconds:
            for ready in wait_for([worker], timeout_seconds=0.5):
                answer = ready.receive()
                if isinstance(answer, Fits) and answer.fault is not None:
                    raise RequestError(
                        f"a first update fails, as every trial would, so none is started: {answer.fault} (more in "
                        f"{worker.log}); mend it and give the same command"
                    )
                if isinstance(answer, Lost):
                    return False if answer.for_memory else None
                return isinstance(answer, Fits) and answer.fits
            if self.interrupted:
                raise Interrupted("interrupted before the first trial; give the same command to go on")
        self.display.note(self.silence)
        return False

    def _say_parts(self) -> None:
        self.display.note(
            f"memory: batches are trained in parts of at most {self.micro.examples} examples; the updates are the same"
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise Interrupted("interrupted a second time; running trials keep their last checkpoint")
        self.interrupted = True
        self._on_interrupt()
