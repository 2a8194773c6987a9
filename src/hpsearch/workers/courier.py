"""The files of one worker whose node does not see the coordinator's disk, and the requests and messages that need them.

A courier does one thing after another, in a thread of its own. It sends the files that a request names, and then the
request. It fetches the files that a message names before the message is passed on. So the coordinator finds them as it
does on one machine, and a trial that goes on elsewhere finds its checkpoint.
"""

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Alive,
    FitFloor,
    FloorFitted,
    LastOfWork,
    Lost,
    Message,
    Pace,
    Probe,
    Progress,
    Ready,
    RungReport,
    Score,
    Train,
    TrialResult,
    Unfit,
    named,
)
from hpsearch.state.records import Status
from hpsearch.state.roster import Carried
from hpsearch.training import checkpoints
from hpsearch.workers.parcels import Arrival, Content, read
from hpsearch.workers.sent import Sent

LOOK_SECONDS = 0.5  # between two looks whether the worker is being ended
SENDER = "worker"  # in the names of folders that arrive


class ClosedError(Exception):
    """The worker is being ended, so its files are not carried any more."""


class SupersededError(Exception):
    """The worker is being paused, so a newer checkpoint follows."""


class Courier:
    """Carries the files of one worker."""

    def __init__(self, seat: Any, node: Any, home: Path, output: Path, sent: Sent, moved: Callable[[], None]) -> None:
        """Begin with nothing to do.

        Args:
            seat: actor of the worker, a `FarSeat`.
            node: reference to the id of its node.
            home: the coordinator's state folder.
            output: file in it that gets the worker's output.
            sent: what is sent to nodes.
            moved: called when a call to the node has been answered.
        """
        self._seat, self._node, self._home, self._output, self._sent = seat, node, home, output, sent
        self._moved, self._logged, self._changed = moved, 0, False
        self._told: Train | Score | FitFloor | None = None  # the work whose files are on the node
        self._closing = self._pausing = False
        self._jobs: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def then(self, job: Callable[..., None], *given: Any) -> None:
        """Do a job, which raises nothing, when all earlier ones are done."""
        self._jobs.put((job, given))

    def hurry(self) -> None:
        """Carry no checkpoint while the trial runs, because it is being paused: the next one follows."""
        self._pausing = True

    def stop(self) -> None:
        """Do no more. What is being carried stops at its next piece."""
        self._closing = True
        self._jobs.put(None)

    def join(self, timeout_seconds: float) -> None:
        """Wait until it has stopped."""
        self._thread.join(timeout_seconds)
        self._node = None  # see `RayWorker.end`

    def _run(self) -> None:
        while not self._closing and (job := self._jobs.get()) is not None:
            job[0](*job[1])

    # ---- to the node

    def deliver(self, request: Train | Score | FitFloor | Probe | Pace) -> None:
        """Send the files that a request names and the node lacks, then the request.

        Raises:
            RayError, OSError: files can't be carried.
            ClosedError: the worker is being ended.
        """
        self._told, self._pausing, began = None, False, time.monotonic()
        model, path = None, Path(request.settings.model.path)
        with self._alone_on(self._reply(self._node)):
            self._send_once(self._home / request.data.folder, request.data.folder)
            if path.is_dir():
                model = f"models/{self._sent.content(path).digest}"
                self._send_once(path, model)
        if isinstance(request, Train):
            self._send_checkpoints(request.folder)
        if isinstance(request, Score):
            for folder in _folders(request):
                place = TrialFolder(self._home / folder).model
                self._send(place, named(place, self._home), Content.of(place))
            left = request.part.seconds - (time.monotonic() - began)
            request = replace(request, part=replace(request.part, seconds=left))
        self._call("tell_here", request, model)
        if isinstance(request, Train | Score | FitFloor):
            self._told, self._changed = request, False

    @contextmanager
    def _alone_on(self, node: str) -> Iterator[None]:
        """Wait until no other courier sends data or models to the node, and keep others waiting."""
        lock = self._sent.of_node(node)
        while not lock.acquire(timeout=LOOK_SECONDS):
            if self._closing:
                raise ClosedError
            self._moved()
        try:
            yield
        finally:
            lock.release()

    def _send_checkpoints(self, folder: str) -> None:
        trial = self._home / folder
        trial.mkdir(parents=True, exist_ok=True)
        for leftover in trial.glob("arriving-*.tmp"):  # of a coordinator that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        for name in self._call("expect", folder, checkpoints.manifests(trial, wait=True)):
            self._send(trial / name, f"{folder}/{name}", Content.of(trial / name))

    def _send_once(self, folder: Path, name: str) -> None:
        if not self._call("has", name):
            self._send(folder, name, self._sent.content(folder))

    def _send(self, folder: Path, name: str, content: Content) -> None:
        for file, offset, size in content.pieces():
            self._call("write", name, file, offset, read(folder / file, offset, size))
            self._sent.count(Carried(sent=size))
        self._call("settle", name, content)

    # ---- from the node

    def fetch(self, message: Message | Unfit | None, changed: bool) -> None:
        """Fetch what a message names, and checkpoints that have been sealed.

        Args:
            message: the worker's message, if there is one.
            changed: whether the sealed checkpoints have changed.

        Raises:
            RayError, OSError: files can't be carried.
            ClosedError: the worker is being ended.
        """
        self._changed = self._changed or changed
        work, over = self._told, isinstance(message, LastOfWork | Lost)
        if isinstance(work, Train):
            if over and (not isinstance(message, TrialResult) or message.status is Status.PAUSED):
                self._fetch_checkpoints(work.folder, wait=True)
            # An answer to a rung is waited for, and nothing must wait for more and more of these.
            elif (
                not (over or self._pausing)
                and self._changed
                and not isinstance(message, RungReport)
                and self._jobs.empty()
            ):
                with suppress(SupersededError):
                    self._fetch_checkpoints(work.folder, wait=False)
        complete = isinstance(message, TrialResult) and message.status is Status.COMPLETE
        if work is not None and (complete or isinstance(message, FloorFitted)):
            self._fetch_model(TrialFolder(self._home / work.folder))

    def tidy(self, message: Message | Unfit | None) -> None:
        """Fetch the worker's output and delete files that the node does not need, after a message is passed on."""
        work, over = self._told, isinstance(message, LastOfWork | Lost)
        if over:
            self._told = None
        # What counts is here. If the seat is gone, the next call says so.
        with suppress(OSError, RayError, ClosedError):
            if not isinstance(message, Ready | Alive | Progress | RungReport | None):
                self._fetch_log()
            if over and work is not None:
                for folder in _folders(work):
                    self._call("clear", folder)

    def _fetch_log(self) -> None:
        """Add the worker's newest output to its log here."""
        self._logged, data = self._call("log", self._logged)
        if data:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            with open(self._output, "ab") as file:
                file.write(data)

    def _fetch_checkpoints(self, folder: str, wait: bool) -> None:
        """Have the checkpoints that the node has, and no others.

        With `wait`, those are the last ones. Otherwise one may be replaced while it is on its way, and the next one
        will do. Raises SupersededError if the trial is being paused meanwhile.
        """
        self._changed = False
        trial = self._home / folder
        trial.mkdir(parents=True, exist_ok=True)
        there, here = self._call("sealed", folder, wait), checkpoints.manifests(trial)
        for name in [name for name, manifest in there.items() if here.get(name) != manifest]:
            arrival = self._fetch(f"{folder}/{name}", trial, droppable=not wait)
            try:
                whole = arrival is not None and checkpoints.adopt(arrival.folder, trial, name)
            finally:
                if arrival is not None:
                    arrival.drop()
            if not whole and wait:
                raise OSError(f"{folder}/{name} did not arrive whole")
            if not whole:
                return
        if there:
            checkpoints.keep_only(trial, there)

    def _fetch_model(self, place: TrialFolder) -> None:
        """Have the model that the node has, and none if it has none."""
        place.path.mkdir(parents=True, exist_ok=True)
        arrival = self._fetch(named(place.model, self._home), place.path)
        if arrival is None:
            shutil.rmtree(place.model, ignore_errors=True)
            return
        try:
            arrival.place_at(place.model)
        finally:
            arrival.drop()

    def _fetch(self, name: str, parent: Path, droppable: bool = False) -> Arrival | None:
        """Fetch a folder to a place inside `parent`; return None if it is not there, or goes away meanwhile."""
        arrival = None
        try:
            content: Content | None = self._call("content", name)
            if content is None:
                return None
            arrival = Arrival(parent, SENDER)
            for file, offset, size in content.pieces():
                if droppable and self._pausing:
                    raise SupersededError
                arrival.write(file, offset, self._call("read", f"{name}/{file}", offset, size))
                self._sent.count(Carried(fetched=size))
            arrival.check(content)
        except FileNotFoundError:
            if arrival is not None:
                arrival.drop()
            return None
        except BaseException:
            if arrival is not None:
                arrival.drop()
            raise
        return arrival

    # ---- calls

    def _call(self, method: str, *given: Any) -> Any:
        """Call a method of the seat. Raises RayError, the seat's OSError, ClosedError."""
        if self._closing:
            raise ClosedError
        return self._reply(getattr(self._seat, method).remote(*given))

    def _reply(self, reference: Any) -> Any:
        while True:
            if self._closing:
                raise ClosedError
            if ray.wait([reference], timeout=LOOK_SECONDS)[0]:
                break
        found = ray.get(reference)
        self._moved()
        return found


def _folders(work: Train | Score | FitFloor) -> tuple[str, ...]:
    """Return the names of the folders that a work reads or writes."""
    words = work.words if isinstance(work, Score) else None
    return (work.folder,) if words is None else (work.folder, words)
