"""Workers as processes of this machine. Only this module knows sockets, signals, environment and log files."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from hpsearch.config.settings import HardwareSettings
from hpsearch.errors import RequestError
from hpsearch.state.messages import (
    MEMORY_RAN_OUT,
    Begin,
    Decision,
    FitFloor,
    LastOfWork,
    Lost,
    Message,
    OutOfMemory,
    Pace,
    Probe,
    Request,
    Retime,
    Score,
    Train,
    Unfit,
)
from hpsearch.training.parts import examples_at_once
from hpsearch.workers.interface import SAVING_SECONDS, Worker

ENVIRONMENT = {
    # How long a thread of libgomp (torch's on Linux) spins while it waits for the others. With the default, 300,000,
    # steps are several times slower when anything else runs on the machine: see experiments/2026-11-busy-machine.
    "GOMP_SPINCOUNT": "3000",
    # By default glibc returns large blocks to the system at once and takes new ones for the next step. The system must
    # first clear their pages, which takes up to a third of the time. With these, glibc keeps them: see
    # experiments/engine.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(2**28),
    "TOKENIZERS_PARALLELISM": "false",
}

VMSTAT = Path("/proc/vmstat")  # Linux
STARTING_SECONDS = 5.0  # time in which a worker that has had no work may end by itself: it may still be importing
LAST_WORDS = 500  # bytes at the end of a lost worker's log


class LocalWorkplace:
    """This machine. Workers use the coordinator's state folder, so nothing is copied."""

    saving_seconds, carried = SAVING_SECONDS, None

    def __init__(self, settings: HardwareSettings, home: Path, processes: int = 1) -> None:
        """Find the hardware of this machine; `home` is the state folder, and so many processes train one trial.

        Raises:
            RequestError: this machine lacks what the settings ask for.
        """
        from hpsearch.training import hardware  # imports torch, which takes long: only where needed

        # The hardware that a worker will find, without starting one.
        self.home, self.hardware = home, hardware.resolve(settings, processes)
        self.count = hardware.workers(settings, processes)
        gpus = _gpus() if self.hardware.device == "cuda" else []
        self.gpus = [",".join(some) for some in zip(*[iter(gpus)] * processes, strict=False)]  # those of a worker
        # A worker sees its own GPUs only, and has the same device, precision and threads as the others.
        sharing = self.hardware.on_a_gpu if self.gpus else self.count
        found = {name: getattr(self.hardware, name) for name in ("device", "precision", "threads")}
        self.wish = settings.model_copy(update=found | {"workers": sharing})

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def start(self, index: int, output: str) -> "LocalWorker":
        """Start a fresh process, whose output goes to `<index>.log` in the folder `output`."""
        environment = ENVIRONMENT | os.environ | {"OMP_NUM_THREADS": str(self.hardware.threads)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[index % len(self.gpus)]  # workers take the GPUs in turn
        begin = Begin(self.wish, self.home.absolute(), self.hardware.processes)
        return LocalWorker(index, begin, self.home / output, environment)

    def hear(self, workers: Sequence[Worker], timeout_seconds: float) -> Iterator[tuple[Worker, Message]]:
        """See Workplace."""
        ours = []
        for worker in workers:
            assert isinstance(worker, LocalWorker), "it was started here"
            ours.append(worker)
        began = time.monotonic()
        ready = wait([worker.connection for worker in ours], timeout_seconds)
        # If this process was stopped or the machine slept, more time has passed, and the workers may have slept too.
        passed = min(time.monotonic() - began, timeout_seconds)
        for worker in ours:
            worker.silent_seconds += passed
        return ((worker, worker.receive()) for worker in ours if worker.connection in ready)


class LocalWorker:
    """A worker that is a process of this machine."""

    leaving = False

    def __init__(
        self,
        index: int,
        begin: Begin,
        folder: Path,
        environment: dict[str, str],
        module: str = "hpsearch.training.worker",
    ) -> None:
        """Start the process, which runs a module; its log is in `folder`."""
        self.index, self.log, self.node = index, folder / f"{index}.log", socket.gethostname()
        self.trial: int | None = None
        self.work: Train | Score | FitFloor | None = None  # the last work that it was given
        self.pausing = False
        self.silent_seconds = 0.0
        self.killed_before, self.processes = _killed_for_memory(), begin.processes
        ours, theirs = socket.socketpair()
        folder.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the coordinator, which asks its workers to pause
            )
        theirs.close()
        self.connection = Connection(ours.detach())
        self._send(begin)

    @property
    def ready(self) -> bool:
        """True: its socket keeps what it is given."""
        return True

    @property
    def output(self) -> str:
        """Path of its log."""
        return str(self.log)

    def give(self, work: Train | Score | FitFloor) -> None:
        """See Worker."""
        self.trial, self.work, self.pausing, self.silent_seconds = work.number, work, False, 0.0
        self._send(work)

    def ask(self, question: Probe | Pace) -> None:
        """See Worker."""
        self.silent_seconds = 0.0
        self._send(question)

    def answer(self, decision: Decision) -> None:
        """See Worker."""
        if not self.pausing:  # PAUSE was already sent and serves as the reply
            self._send(decision)

    def pause(self) -> None:
        """See Worker."""
        if self.trial is not None and not self.pausing:
            self.pausing = True
            self._send(Decision.PAUSE)

    def retime(self, total_steps: int) -> None:
        """See Worker."""
        if self.trial is not None and not self.pausing:
            self._send(Retime(total_steps))

    def receive(self) -> Message:
        """Wait for the next message and return it. Raises RequestError if it is Unfit."""
        try:
            message: Message | Unfit = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._lost()
        self.silent_seconds = 0.0
        if isinstance(message, Unfit):
            raise RequestError(message.reason)
        if isinstance(message, LastOfWork):
            self.trial = None
        return message

    def end(self, timeout_seconds: float) -> None:
        """See Worker."""
        self._send(None)
        self.connection.close()
        patience = timeout_seconds if self.work is not None else min(timeout_seconds, STARTING_SECONDS)
        try:
            self.process.wait(0 if self.trial is not None else patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _lost(self) -> OutOfMemory | Lost:
        """Return the message that stands for the end of the process."""
        number, self.trial = self.trial, None
        status = self.process.wait()
        killed = _killed_for_memory() > self.killed_before
        for_memory = (status == -signal.SIGKILL and killed) or status == MEMORY_RAN_OUT
        if number is not None and isinstance(self.work, Train) and for_memory:
            examples = examples_at_once(self.work.settings.train, self.processes)
            cause = "the system killed the worker when memory ran out" if killed else "a helper's memory ran out"
            return OutOfMemory(number, examples, cause)
        reason = f"the worker ended with status {status}; see {self.log}"
        return Lost(number, reason, for_memory, self.log.read_bytes()[-LAST_WORDS:].decode(errors="replace"))

    def _send(self, request: Request) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # receive() reports the loss
            self.connection.send(request)


def _killed_for_memory() -> int:
    """Return how many processes the system has killed for lack of memory since it started; 0 if it does not count."""
    try:
        counters = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in counters if line.startswith("oom_kill "))


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
