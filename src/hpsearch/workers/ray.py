"""Workers as actors of a Ray cluster. Ray places them and reports their end; the coordinator decides everything else.

A seat (`workers.seat`) is an actor that runs one worker process on its node. All nodes see the state folder at the same
path, so only messages travel. One thread of the coordinator listens to all seats.

A node that is cut off may go on for a while without its coordinator. So its trial must not begin elsewhere before the
seat has ended its worker. A lease bounds that time.
"""

import atexit
import errno
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from hpsearch.config.settings import ClusterSettings, HardwareSettings
from hpsearch.errors import HpsearchError, OutOfReachError, RequestError, first_line
from hpsearch.state import identity
from hpsearch.state.messages import Hardware, Lost, Message, NoRoom, OutOfMemory, Pace, Probe, Unfit
from hpsearch.state.roster import Carried
from hpsearch.workers.cluster import KNOCK_SECONDS, Head, alive, drained, gpus, join, placed, places, present
from hpsearch.workers.courier import ClosedError, Courier
from hpsearch.workers.environment import not_set_up, of_job, of_worker
from hpsearch.workers.far_seat import FarSeat
from hpsearch.workers.interface import SAVING_SECONDS, Worker
from hpsearch.workers.ray_worker import END_SECONDS, Heard, RayWorker, Request, Uncarried
from hpsearch.workers.seat import Seat
from hpsearch.workers.sent import Sent

CARRYING_SECONDS = 90.0  # for workers to save their checkpoints and for these to come; SLURM's script gives 120 s
LEASE_SECONDS = 60.0  # a seat that is not called for so long ends its worker
TURN_SECONDS = 0.5  # until the listening thread looks for new workers
IDLE_SECONDS = 30.0  # after which the listening thread ends, if there is no worker
START_SECONDS = 120.0  # for the cluster to start a first worker on the nodes that it has
MAKING_SECONDS = 900.0  # the same where a node or an environment is made for it
FULL = (errno.ENOSPC, errno.EDQUOT)
GONE = (RayActorError, OutOfMemoryError, NodeDiedError, ObjectLostError)  # of an actor, not of a call to it
NODE_LABEL = "ray.io/node-id"  # of each node, by Ray
REFUSED = 3  # nodes of an autoscaler that may lack something
STARTS = 3  # workers in a row that may end before they begin


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
        self.home = home.absolute()
        others_may_come = join(cluster.address, of_job(cluster.environment))
        resources = [node["Resources"] for node in alive()]
        # A node that is alone is this machine, so it sees the state folder.
        self.far = (len(resources) > 1 or others_may_come) and not cluster.shared
        self.sent = Sent()  # all couriers share it
        self._gpus = gpus(cluster, settings.device, resources)
        self._cpus, self.count = placed(cluster, self._gpus, resources)
        self._refused: set[str] = set()  # ids of nodes that lack something
        self.drained: frozenset[str] = frozenset()  # ids of nodes that will go soon
        self._cluster = cluster
        sharing = int(1 / self._gpus) if 0 < self._gpus < 1 else 1
        self.processes = cluster.processes_per_trial
        threads = self._cpus // self.processes if settings.threads == "auto" else settings.threads
        self._wish = settings.model_copy(update={"workers": sharing, "threads": threads})
        self._hardware: Hardware | None = None
        self._spare: RayWorker | None = None
        self._unbegun = 0  # workers in a row that have ended before they began
        self._begun: Path | None = None
        self.serving: dict[Any, RayWorker] = {}  # by the reference to what its seat will say next
        self._handled: list[RayWorker] = []
        self._head = Head()
        self.listening = self._closing = self._told = False
        self.away = ""  # why Ray does not answer any more
        self._none_since: float | None = None  # no worker is ready since then
        self.news = threading.Condition()
        self.closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def brings_code(self) -> bool:
        """Whether nodes get hpsearch from here, and so lack the packages with weights."""
        return self._cluster.environment == "package"

    @property
    def carried(self) -> Carried | None:
        """See Workplace."""
        return self.sent.carried if self.far else None

    @property
    def saving_seconds(self) -> float:
        """See Workplace. Ray itself ends this process a minute after its head has gone."""
        return CARRYING_SECONDS if self.far and not self.away else SAVING_SECONDS

    @property
    def hardware(self) -> Hardware:
        """The hardware that the first worker reports. The worker is started for this."""
        if self._hardware is None:
            (self.home / "cluster" / "0.log").unlink(missing_ok=True)
            self._spare = self._start(0, "cluster")
            try:
                self._hardware = found = self._spare.begun()
            except HpsearchError:
                self._spare.end(0)
                raise
            # Other nodes must compute alike. One that can't is refused.
            self._wish = self._wish.model_copy(update={"device": found.device, "precision": found.precision})
        return self._hardware

    def start(self, index: int, output: str) -> RayWorker:
        """Start a fresh actor. Its worker writes its output to `<index>.log` in the folder `output`."""
        spare, self._spare = self._spare, None
        if spare is not None and index == spare.index:
            return spare
        if spare is not None:
            spare.end(0)
        return self._start(index, output)

    def _start(self, index: int, output: str) -> RayWorker:
        if self._begun is None:
            self._begun = self.home / "cluster" / uuid.uuid4().hex
            self._begun.parent.mkdir(parents=True, exist_ok=True)
            self._begun.touch()
            atexit.register(self.close)
        groups = {"hear": 1, "tell": 1, "files": 1}
        grouped: Any = ray.remote(concurrency_groups=groups)  # type: ignore[call-overload]
        usable = {"label_selector": {NODE_LABEL: f"!in({','.join(sorted(self._refused))})"}} if self._refused else {}
        actor = grouped(FarSeat if self.far else Seat).options(
            **usable,
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            resources=self._cluster.resources,
            max_restarts=0,  # the coordinator replaces what dies
            runtime_env=of_worker(self._cluster.environment),
        )
        made_by = identity.made_by()
        if self.far:
            seat = actor.remote(index, self._wish, self.processes, output, made_by, self.lease_seconds)
        else:
            asked = (index, self._wish, self.processes, self.home, output)
            seat = actor.remote(*asked, self._begun, made_by, self.lease_seconds)
        worker = RayWorker(index, seat, self, str(self.home / output / f"{index}.log"))
        self._serve(worker)
        return worker

    def hear(self, workers: Sequence[Worker], timeout_seconds: float) -> Iterator[tuple[Worker, Message]]:
        """See Workplace."""
        ours = []
        for worker in workers:
            assert isinstance(worker, RayWorker), "it was started here"
            ours.append(worker)
        began = time.monotonic()
        with self.news:
            self.news.wait_for(lambda: self._unsaid or any(worker.inbox for worker in ours), timeout_seconds)
            ready = [worker for worker in ours if worker.inbox]
        if self._unsaid:  # once: after it, the coordinator has its workers save
            self._told = True
            raise OutOfReachError(
                f"cluster: Ray does not answer any more: {self.away}; when it is back, the same command goes on"
            )
        passed = min(time.monotonic() - began, timeout_seconds)
        for worker in ours:
            worker.silent_seconds += passed if worker.ready else 0.0
        self._see_that_some_are_ready(ours)
        return ((worker, worker.receive()) for worker in ready)

    @property
    def _unsaid(self) -> bool:
        return bool(self.away) and not self._told

    def _see_that_some_are_ready(self, workers: Sequence[RayWorker]) -> None:
        """Raise OutOfReachError if the cluster has had no room for any worker for long."""
        if not workers or any(worker.ready or worker.inbox for worker in workers):
            self._none_since = None
            return
        self._none_since = self._none_since or time.monotonic()
        made = self._cluster.autoscaling or self._cluster.environment == "package"
        patience = MAKING_SECONDS if made else START_SECONDS
        if time.monotonic() - self._none_since > patience:
            self._none_since = None
            raise OutOfReachError(
                f"cluster: no node has started a worker within {patience:.0f} s; `ray status` says what the "
                "cluster is busy with"
            )

    def refuse(self, node: str, reason: str) -> None:
        """Do without a node that lacks something.

        Raises:
            RequestError: there is no other node, no worker has begun yet, or an autoscaler starts such nodes.
        """
        self._refused.add(node)
        here = present(KNOCK_SECONDS)
        others = here is None or places(self._cluster, self._gpus, self._cpus, self._usable(here)) > 0
        in_vain = self._cluster.autoscaling and len(self._refused) >= REFUSED
        if self._hardware is None or in_vain or not others:
            raise RequestError(reason)

    def _usable(self, here: dict[str, dict[str, float]]) -> list[dict[str, float]]:
        """Return the resources of the nodes that are not refused, and not about to go."""
        return [resources for node, resources in here.items() if node not in self._refused | self.drained]

    def counted(self, begun: bool, reason: str = "") -> None:
        """Count the workers in a row that end before they begin. Raises OutOfReachError after too many in a row."""
        self._unbegun = 0 if begun else self._unbegun + 1
        if self._unbegun >= STARTS:
            raise OutOfReachError(f"cluster: {STARTS} workers in a row ended before they began: {reason}")

    # ---- the listening thread

    def close(self) -> None:
        """End a worker that nobody has got, and stop listening.

        A call to Ray after its end would end this process, or start Ray again.
        """
        spare, self._spare = self._spare, None
        try:
            if spare is not None and ray.is_initialized():  # else it has ended with Ray
                spare.end(0)
        finally:
            atexit.unregister(self.close)
            self.closed.set()
            with self.news:
                self._closing = True
            if self._thread is not None:
                self._thread.join(END_SECONDS)
            if self._begun is not None:
                self._begun.unlink(missing_ok=True)

    def heard_of(self) -> set[RayWorker]:
        """Return the workers of which the thread may still put a message into an inbox."""
        return {*self.serving.values(), *self._handled} if self.listening else set()

    def _serve(self, worker: RayWorker) -> None:
        """Have the thread ask a worker's seat for its next message, if there may be one."""
        with self.news:
            if worker.over or worker.ended or worker.given_up:
                return
            self.serving[worker.listen()] = worker
            if not self.listening and not self._closing:
                self.listening = True
                self._thread = threading.Thread(target=self._listen, daemon=True)
                self._thread.start()

    def _listen(self) -> None:
        """Put what the seats say into the inboxes of their workers."""
        last = time.monotonic()
        try:
            while True:
                with self.news:
                    serving = dict(self.serving)
                    last = time.monotonic() if serving else last
                    if self._closing or not ray.is_initialized() or time.monotonic() - last > IDLE_SECONDS:
                        self.listening = False
                        self.news.notify_all()
                        return
                if self._head.answers() and (here := present(KNOCK_SECONDS)) is not None:
                    going = drained(KNOCK_SECONDS)
                    self.drained = going if going is not None else self.drained
                    self._count(here)
                if self._head.away and not self.away:
                    self._tell_away("its head is gone")
                if not serving:
                    time.sleep(TURN_SECONDS)
                    continue
                spoken, _ = ray.wait(list(serving), num_returns=1, timeout=TURN_SECONDS)
                more, _ = ray.wait(list(serving), num_returns=len(serving), timeout=0)
                for reference in {*spoken, *more}:
                    with self.news:
                        self._handled = [serving[reference]]  # Ray must not end meanwhile: `RayWorker.end` waits
                        self.serving.pop(reference, None)
                    self._pass_on(reference, serving[reference])
                    with self.news:
                        self._handled = []
                        self.news.notify_all()
        except Exception as error:  # whatever it is, nobody listens any more
            self._closing, self.listening = True, False
            self._tell_away(f"{type(error).__name__}: {first_line(error)}")

    def _count(self, here: dict[str, dict[str, float]]) -> None:
        """Count for how many workers these nodes have room."""
        if self._cluster.workers is None and (self.far or self._cluster.shared):
            self.count = places(self._cluster, self._gpus, self._cpus, self._usable(here))

    def _tell_away(self, reason: str) -> None:
        with self.news:
            self.away = reason
            self.news.notify_all()

    def _pass_on(self, reference: Any, worker: RayWorker) -> None:
        try:
            said = ray.get(reference)
        except RayError as error:
            if worker.courier is None:
                self._actor_failed(worker, error)
            else:
                worker.courier.then(self._actor_failed, worker, error)  # what was said before comes first
            return
        worker.heard_at = time.monotonic()
        if worker.courier is None:
            self._say(worker, said)
            self._serve(worker)
            return
        message, changed = said
        worker.courier.then(self._carry, worker, worker.courier, message, changed)
        if not isinstance(message, Lost | Unfit):
            self._serve(worker)  # the courier passes on what is heard meanwhile, too

    def _carry(self, worker: RayWorker, courier: Courier, message: Message | Unfit | None, changed: bool) -> None:
        """Pass a message on once the files that it names are here. The worker's courier does this in its thread."""
        try:
            courier.fetch(message, changed)
        except ClosedError:
            return
        except Exception as error:  # whatever it is, the message must not be passed on without its files
            self.not_carried(worker, error, worker.work)
        else:
            self._say(worker, replace(message, where=worker.node) if isinstance(message, NoRoom) else message)
            courier.tidy(message)

    def not_carried(self, worker: RayWorker, error: Exception, request: Request | None) -> None:
        """Report a worker whose files could not be sent with a request, or fetched after it."""
        if isinstance(error, GONE) and not isinstance(error, RayTaskError):
            self._actor_failed(worker, error)
            return
        there, cause = isinstance(error, RayTaskError), getattr(error, "cause", error)
        if isinstance(cause, OSError) and cause.errno in FULL and request is not None:
            self._say(worker, NoRoom(getattr(request, "number", 0), worker.node if there else ""))
            return
        reason = f"files of node {worker.node} could not be carried: {type(cause).__name__}: {first_line(cause)}"
        if isinstance(request, Probe | Pace):
            self._say(worker, Uncarried(f"cluster: {reason}; give the same command to try again"))
        else:
            self._say(worker, Lost(0, reason))

    def _actor_failed(self, worker: RayWorker, error: RayError) -> None:
        if isinstance(error, RuntimeEnvSetupError):
            self._say(worker, Lost(None, not_set_up(error, self._cluster.environment)))
            return
        if isinstance(error, ActorDiedError) and error.actor_init_failed:
            self._say(worker, worker.unmade(error))
            return
        if worker.ended or (isinstance(error, ActorDiedError | OutOfMemoryError) and not worker.cut_off()):
            worker.heard_at = time.monotonic()
            self._say(worker, worker.lost(error))
            return
        # The loss of a node is no fault of its trial.
        worker.given_up = True
        lost = Lost(None, f"its node does not answer: {first_line(error)}")
        threading.Thread(target=self._pass_on_later, args=(worker, lost), daemon=True).start()

    def _pass_on_later(self, worker: RayWorker, message: Lost) -> None:
        """Report the end of a worker whose node is cut off, once the worker is sure to have ended there."""
        worker.wait_until_gone()
        self._say(worker, message)

    def _say(self, worker: RayWorker, message: Heard | None) -> None:
        with self.news:
            if worker.given_up and not isinstance(message, Lost):
                return  # its trial goes on elsewhere
            if not worker.ended and not worker.over and message is not None:
                worker.inbox.append(message)
            worker.over = worker.over or isinstance(message, Lost | OutOfMemory | Unfit | Uncarried)
            self.news.notify_all()
