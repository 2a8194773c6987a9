"""A seat on a node that does not see the coordinator's disk: files come and go in pieces.

The node has a cache of prepared data and models, which all its workers use and which outlives them. Each seat has a
folder of its own for trials, and deletes it at its end.
"""

import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from hpsearch.config.settings import HardwareSettings
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Begin, FitFloor, Message, Pace, Probe, Score, Train, Unfit
from hpsearch.training import checkpoints
from hpsearch.workers.parcels import Arrival, Content, read
from hpsearch.workers.seat import Seat, other

KEPT = ("cache/data", "models")  # of a state folder: what all workers of a node share
SETTLED_SECONDS = 60.0  # a younger folder of a seat may still be on its way to be locked
LAST_LOG = 2**20  # bytes of a worker's output that are fetched at most


class FarSeat(Seat):
    """An actor with one worker process, and with that worker's files."""

    def __init__(
        self,
        index: int,
        wish: HardwareSettings,
        processes: int,
        output: str,
        made_by: dict[str, Any],
        lease_seconds: float,
    ) -> None:
        """Start the worker; see `Seat`."""
        self._arrivals: dict[str, Arrival] = {}
        self._trained: TrialFolder | None = None
        self._seen: frozenset[tuple[str, int]] = frozenset()
        self._name, unfit = uuid.uuid4().hex, other(made_by)
        try:
            self._home = self._own_folder(_cache())
        except (OSError, RuntimeError) as error:
            self._home = Path(f"/nonexistent/{self._name}")  # nothing is done there by a seat that is unfit
            unfit = unfit or Unfit(f"cluster: node {socket.gethostname()} has no place for files: {error}")
        self._begin(index, Begin(wish, self._home, processes), output, unfit, lease_seconds)

    def _own_folder(self, root: Path) -> Path:
        """Make the folder that stands for the coordinator's state folder, and lock it as long as the seat lives."""
        seats = root / "seats" / socket.gethostname()  # machines may share the disk, and then not its locks
        seats.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            (root / name).mkdir(parents=True, exist_ok=True)
        clear_leftovers(root, seats)
        home = seats / self._name
        self._lock = open(f"{home}.lock", "ab")  # noqa: SIM115  # closing it frees the lock
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        for name in KEPT:
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).symlink_to(root / name)
        return home

    @ray.method(concurrency_group="tell")
    def tell_here(self, request: Train | Score | FitFloor | Probe | Pace, model: str | None) -> None:
        """Pass a request on whose files are here. `model` names the folder of the pretrained model, if it is here."""
        if model is not None:
            given = request.settings.model.model_copy(update={"path": str((self._home / model).resolve())})
            request = replace(request, settings=request.settings.model_copy(update={"model": given}))
        if isinstance(request, Train):
            self._trained = TrialFolder(self._home / request.folder)
            self._seen = self._now_sealed()
        self._pass_on(request)

    @ray.method(concurrency_group="hear")
    def hear_far(self, seconds: float) -> tuple[Message | Unfit | None, bool]:
        """Return what `hear` returns, and whether the sealed checkpoints of the trial have changed."""
        message = self._next(seconds)
        before, self._seen = self._seen, self._now_sealed()
        return message, self._seen != before

    def _now_sealed(self) -> frozenset[tuple[str, int]]:
        found = set()
        for path in self._trained.checkpoints() if self._trained is not None else ():
            with suppress(OSError):  # the worker has just deleted it
                found.add((path.name, path.stat().st_mtime_ns))
        return frozenset(found)

    @ray.method(concurrency_group="tell")
    def end(self, seconds: float) -> None:
        """End the worker, see `Worker.end`, and delete its files."""
        self._let_go(seconds)
        for arrival in list(self._arrivals.values()):
            arrival.drop()
        shutil.rmtree(self._home, ignore_errors=True)
        Path(f"{self._home}.lock").unlink(missing_ok=True)

    # ---- files

    @ray.method(concurrency_group="files")
    def has(self, name: str) -> bool:
        """Return whether a folder is here."""
        return (self._home / name).is_dir()

    @ray.method(concurrency_group="files")
    def content(self, name: str) -> Content | None:
        """Return the content of a folder; None if it is not here. Raises OSError if it changes."""
        return Content.of(self._home / name) if (self._home / name).is_dir() else None

    @ray.method(concurrency_group="files")
    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return a piece of a file. Raises OSError."""
        return read(self._home / name, offset, size)

    @ray.method(concurrency_group="files")
    def write(self, folder: str, name: str, offset: int, data: bytes) -> None:
        """Write a piece of a file of a folder that arrives. Raises OSError."""
        if self._over:
            raise OSError("the worker has ended")
        if folder not in self._arrivals:
            self._arrivals[folder] = Arrival((self._home / folder).parent.resolve(), self._name)
        try:
            self._arrivals[folder].write(name, offset, data)
        except OSError:
            self._arrivals.pop(folder).drop()
            raise

    @ray.method(concurrency_group="files")
    def settle(self, folder: str, content: Content) -> None:
        """Put a folder that has arrived in its place. Raises OSError if it is not what was sent."""
        arrival, target = self._arrivals.pop(folder), self._home / folder
        try:
            arrival.check(content)
            if folder.startswith(KEPT):
                arrival.keep_at(target)
            else:
                arrival.place_at(target)
        finally:
            arrival.drop()

    @ray.method(concurrency_group="files")
    def sealed(self, folder: str, wait: bool) -> dict[str, str]:
        """Return the manifests of a trial's sealed checkpoints; with `wait`, after one that is being sealed."""
        return checkpoints.manifests(self._home / folder, wait)

    @ray.method(concurrency_group="files")
    def expect(self, folder: str, manifests: dict[str, str]) -> list[str]:
        """Delete all checkpoints of a trial but these. Return the names of those that are not here."""
        trial = self._home / folder
        trial.mkdir(parents=True, exist_ok=True)
        here = checkpoints.manifests(trial, wait=True)
        same = {name for name in here.keys() & manifests.keys() if here[name] == manifests[name]}
        checkpoints.keep_only(trial, same)
        return [name for name in manifests if name not in same]

    @ray.method(concurrency_group="files")
    def clear(self, folder: str) -> None:
        """Delete the folder of a trial or floor, which the coordinator's disk has by now. Raises OSError."""
        place = self._home / folder
        if place.is_dir():
            checkpoints.discard(place)  # waits for one that is being sealed
            shutil.rmtree(place)

    @ray.method(concurrency_group="files")
    def log(self, offset: int) -> tuple[int, bytes]:
        """Return where the worker's output ends, and its end after `offset` bytes."""
        path = self._worker.log if self._worker is not None else None
        if path is None or not path.exists():
            return offset, b""
        end = path.stat().st_size
        start = max(offset, end - LAST_LOG)
        return end, read(path, start, end - start)


def _cache() -> Path:
    """Return the folder on this node that outlives workers. Raises RuntimeError if the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpsearch"


def clear_leftovers(root: Path, seats: Path) -> None:
    """Delete the folders in `seats` whose seat has ended without doing so, and what was on its way to it in `root`."""
    for lock in sorted(seats.glob("*.lock")):
        with suppress(OSError), open(lock, "ab") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > SETTLED_SECONDS:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its seat lives
                for folder in (lock.with_suffix(""), *_on_their_way(root, lock.stem)):
                    shutil.rmtree(folder, ignore_errors=True)
                lock.unlink()


def _on_their_way(root: Path, seat: str) -> Iterator[Path]:
    for name in KEPT:
        yield from sorted((root / name).glob(f"arriving-{seat}-*.tmp"))
