"""Start, feed, watch and end worker processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from hpsearch.state.records import (
    Alive,
    Decision,
    Fits,
    FitSpec,
    Hardware,
    NoRoom,
    OutOfMemory,
    Progress,
    RungReport,
    Scored,
    ScoreSpec,
    TrialResult,
    TrialSpec,
)
from hpsearch.training.trainer import examples_at_once

ENVIRONMENT = {
    # How long a thread of libgomp (torch's on Linux) waits awake for the others. With its own default, 300,000, steps
    # are several times slower as soon as anything else runs on the machine; see experiments/2026-11-busy-machine.
    "GOMP_SPINCOUNT": "3000",
    # glibc gives large blocks back to the system at once and takes new ones for the next step, each page of which the
    # system must first clear: up to a third of the time. It shall keep them; see experiments/engine.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(2**28),
    "TOKENIZERS_PARALLELISM": "false",
}

VMSTAT = Path("/proc/vmstat")  # Linux

Message = Alive | Fits | Progress | RungReport | TrialResult | Scored | OutOfMemory | NoRoom


@dataclass(frozen=True)
class Lost:
    """A worker ended without being told to; `number` is the trial it had, if any."""

    number: int | None
    reason: str
    for_memory: bool = False  # the system killed it because memory ran out


class Worker:
    """One process, one trial at a time."""

    def __init__(self, index: int, hardware: Hardware, log: Path) -> None:
        self.index, self.hardware, self.log = index, hardware, log
        self.trial: int | None = None
        self.spec: TrialSpec | ScoreSpec | None = None  # what it was given last
        self.pausing = False
        self.silent_seconds = 0.0  # since its last message, as far as somebody was there to listen
        self.killed_before = _killed_for_memory()
        ours, theirs = socket.socketpair()
        environment = ENVIRONMENT | os.environ | {"OMP_NUM_THREADS": str(hardware.threads)}
        if hardware.device == "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = _gpu(index)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hpsearch.training.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the coordinator, which asks its workers to pause
            )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.connection.send(hardware)

    def give(self, spec: TrialSpec | ScoreSpec) -> None:
        """Hand over work; the answer comes through `messages`."""
        self.trial, self.spec, self.pausing, self.silent_seconds = spec.number, spec, False, 0.0
        self._send(spec)

    def ask(self, spec: FitSpec) -> None:
        """Ask an idle worker; Fits comes through `receive`."""
        self.silent_seconds = 0.0
        self._send(spec)

    def answer(self, decision: Decision) -> None:
        """Reply to a RungReport."""
        if not self.pausing:  # PAUSE is under way already and serves as the reply
            self._send(decision)

    def pause(self) -> None:
        """Ask the trial to save and stop after its next step; it answers with a TrialResult."""
        if self.trial is not None and not self.pausing:
            self.pausing = True
            self._send(Decision.PAUSE)

    def receive(self) -> Message | Lost:
        """The next message; call it when `wait_for` names this worker."""
        try:
            message: Message = self.connection.recv()
            self.silent_seconds = 0.0
        except (EOFError, ConnectionResetError):
            number, self.trial = self.trial, None
            status = self.process.wait()
            for_memory = status == -signal.SIGKILL and _killed_for_memory() > self.killed_before
            if number is not None and isinstance(self.spec, TrialSpec) and for_memory:
                examples = examples_at_once(self.spec.settings.train)
                return OutOfMemory(number, examples, "the system killed the worker when memory ran out")
            return Lost(number, f"the worker ended with status {status}; see {self.log}", for_memory)
        if isinstance(message, TrialResult | Scored | OutOfMemory | NoRoom):
            self.trial = None
        return message

    def end(self, timeout_seconds: float) -> None:
        """Let an idle worker go; a busy or stuck one is killed."""
        self._send(None)
        self.connection.close()
        try:
            self.process.wait(0 if self.trial is not None else timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # receive() tells that it is lost
            self.connection.send(message)


def wait_for(workers: list[Worker], timeout_seconds: float) -> list[Worker]:
    """The workers that have something to say, within the timeout."""
    began = time.monotonic()
    ready = wait([worker.connection for worker in workers], timeout_seconds)
    # If this process was stopped or the machine slept, more time has passed, and the workers may have slept too.
    passed = min(time.monotonic() - began, timeout_seconds)
    for worker in workers:
        worker.silent_seconds += passed
    return [worker for worker in workers if worker.connection in ready]


def _killed_for_memory() -> int:
    """Processes that the system has killed because memory ran out, since it was started; 0 where it does not count."""
    try:
        counters = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in counters if line.startswith("oom_kill "))


def _gpu(index: int) -> str:
    """One of the GPUs that this process may use; workers take them in turn."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return gpus[index % len(gpus)]
