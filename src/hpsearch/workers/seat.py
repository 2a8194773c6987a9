"""The part of a Ray worker that runs on a node: one worker process, its messages and its files."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path

from hpsearch.config.settings import HardwareSettings
from hpsearch.errors import RequestError
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Begin,
    Decision,
    FitFloor,
    Lost,
    Message,
    Pace,
    Probe,
    Retime,
    Score,
    Train,
    Unfit,
)
from hpsearch.training import checkpoints
from hpsearch.workers.local import ENVIRONMENT, LocalWorker
from hpsearch.workers.parcels import Arrival, Content, read

Work = Train | Score | FitFloor | Probe | Pace

SECRET = "RAY_"  # what begins so in the environment is Ray's, and its token is among it


@dataclass(frozen=True)
class Heard:
    """Messages from a seat."""

    messages: tuple[Message | Unfit, ...]
    sealed: tuple[str, ...]
    """Names of the sealed checkpoints of its worker's trial."""


class Seat:
    """The seat of one worker. Ray calls its methods, one of them while another waits."""

    def __init__(self, index: int, wish: HardwareSettings, home: Path | None, output: str) -> None:
        """Start the worker.

        Args:
            index: number of the worker.
            wish: the hardware settings of the worker; `threads` is a number.
            home: the coordinator's state folder, if this node has it; None: the seat makes a folder of its own.
            output: name of the folder for the worker's output.
        """
        self._own = home is None
        self._home = home if home is not None else Path(tempfile.mkdtemp(prefix="hpsearch-"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(SECRET)}
        variables = ENVIRONMENT | kept | {"OMP_NUM_THREADS": str(wish.threads)}
        self._worker = LocalWorker(index, Begin(wish, self._home.absolute()), self._home / output, variables)
        self._arrivals: dict[str, Arrival] = {}
        self._folder: TrialFolder | None = None  # of the trial that is trained
        self._over = False

    # ---- messages

    def tell(self, request: Work | Decision | Retime, model: str | None) -> None:
        """Pass a request on. `model` names the folder of the pretrained model, if it was sent here."""
        if isinstance(request, Decision):
            if request is Decision.PAUSE:
                self._worker.pause()
            else:
                self._worker.answer(request)
            return
        if isinstance(request, Retime):
            self._worker.retime(request.total_steps)
            return
        if model is not None:
            given = request.settings.model.model_copy(update={"path": str(self._home / model)})
            request = replace(request, settings=request.settings.model_copy(update={"model": given}))
        if isinstance(request, Probe | Pace):
            self._worker.ask(request)
            return
        self._folder = TrialFolder(self._home / request.folder) if isinstance(request, Train) else None
        self._worker.give(request)

    def hear(self, seconds: float) -> Heard:
        """Return the worker's next message as soon as it comes, or none after these seconds."""
        messages = tuple(self._messages(seconds)) if not self._over else ()
        sealed = self._folder.checkpoints() if self._folder is not None else []
        return Heard(messages, tuple(path.name for path in sealed))

    def _messages(self, seconds: float) -> Iterator[Message | Unfit]:
        if not wait([self._worker.connection], seconds):
            return
        try:
            message: Message | Unfit = self._worker.receive()
        except RequestError as error:
            message = Unfit(str(error))
        self._over = isinstance(message, Lost | Unfit)
        yield message

    def process(self) -> int:
        """Return the process id of the worker."""
        return self._worker.process.pid

    def end(self, seconds: float) -> None:
        """End the worker, see `Worker.end`, and delete the seat's own folder."""
        self._over = True
        self._worker.end(seconds)
        if self._own:
            shutil.rmtree(self._home, ignore_errors=True)

    # ---- files

    def has(self, name: str) -> bool:
        """Return whether a folder exists here."""
        return (self._home / name).is_dir()

    def content(self, name: str) -> Content:
        """Return the content of a folder."""
        return Content.of(self._home / name)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return a piece of a file."""
        return read(self._home / name, offset, size)

    def write(self, folder: str, name: str, offset: int, data: bytes) -> None:
        """Write a piece of a file of a folder that arrives."""
        if folder not in self._arrivals:
            self._arrivals[folder] = Arrival(self._home / folder)
        self._arrivals[folder].write(name, offset, data)

    def settle(self, folder: str, content: Content) -> None:
        """Put a folder in place that has arrived whole. Raises OSError if it is not what was sent."""
        arrival = self._arrivals.pop(folder) if folder in self._arrivals else Arrival(self._home / folder)
        arrival.settle(content)

    def sealed(self, folder: str) -> tuple[str, ...]:
        """Return the names of a trial's checkpoints, after a wait for one that is being sealed."""
        trial = TrialFolder(self._home / folder)
        if not trial.path.is_dir():
            return ()
        checkpoints.newest(trial.path)
        return tuple(path.name for path in trial.checkpoints())

    def clear(self, folder: str) -> None:
        """Delete a folder that the coordinator's state folder has by now."""
        if self._own:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._home / folder)
