"""Workers as actors of a Ray cluster. Ray places them and reports their end; the coordinator decides everything else.

A seat (`workers.seat`) is an actor that runs one worker process on its node. All nodes see the state folder at the same
path, so only messages travel. One thread of the coordinator listens to all seats.

A node that is cut off may go on for a while without its coordinator. So its trial must not begin elsewhere before the
seat has ended its worker. A lease bounds that time.
"""

import atexit
import contextlib
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from hpsearch.config.settings import ClusterSettings, HardwareSettings, Settings
from hpsearch.errors import OutOfReachError, RequestError, first_line
from hpsearch.state import identity
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
)
from hpsearch.training.folders import local_folder
from hpsearch.workers.cluster import Head, alive, join, placed
from hpsearch.workers.interface import Worker
from hpsearch.workers.seat import Seat

LEASE_SECONDS = 60.0  # a seat that is not called for so long ends its worker
LISTEN_SECONDS = 5.0  # a seat answers after so long at the most, without a message too
TURN_SECONDS = 0.5  # until the listening thread looks for new workers
START_SECONDS = 120.0  # for the cluster to start a first worker
SPARE_SECONDS = 5.0  # for a seat to end its worker after its lease
END_SECONDS = 10.0  # for a seat to let its worker go
STARTS = 3  # workers in a row that may end before they begin
PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "PYTHONPATH")  # of the environment; no secret is among these
LAST_OF_A_TRIAL = (TrialResult, Scored, FloorFitted, OutOfMemory, NoRoom)

Heard = Message | Unfit


class RayWorkplace:
    """A Ray cluster that runs already, or Ray on this machine, which ends with this process."""

    lease_seconds = LEASE_SECONDS

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
        if settings.device == "cuda" and not cluster.gpus:
            raise RequestError("hardware.device=cuda: needs cluster.gpus=1, or a part of a GPU")
        self.home, self.cluster = home.absolute(), cluster
        join(cluster.address)
        resources = [node["Resources"] for node in alive()]
        if len(resources) > 1 and not cluster.shared:
            raise RequestError(
                f"cluster.shared=false: all nodes must see the state folder {self.home} at the same path; give "
                "cluster.shared=true if they do, or set HPSEARCH_HOME to such a folder"
            )
        self._cpus, self.count = placed(cluster, resources)
        sharing = round(1 / cluster.gpus) if 0 < cluster.gpus < 1 else 1
        threads = self._cpus if settings.threads == "auto" else settings.threads
        self._wish = settings.model_copy(update={"workers": sharing, "threads": threads})
        self._hardware: Hardware | None = None
        self._spare: RayWorker | None = None
        self._unbegun = 0  # workers in a row that have ended before they began
        self._begun: Path | None = None
        self._serving: dict[Any, RayWorker] = {}  # by the reference to what its seat will say next
        self._head = Head()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._closing, self._away, self._told = False, "", False
        self.news = threading.Condition()

    @property
    def hardware(self) -> Hardware:
        """The hardware that the first worker reports. The worker is started for this."""
        if self._hardware is None:
            self._spare = self._start(0, "cluster")
            self._hardware = self._spare.begun(START_SECONDS)
        return self._hardware

    def start(self, index: int, output: str) -> "RayWorker":
        """Start a fresh actor. Its worker writes its output to `<index>.log` in the folder `output`."""
        spare, self._spare = self._spare, None
        if spare is not None and index == spare.index:
            return spare
        if spare is not None:
            spare.end(0)
        return self._start(index, output)

    def _start(self, index: int, output: str) -> "RayWorker":
        if self._begun is None:
            self._begun = self.home / "cluster" / uuid.uuid4().hex
            self._begun.parent.mkdir(parents=True, exist_ok=True)
            self._begun.touch()
            self._listener.start()
            atexit.register(self._close)
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        grouped: Any = ray.remote(concurrency_groups={"hear": 1, "tell": 1})  # type: ignore[call-overload]
        actor = grouped(Seat).options(
            num_cpus=self._cpus,
            num_gpus=self.cluster.gpus,
            max_restarts=0,  # the coordinator replaces what dies
            runtime_env={"env_vars": variables},
        )
        seat = actor.remote(index, self._wish, self.home, output, self._begun, identity.made_by(), self.lease_seconds)
        worker = RayWorker(index, seat, self, str(self.home / output / f"{index}.log"))
        with self.news:
            self._serving[seat.hear.remote(LISTEN_SECONDS)] = worker
        return worker

    def hear(self, workers: Sequence[Worker], timeout_seconds: float) -> Iterator[tuple[Worker, Message]]:
        """See Workplace."""
        ours = []
        for worker in workers:
            assert isinstance(worker, RayWorker), "it was started here"
            ours.append(worker)
        began = time.monotonic()
        with self.news:
            self.news.wait_for(
                lambda: (self._away and not self._told) or any(worker.inbox for worker in ours), timeout_seconds
            )
            ready = [worker for worker in ours if worker.inbox]
        if self._away and not self._told:  # once: after it, the coordinator has its workers save
            self._told = True
            raise OutOfReachError(
                f"cluster: Ray does not answer any more: {self._away}; when it is back, the same command goes on"
            )
        passed = min(time.monotonic() - began, timeout_seconds)
        for worker in ours:
            worker.silent_seconds += passed if worker.ready else 0.0  # the cluster may have no room for it yet
        return ((worker, worker.receive()) for worker in ready)

    def _close(self) -> None:
        """Stop listening, before Ray's own end, because a later call would start Ray again."""
        self._closing = True
        self._listener.join()
        if self._begun is not None:
            self._begun.unlink(missing_ok=True)

    def counted(self, begun: bool, reason: str = "") -> None:
        """Count the workers that end before they begin. Raises OutOfReachError after too many in a row."""
        self._unbegun = 0 if begun else self._unbegun + 1
        if self._unbegun >= STARTS:
            raise OutOfReachError(f"cluster: {STARTS} workers in a row ended before they began: {reason}")

    def _listen(self) -> None:
        """Put what the seats say into the inboxes of their workers."""
        try:
            while not self._closing:
                with self.news:
                    serving = dict(self._serving)
                if self._head.away and not self._told:
                    self._tell_away("its head is gone")
                if not serving:
                    time.sleep(TURN_SECONDS)
                    continue
                spoken, _ = ray.wait(list(serving), num_returns=1, timeout=TURN_SECONDS)
                more, _ = ray.wait(list(serving), num_returns=len(serving), timeout=0)
                for reference in {*spoken, *more}:
                    self._pass_on(reference, serving[reference])
        except Exception as error:  # whatever it is, nobody listens any more
            self._tell_away(f"{type(error).__name__}: {first_line(error)}")

    def _unsaid(self) -> bool:
        return bool(self._away) and not self._told

    def _tell_away(self, reason: str) -> None:
        with self.news:
            self._away = reason
            self.news.notify_all()

    def _pass_on(self, reference: Any, worker: "RayWorker") -> None:
        message: Heard | None
        try:
            message = ray.get(reference)
        except RayError as error:
            message = _lost(error)
            if not worker.ended and (not isinstance(error, ActorDiedError) or worker.cut_off()):
                message = replace(message, number=None)  # the loss of a node is no fault of the trial
                threading.Thread(target=self._pass_on_later, args=(reference, worker, message), daemon=True).start()
                return
        worker.heard_at = time.monotonic()
        self._say(reference, worker, message)

    def _pass_on_later(self, reference: Any, worker: "RayWorker", message: Lost) -> None:
        """Report the end of a worker whose node is cut off, once the worker is sure to have ended there."""
        with self.news:
            self._serving.pop(reference, None)
        worker.wait_until_gone()
        self._say(reference, worker, message)

    def _say(self, reference: Any, worker: "RayWorker", message: Heard | None) -> None:
        with self.news:
            self._serving.pop(reference, None)
            if worker.ended:
                return
            if message is not None:
                worker.inbox.append(message)
                self.news.notify_all()
            if not isinstance(message, Lost | Unfit):
                self._serving[worker.seat.hear.remote(LISTEN_SECONDS)] = worker


class RayWorker:
    """The coordinator's handle of one actor."""

    def __init__(self, index: int, seat: Any, place: RayWorkplace, output: str) -> None:
        self.index, self.output, self.seat, self._place = index, output, seat, place
        self.trial: int | None = None
        self.silent_seconds = 0.0
        self.inbox: deque[Heard] = deque()
        self.ready = False  # whether its first message is received
        self.ended = False
        self.heard_at = time.monotonic()  # last time that the seat has answered
        self._pausing = False
        self._node = seat.node.remote()

    def give(self, work: Train | Score | FitFloor) -> None:
        """See Worker."""
        self.trial, self._pausing, self.silent_seconds = work.number, False, 0.0
        self._tell(replace(work, settings=_for_a_node(work.settings)))

    def ask(self, question: Probe | Pace) -> None:
        """See Worker."""
        self.silent_seconds = 0.0
        self._tell(replace(question, settings=_for_a_node(question.settings)))

    def answer(self, decision: Decision) -> None:
        """See Worker."""
        if not self._pausing:
            self._tell(decision)

    def pause(self) -> None:
        """See Worker."""
        if self.trial is not None and not self._pausing:
            self._pausing = True
            self._tell(Decision.PAUSE)

    def retime(self, total_steps: int) -> None:
        """See Worker."""
        if self.trial is not None and not self._pausing:
            self._tell(Retime(total_steps))

    def _tell(self, request: Train | Score | FitFloor | Probe | Pace | Decision | Retime) -> None:
        with contextlib.suppress(RayError):  # if the seat is gone, the listening thread learns of it
            self.seat.tell.remote(request)

    def receive(self) -> Message:
        """Return the next message, which has arrived.

        Raises:
            RequestError: the worker is Unfit.
            OutOfReachError: several workers in a row ended before they began.
        """
        message = self.inbox.popleft()
        self.silent_seconds = 0.0
        if isinstance(message, Unfit):
            raise RequestError(message.reason)
        if isinstance(message, Ready):
            self.ready = True
            self._place.counted(begun=True)
        if isinstance(message, Lost):
            charged = self.trial if self.ready and message.number is not None else None
            if not self.ready:
                self._place.counted(begun=False, reason=message.reason)
            message = Lost(charged, message.reason, message.for_memory, message.last_words)
        if isinstance(message, (*LAST_OF_A_TRIAL, Lost)):
            self.trial = None
        return message

    def begun(self, timeout_seconds: float) -> Hardware:
        """Wait for a fresh worker, and return its hardware. Raises RequestError, OutOfReachError."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            for _, message in self._place.hear([self], 1.0):
                if isinstance(message, Ready):
                    self.inbox.appendleft(message)  # for the one who gets the worker
                    return message.hardware
                if isinstance(message, Lost):
                    raise OutOfReachError(f"cluster: a worker ended before it began: {message.reason}")
        raise OutOfReachError(
            f"cluster: no node has started a worker within {timeout_seconds:.0f} s; see what else the cluster is busy "
            "with (`ray status`)"
        )

    def cut_off(self) -> bool:
        """Return whether its node is no part of the cluster any more."""
        try:
            node = ray.get(self._node, timeout=0)
        except (RayError, GetTimeoutError):
            return False  # it was never placed
        return not any(one["NodeID"] == node for one in alive())

    def end(self, timeout_seconds: float) -> None:
        """See Worker."""
        self.ended = True
        patience = timeout_seconds if self.trial is None else 0.0
        try:
            ray.get(self.seat.end.remote(patience), timeout=patience + END_SECONDS)
        except (RayError, GetTimeoutError) as error:
            unsure = not isinstance(error, ActorDiedError) or self.cut_off()
            if unsure and self.trial is not None:
                self.wait_until_gone()
        ray.kill(self.seat)

    def wait_until_gone(self) -> None:
        """Wait until the lease of a seat that does not answer is over, so that its worker has ended."""
        until = self.heard_at + LISTEN_SECONDS + self._place.lease_seconds + SPARE_SECONDS
        time.sleep(max(0.0, until - time.monotonic()))


def _for_a_node(settings: Settings) -> Settings:
    """Return settings with a whole path of the model, and without addresses, which may hold passwords."""
    folder = None
    if not settings.model.path.startswith("package://"):
        with contextlib.suppress(RequestError):  # the worker says that it is missing
            folder = local_folder(settings.model)
    model = settings.model if folder is None else settings.model.model_copy(update={"path": str(folder)})
    without = {name: getattr(settings, name).model_copy(update={"uri": None}) for name in ("tracking", "storage")}
    return settings.model_copy(update={"model": model, **without})


def _lost(error: RayError) -> Lost:
    """Return the message that stands for the end of an actor."""
    reason = f"the worker's actor ended: {type(error).__name__}: {first_line(error)}"
    return Lost(0, reason, for_memory="memory" in str(error).lower())
