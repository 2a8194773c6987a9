"""The coordinator's handle of one Ray actor, which is a worker."""

import contextlib
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, OutOfMemoryError, RayError

from hpsearch.config.settings import Settings
from hpsearch.errors import OutOfReachError, RequestError, first_line
from hpsearch.state.messages import (
    Decision,
    FitFloor,
    Hardware,
    LastOfWork,
    Lost,
    Message,
    OutOfMemory,
    Pace,
    Probe,
    Ready,
    Retime,
    Score,
    Train,
    Unfit,
)
from hpsearch.training.folders import cached_folder, local_folder
from hpsearch.training.parts import examples_at_once
from hpsearch.workers.cluster import alive
from hpsearch.workers.courier import ClosedError, Courier

if TYPE_CHECKING:
    from hpsearch.workers.ray import RayWorkplace

LISTEN_SECONDS = 5.0  # a seat answers after so long at the most, without a message too
SPARE_SECONDS = 5.0  # for a seat to end its worker after its lease
END_SECONDS = 10.0  # for a seat to let its worker go
NAME_SECONDS = 5.0  # for a seat that has spoken to say where it is


@dataclass(frozen=True)
class Uncarried:
    """The files of a question could not be sent."""

    reason: str


Heard = Message | Unfit | Uncarried
Request = Train | Score | FitFloor | Probe | Pace | Decision | Retime


class RayWorker:
    """The coordinator's handle of one actor."""

    def __init__(self, index: int, seat: Any, place: "RayWorkplace", output: str) -> None:
        """Begin to speak to `seat`, an actor of `place`. The worker's output is in the file `output`, in the end."""
        self.index, self.output, self.seat, self._place = index, output, seat, place
        self.trial: int | None = None
        self.silent_seconds = 0.0
        self.inbox: deque[Heard] = deque()
        self.ready = False  # whether its first message is received
        self.node = self._at = ""  # name of its node, and Ray's id of it
        self.ended = False
        self.heard_at = self._told_at = time.monotonic()  # last time that the seat has answered, and was called
        self.work: Train | Score | FitFloor | None = None  # the last work that it was given
        self.over = False  # whether the coordinator has been told that it is lost
        self.given_up = self._late = False
        self._undelivered = 0  # requests whose files are on their way
        self._node_id = seat.node.remote()
        self.courier: Courier | None = None  # None: its node sees the coordinator's disk
        if place.far:
            self.courier = Courier(seat, self._node_id, place.home, Path(output), place.sent, self.heard_from)

    @property
    def leaving(self) -> bool:
        """See Worker."""
        return self._at in self._place.drained

    def give(self, work: Train | Score | FitFloor) -> None:
        """See Worker."""
        self.trial, self.work, self.silent_seconds = work.number, work, 0.0
        self._late = self.over  # it has ended already, which is no fault of this work
        self._tell(replace(work, settings=_for_a_node(work.settings, self._place)))

    def ask(self, question: Probe | Pace) -> None:
        """See Worker."""
        self.silent_seconds = 0.0
        self._tell(replace(question, settings=_for_a_node(question.settings, self._place)))

    def answer(self, decision: Decision) -> None:
        """See Worker. The seat's worker drops an answer that a pause has overtaken."""
        self._tell(decision)

    def pause(self) -> None:
        """See Worker."""
        if self.trial is not None:
            if self.courier is not None:
                self.courier.hurry()
            self._tell(Decision.PAUSE)

    def retime(self, total_steps: int) -> None:
        """See Worker."""
        if self.trial is not None:
            self._tell(Retime(total_steps))

    def listen(self) -> Any:
        """Return the reference to what the seat will say next."""
        self._told_at = time.monotonic()
        return (self.seat.hear if self.courier is None else self.seat.hear_far).remote(LISTEN_SECONDS)

    def _tell(self, request: Request) -> None:
        self._told_at = time.monotonic()
        with contextlib.suppress(RayError):  # if the seat is gone, the listening thread learns of it
            if self.courier is None or (isinstance(request, Decision | Retime) and not self._undelivered):
                self.seat.tell.remote(request)
                return
        if self.courier is not None:
            with self._place.news:
                self._undelivered += 1
            self.courier.then(self._deliver, self.courier, request)

    def _deliver(self, courier: Courier, request: Request) -> None:
        """Send a request after all earlier ones. The courier does this in its thread."""
        self._told_at = time.monotonic()
        try:
            if isinstance(request, Decision | Retime):
                self.seat.tell.remote(request)
            else:
                courier.deliver(request)
        except ClosedError:
            return
        except Exception as error:  # whatever it is, the worker does not get its work
            self._place.not_carried(self, error, request)
        finally:
            with self._place.news:
                self._undelivered -= 1

    def heard_from(self) -> None:
        """Note that its node answers."""
        self.heard_at, self.silent_seconds = time.monotonic(), 0.0

    def receive(self) -> Message:
        """Return the next message, which has arrived.

        Raises:
            RequestError: the worker is Unfit, and there is no other node for it.
            OutOfReachError: several workers in a row ended before they began, or the files of a question could not be
                sent.
        """
        message = self.inbox.popleft()
        self.silent_seconds = 0.0
        if isinstance(message, Unfit):
            if node := self._id_of_node():
                self._place.refuse(node, message.reason)
            else:
                self._place.counted(begun=False, reason=message.reason)
            return Lost(None, message.reason)
        if isinstance(message, Uncarried):
            raise OutOfReachError(message.reason)
        if isinstance(message, Ready):
            self._at = self._id_of_node()
            self.ready, self.node = True, self._name_of_node()
            self._place.counted(begun=True)
        if isinstance(message, Lost):
            charged = self.trial if self.ready and message.number is not None and not self._late else None
            if not self.ready:
                self._place.counted(begun=False, reason=message.reason)
            message = Lost(charged, message.reason, message.for_memory, message.last_words)
        if isinstance(message, OutOfMemory) and (self._late or message.number != self.trial):
            message = Lost(None, message.reason, for_memory=True)
        if isinstance(message, LastOfWork | Lost):
            self.trial = None
        return message

    def begun(self) -> Hardware:
        """Wait for a fresh worker, and return its hardware. Raises RequestError, OutOfReachError."""
        while True:
            for _, message in self._place.hear([self], 1.0):
                if isinstance(message, Ready):
                    self.inbox.appendleft(message)  # for the one who gets the worker
                    return message.hardware
                if isinstance(message, Lost):
                    raise OutOfReachError(f"cluster: a worker ended before it began: {message.reason}")

    def lost(self, error: RayError) -> Lost | OutOfMemory:
        """Return the message that stands for the end of its actor."""
        for_memory = isinstance(error, OutOfMemoryError)
        if for_memory and self.trial is not None and isinstance(self.work, Train):
            examples = examples_at_once(self.work.settings.train, self._place.processes)
            return OutOfMemory(self.trial, examples, "Ray ended the worker when the memory of its node ran out")
        reason = f"the worker's actor ended: {type(error).__name__}: {first_line(error)}"
        return Lost(0, reason, for_memory)

    def unmade(self, error: ActorDiedError) -> Unfit:
        """Return the message for a node on which the actor's code could not be loaded."""
        self._at = self._id_of_node()
        reason = str(error).strip().splitlines()[-1].strip()
        return Unfit(
            f"node {self._name_of_node()} can't start a worker: {reason}; it needs hpsearch and its libraries, as they "
            "are here"
        )

    def cut_off(self) -> bool:
        """Return whether its node is no part of the cluster any more."""
        if self._node_id is None:
            return False
        try:
            node = ray.get(self._node_id, timeout=0)
        except (RayError, GetTimeoutError):
            return False  # it was never placed
        return not any(one["NodeID"] == node for one in alive())

    def _id_of_node(self) -> str:
        """Return Ray's id of its node; empty where that is not known."""
        try:
            return str(ray.get(self._node_id, timeout=NAME_SECONDS))
        except ActorDiedError as error:  # Ray keeps where it was
            place: dict[str, Any] = ray._private.state.actors(error.actor_id).get("Address") or {}
            return str(place.get("NodeID", ""))
        except (RayError, GetTimeoutError):
            return ""

    def _name_of_node(self) -> str:
        """Return the name of its node: the one that `ray start --node-name` gave, else the machine's."""
        found = next((one for one in alive() if one["NodeID"] == self._at), None)
        if found is None:
            return ""
        named = found["NodeName"] != found["NodeManagerAddress"]  # Ray's own choice of a name
        return str(found["NodeName"] if named else found["NodeManagerHostname"])

    def end(self, timeout_seconds: float) -> None:
        """See Worker."""
        self.ended = True
        patience = timeout_seconds if self.trial is None else 0.0
        if self.courier is not None:
            self.courier.stop()
        if self.ready:  # else it has no work, and its seat may have no place yet
            try:
                ray.get(self.seat.end.remote(patience), timeout=patience + END_SECONDS)
            except (RayError, GetTimeoutError) as error:
                unsure = not isinstance(error, ActorDiedError) or self.cut_off()
                if unsure and self.trial is not None and not self._place.away:
                    self.wait_until_gone()
        ray.kill(self.seat)
        if self.courier is not None:
            self.courier.join(END_SECONDS)
        with self._place.news:
            self._place.news.wait_for(lambda: self not in self._place.heard_of(), END_SECONDS)
        # Ray must not be told later, when it may have ended, that nobody needs this any more.
        self._node_id = None

    def wait_until_gone(self) -> None:
        """Wait until the lease of a seat that does not answer is over, so that its worker has ended."""
        called_until = max(self.heard_at, self._told_at) + LISTEN_SECONDS  # a last call may be on its way
        over = called_until + self._place.lease_seconds + SPARE_SECONDS
        self._place.closed.wait(max(0.0, over - time.monotonic()))


def _for_a_node(settings: Settings, place: "RayWorkplace") -> Settings:
    """Return settings with a whole path of the model, and without addresses, which may hold passwords.

    Where nodes do not see this disk, a model of the hub is taken from the cache here. Nodes that have hpsearch have the
    packages with weights, too.
    """
    folder = None
    if place.brings_code or not settings.model.path.startswith("package://"):
        with contextlib.suppress(RequestError):  # the worker says that it is missing
            folder = local_folder(settings.model) or (cached_folder(settings.model) if place.far else None)
    model = settings.model if folder is None else settings.model.model_copy(update={"path": str(folder)})
    without = {name: getattr(settings, name).model_copy(update={"uri": None}) for name in ("tracking", "storage")}
    return settings.model_copy(update={"model": model, **without})
