"""Workers as actors of a Ray cluster. Ray places them and reports their end; the coordinator decides everything else.

A seat (`workers.seat`) is an actor that runs one worker process on its node. Two threads of the coordinator serve a
seat. One sends files, and then the request that needs them. The other receives messages, and fetches the files that a
message names before it passes the message on. So no disk needs to be shared.
"""

import contextlib
import errno
import os
import queue
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from hpsearch.config.settings import ClusterSettings, HardwareSettings
from hpsearch.errors import OutOfReachError, RequestError, first_line
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Decision,
    FitFloor,
    FloorFitted,
    Hardware,
    Lost,
    Message,
    NoRoom,
    OutOfMemory,
    Pace,
    Probe,
    Ready,
    Retime,
    Score,
    Scored,
    Train,
    TrialResult,
    Unfit,
    named,
)
from hpsearch.state.records import Status
from hpsearch.training import checkpoints
from hpsearch.workers.interface import Worker
from hpsearch.workers.parcels import Arrival, Content, read
from hpsearch.workers.seat import Heard, Seat

LISTEN_SECONDS = 0.5  # a seat's answer comes after so long at the most, or with its next message
START_SECONDS = 120.0  # for a node to start a seat
KNOCK_SECONDS = 5.0  # for the head of a cluster to answer
END_SECONDS = 10.0  # for a seat to let its worker go
PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "PYTHONPATH")  # of the environment; no secret is among these
LAST_OF_A_TRIAL = (TrialResult, Scored, FloorFitted, OutOfMemory, NoRoom)


class RayWorkplace:
    """A Ray cluster that runs already, or Ray on this machine, which ends with this process."""

    def __init__(self, settings: HardwareSettings, cluster: ClusterSettings, home: Path) -> None:
        """Join the cluster.

        Args:
            settings: the hardware settings of a worker.
            cluster: address of the cluster, and the share of it that a worker gets.
            home: the state folder.

        Raises:
            RequestError: the cluster lacks what the settings ask for.
            OutOfReachError: no cluster answers at the address.
        """
        self.home, self.cluster = home, cluster
        self.shared = _join(cluster.address) or cluster.shared
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus = int(total.get("CPU", 0))
        self._cpus = cluster.cpus if cluster.cpus is not None else max(1, cpus // (cluster.workers or 1))
        places = cpus // self._cpus
        if cluster.gpus:
            places = min(places, int(total.get("GPU", 0) / cluster.gpus))
        self.count = cluster.workers if cluster.workers is not None else places
        if places < max(1, self.count):
            raise RequestError(
                f"cluster.workers={cluster.workers}, cluster.cpus={self._cpus}, cluster.gpus={cluster.gpus:g}: the "
                f"cluster has {cpus} CPUs and {total.get('GPU', 0):g} GPUs, room for {places} workers; lower them"
            )
        sharing = round(1 / cluster.gpus) if 0 < cluster.gpus < 1 else 1
        threads = self._cpus if settings.threads == "auto" else settings.threads
        self._wish = settings.model_copy(update={"workers": sharing, "threads": threads})
        self._spare: RayWorker | None = None
        self._hardware: Hardware | None = None
        self._parcels: dict[str, list[tuple[str, int, Any]]] = {}
        self._packing = threading.Lock()
        self.news = threading.Condition()

    @property
    def hardware(self) -> Hardware:
        """The hardware that the first worker reports. The worker is started for this."""
        if self._hardware is None:
            self._spare = self._start(0, "cluster")
            self._hardware = self._spare.ready(START_SECONDS)
        return self._hardware

    def start(self, index: int, output: str) -> "RayWorker":
        """Start a fresh actor. Its worker writes its output to `<index>.log` in the folder `output` on its node."""
        spare, self._spare = self._spare, None
        if spare is not None and index == spare.index:
            return spare
        if spare is not None:
            spare.end(0)
        return self._start(index, output)

    def _start(self, index: int, output: str) -> "RayWorker":
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        placed = ray.remote(Seat).options(
            num_cpus=self._cpus,
            num_gpus=self.cluster.gpus,
            max_restarts=0,  # the coordinator replaces what dies
            max_concurrency=4,
            runtime_env={"env_vars": variables},
        )
        seat = placed.remote(index, self._wish, self.home.absolute() if self.shared else None, output)
        return RayWorker(index, seat, self, output)

    def hear(self, workers: Sequence[Worker], timeout_seconds: float) -> Iterator[tuple[Worker, Message]]:
        """See Workplace."""
        ours = []
        for worker in workers:
            assert isinstance(worker, RayWorker), "it was started here"
            ours.append(worker)
        began = time.monotonic()
        with self.news:
            self.news.wait_for(lambda: any(worker.inbox for worker in ours), timeout_seconds)
            ready = [worker for worker in ours if worker.inbox]
        passed = min(time.monotonic() - began, timeout_seconds)
        for worker in ours:
            worker.silent_seconds += passed
        return ((worker, worker.receive()) for worker in ready)

    def parcel(self, folder: Path, name: str) -> list[tuple[str, int, Any]]:
        """Put a folder into the object store, once, and return its pieces: file, offset, reference."""
        with self._packing:
            if name not in self._parcels:
                content = Content.of(folder)
                self._parcels[name] = [
                    (file, offset, ray.put(read(folder / file, offset, size)))
                    for file, offset, size in content.pieces()
                ]
            return self._parcels[name]


class RayWorker:
    """The coordinator's handle of one actor."""

    def __init__(self, index: int, seat: Any, place: RayWorkplace, output: str) -> None:
        self.index, self.output = index, f"{output}/{index}.log on its node"
        self.trial: int | None = None
        self.silent_seconds = 0.0
        self.inbox: deque[Message | Unfit] = deque()
        self.seat, self._place, self._shared = seat, place, place.shared
        self._pausing = False
        self._work: Train | Score | FitFloor | None = None
        self._ended = False
        self._settled = threading.Event()  # what its last trial has written is here
        self._settled.set()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for serve in (self._speak, self._listen):
            threading.Thread(target=serve, daemon=True).start()

    def give(self, work: Train | Score | FitFloor) -> None:
        """See Worker."""
        self.trial, self._work, self._pausing, self.silent_seconds = work.number, work, False, 0.0
        self._requests.put(work)

    def ask(self, question: Probe | Pace) -> None:
        """See Worker."""
        self.silent_seconds = 0.0
        self._requests.put(question)

    def answer(self, decision: Decision) -> None:
        """See Worker."""
        if not self._pausing:
            self._requests.put(decision)

    def pause(self) -> None:
        """See Worker."""
        if self.trial is not None and not self._pausing:
            self._pausing = True
            self._requests.put(Decision.PAUSE)

    def retime(self, total_steps: int) -> None:
        """See Worker."""
        if self.trial is not None and not self._pausing:
            self._requests.put(Retime(total_steps))

    def receive(self) -> Message:
        """Return the next message, which has arrived. Raises RequestError for an Unfit worker."""
        message = self.inbox.popleft()
        self.silent_seconds = 0.0
        if isinstance(message, Unfit):
            raise RequestError(message.reason)
        if isinstance(message, LAST_OF_A_TRIAL):
            self.trial = None
        if isinstance(message, Lost):
            message = Lost(self.trial, message.reason, message.for_memory, message.last_words)
            self.trial = None
        return message

    def ready(self, timeout_seconds: float) -> Hardware:
        """Wait for a fresh worker, and return its hardware. Raises RequestError, OutOfReachError."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            for _, message in self._place.hear([self], 1.0):
                if isinstance(message, Ready):
                    self._say(message)  # for the one who gets the worker
                    return message.hardware
                if isinstance(message, Lost):
                    raise OutOfReachError(f"cluster: a worker ended before it began: {message.reason}")
        raise OutOfReachError(f"cluster: no node started a worker within {timeout_seconds:.0f} s")

    def end(self, timeout_seconds: float) -> None:
        """See Worker."""
        patience = timeout_seconds if self.trial is None else 0.0
        self._settled.wait(patience)
        self._ended = True
        self._requests.put(None)
        with contextlib.suppress(RayError):
            ray.get(self.seat.end.remote(patience), timeout=patience + END_SECONDS)
        ray.kill(self.seat)

    # ---- to the seat

    def _speak(self) -> None:
        """Send the files of each request, then the request, in order."""
        while (request := self._requests.get()) is not None:
            try:
                model = self._send_files(request) if not isinstance(request, Decision | Retime) else None
                ray.get(self.seat.tell.remote(request, model))
            except Exception as error:
                if not self._ended:
                    self._say(self._failed(error, "files for the worker could not be sent"))
                return

    def _failed(self, error: Exception, what: str) -> NoRoom | Lost:
        """Return the message about a worker that is of no more use."""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and isinstance(self._work, Train):
            return NoRoom(self._work.number)
        return Lost(None, f"{what}: {type(error).__name__}: {first_line(error)}")

    def _send_files(self, request: Train | Score | FitFloor | Probe | Pace) -> str | None:
        """Send the folders that a request names and the node lacks. Return the name of the pretrained model there."""
        if self._shared:
            return None
        home = self._place.home
        self._send_parcel(home / request.data.folder, request.data.folder)
        path, name = Path(request.settings.model.path), None
        if path.is_dir():
            name = f"models/{Content.of(path).digest}"
            self._send_parcel(path, name)
        if isinstance(request, Train):
            (home / request.folder).mkdir(parents=True, exist_ok=True)
            checkpoints.newest(home / request.folder)  # waits for one that is on its way
            for folder in TrialFolder(home / request.folder).checkpoints():
                self._send_folder(f"{request.folder}/{folder.name}")
        if isinstance(request, Score):
            for each in (request.folder, *([request.words] if request.words is not None else [])):
                self._send_folder(named(TrialFolder(home / each).model, home))
        return name

    def _send_parcel(self, folder: Path, name: str) -> None:
        if ray.get(self.seat.has.remote(name)):
            return
        content = Content.of(folder)
        for file, offset, piece in self._place.parcel(folder, name):
            ray.get(self.seat.write.remote(name, file, offset, piece))
        ray.get(self.seat.settle.remote(name, content))

    def _send_folder(self, name: str) -> None:
        folder = self._place.home / name
        content = Content.of(folder)
        for file, offset, size in content.pieces():
            ray.get(self.seat.write.remote(name, file, offset, read(folder / file, offset, size)))
        ray.get(self.seat.settle.remote(name, content))

    # ---- from the seat

    def _listen(self) -> None:
        """Pass messages on, each after the files that it names have arrived."""
        while not self._ended:
            try:
                heard: Heard = ray.get(self.seat.hear.remote(LISTEN_SECONDS))
                work = self._work
                for message in heard.messages:
                    self._take(message, work)
                    if isinstance(message, Lost | Unfit):
                        return
                if isinstance(work, Train) and not self._shared and heard.sealed:
                    with checkpoints.held(self._place.home / work.folder):
                        self._fetch_checkpoints(work.folder, heard.sealed)
            except Exception as error:
                if not self._ended:
                    self._say(self._failed(error, "the worker's actor ended"))
                return

    def _take(self, message: Message | Unfit, work: Train | Score | FitFloor | None) -> None:
        if self._shared or work is None or not isinstance(message, LAST_OF_A_TRIAL):
            self._say(message)
            return
        place = TrialFolder(self._place.home / work.folder)
        if isinstance(message, TrialResult | FloorFitted):
            self._fetch(named(place.model, self._place.home))
        if not isinstance(work, Train):
            self._say(message)
            ray.get(self.seat.clear.remote(work.folder))
            return
        place.path.mkdir(parents=True, exist_ok=True)
        self._settled.clear()
        try:
            with checkpoints.held(place.path):  # whoever asks for its checkpoints waits for them
                self._say(message)
                if not isinstance(message, TrialResult) or message.status is Status.PAUSED:
                    self._fetch_checkpoints(work.folder, ray.get(self.seat.sealed.remote(work.folder)))
                ray.get(self.seat.clear.remote(work.folder))
        finally:
            self._settled.set()

    def _fetch_checkpoints(self, folder: str, names: Sequence[str]) -> None:
        """Fetch the checkpoints that are missing here, and delete those that the worker has deleted."""
        trial = TrialFolder(self._place.home / folder)
        for name in names:
            if not (trial.path / name).is_dir():
                self._fetch(f"{folder}/{name}")
        for here in trial.checkpoints():
            if names and here.name not in names:
                shutil.rmtree(here)

    def _fetch(self, name: str) -> None:
        """Fetch a folder, if it exists."""
        if not ray.get(self.seat.has.remote(name)):
            return
        content: Content = ray.get(self.seat.content.remote(name))
        arrival = Arrival(self._place.home / name)
        for file, offset, size in content.pieces():
            arrival.write(file, offset, ray.get(self.seat.read.remote(f"{name}/{file}", offset, size)))
        arrival.settle(content)

    def _say(self, message: Message | Unfit) -> None:
        with self._place.news:
            self.inbox.append(message)
            self._place.news.notify_all()


def _join(address: str | None) -> bool:
    """Join the cluster at an address, else that of RAY_ADDRESS, else start one on this machine.

    Returns:
        Whether the cluster is this machine's own.

    Raises:
        RequestError: The address is no `host:port`.
        OutOfReachError: No cluster answers.
    """
    if ray.is_initialized():
        return False
    known = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if known is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    else:
        _knock(known)
    dashboard = None if known else False  # None: the cluster decides
    try:
        ray.init(address=known or "local", include_dashboard=dashboard, log_to_driver=False)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise _away(str(known), error) from None
    return known is None


def _knock(address: str) -> None:
    """See within seconds that something answers. Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdecimal():
        raise RequestError(
            f"cluster.address={address}: is no <host>:<port> of a Ray cluster's head, as `ray start` prints"
        )
    try:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        raise _away(address, error) from None


def _away(address: str, error: Exception) -> OutOfReachError:
    return OutOfReachError(
        f"cluster.address={address}: no Ray cluster answers there ({first_line(error)}); start it, or leave it out"
    )
