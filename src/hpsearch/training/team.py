"""The processes that train one trial together: a worker, which has rank 0, and its helpers.

Each makes the same updates on its part of every batch. The worker alone speaks to the coordinator, scores and saves.
After each update it tells its helpers what it does next. If one of them ends, all do: torch can't go on without it.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import distributed

from hpsearch.config.settings import Settings
from hpsearch.state.messages import Hardware
from hpsearch.state.records import DataRef
from hpsearch.training.checkpoints import Checkpoint

# By these variables Trainer learns, under `torchrun` or MPI, that it is one of several processes.
LAUNCHED = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    *(f"{kind}_COMM_WORLD_{what}" for kind in ("OMPI", "MV2") for what in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
)
SIGN_SECONDS = 2.0  # within which the system tells of a helper's end


@dataclass(frozen=True)
class Place:
    """A helper's first message: what it is one of."""

    hardware: Hardware
    meeting: Path  # file by which the processes find each other


@dataclass(frozen=True)
class Task:
    """What helpers train, together with the worker."""

    settings: Settings
    data: DataRef
    folder: Path  # the trial's
    resume: Checkpoint | None


@dataclass(frozen=True)
class After:
    """What the worker does after an update. Its helpers do the same."""

    save: bool
    stop: bool
    retimed: tuple[tuple[int, int], ...]  # `train.retimed` from now on


def forget_launcher() -> None:
    """Forget that a launcher has started the command as one of several processes: a worker is none of them."""
    for name in LAUNCHED:
        os.environ.pop(name, None)


def join(rank: int, hardware: Hardware, meeting: Path) -> None:
    """Become one of the processes; wait for the others.

    Args:
        rank: number of this process, from 0. On a GPU, it is also that of the GPU.
        hardware: hardware of each process.
        meeting: file by which they find each other.
    """
    processes = hardware.processes
    if hardware.device == "cuda":
        torch.cuda.set_device(rank)
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:  # they are on one machine, and nobody else needs to reach them
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    for name, number in (("RANK", rank), ("WORLD_SIZE", processes)):
        os.environ[name] = os.environ[f"LOCAL_{name}"] = str(number)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    backend = "nccl" if hardware.device == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=processes)
    # NCCL connects at the first call only. What it lacks must show before the first trial.
    distributed.barrier(device_ids=[rank] if hardware.device == "cuda" else None)


class Team:
    """A worker's helpers. There are none where one process trains a trial."""

    def __init__(self) -> None:
        """Begin without helpers."""
        self._helpers: dict[subprocess.Popen[bytes], Connection] = {}
        self._training = False

    def start(self, hardware: Hardware, lost: Callable[[int], None]) -> None:
        """Start the helpers, and wait until they have joined.

        Args:
            hardware: hardware of each process.
            lost: called in a thread with the exit status of a helper that has ended. The worker must end.
        """
        if hardware.processes == 1:
            return
        self._hardware, self._lost = hardware, lost
        self._scratch = tempfile.TemporaryDirectory(prefix="hpsearch-")
        meeting = Path(self._scratch.name) / "meeting"
        for rank in range(1, hardware.processes):
            ours, theirs = socket.socketpair()
            process = subprocess.Popen(
                [sys.executable, "-m", "hpsearch.training.helper", str(theirs.fileno()), str(rank)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
            theirs.close()
            self._helpers[process] = Connection(ours.detach())
            threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        self._tell(Place(hardware, meeting))
        join(0, hardware, meeting)

    def begin(self, task: Task) -> None:
        """Have the helpers train with the worker."""
        self._training = True
        self._tell(task)

    def go_on(self, after: After) -> None:
        """Tell the helpers what follows an update, after which they wait."""
        self._tell(after)

    def abandon(self) -> None:
        """Have helpers that wait after an update give up their task."""
        self._tell(None)
        self.ended()

    def ended(self) -> None:
        """Note that training has ended in all processes."""
        self._training = False

    def explains(self, error: Exception) -> bool:
        """Return whether an error in training comes of a helper's end. Then this process ends soon, too."""
        if not (self._helpers and self._training) or not isinstance(error, RuntimeError):
            return False
        until = time.monotonic() + SIGN_SECONDS
        while all(process.poll() is None for process in self._helpers) and time.monotonic() < until:
            time.sleep(0.05)
        return any(process.poll() is not None for process in self._helpers)

    def settle(self) -> bool:
        """Replace helpers that may still be training, because the worker has met an error.

        Returns:
            Whether the worker can go on. With GPUs it can't: NCCL may wait for ever for helpers that have ended.
        """
        astray = bool(self._helpers) and self._training
        self.ended()
        if astray and self._hardware.device != "cuda":
            self.close()
            distributed.destroy_process_group()
            self.start(self._hardware, self._lost)
        return not astray or self._hardware.device != "cuda"

    def close(self) -> None:
        """End the helpers."""
        helpers, self._helpers = self._helpers, {}
        for process, connection in helpers.items():
            connection.close()
            process.kill()
            process.wait()
        if helpers:
            self._scratch.cleanup()

    def _tell(self, message: Place | Task | After | None) -> None:
        for connection in self._helpers.values():
            with suppress(BrokenPipeError, ConnectionResetError):  # `_watch` sees its end
                connection.send(message)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        if process in self._helpers:  # else it was ended here
            self._scratch.cleanup()
            self._lost(status)
