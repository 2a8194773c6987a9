"""`hpsearch sweep` as a process that is forked from one with all its imports done, for tests that start it many times.

It may end itself by SIGKILL, or find the disk full, when a function is called for the n-th time:
DIE_AT=package.module.Class.name:n, with a minus before it: when that call has returned; FULL_AT alike.
HOLD_AT=package.module.Class.name waits in a call while a file is there.
EXTRA_PHASE=module.Class is one more entry of the list of phases.
"""

import errno
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpsearch import cli
from hpsearch.config import composition, loading
from hpsearch.coordinator import phases

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["hpsearch.coordinator.sweep"])


class Coordinator:
    """A running `hpsearch sweep`, with the methods of `subprocess.Popen`."""

    def __init__(self, request: Path, log: Path, environment: dict[str, str]) -> None:
        self._process = FORKED.Process(target=_run, args=(request, log, environment))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout_seconds: float | None = None) -> int:
        self._process.join(timeout_seconds)
        code = self.returncode
        assert code is not None, f"it still runs after {timeout_seconds} s"
        return code

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


def _run(request: Path, log: Path, environment: dict[str, str]) -> None:
    with open(log, "ab") as file, open(os.devnull, "rb") as nothing:
        for target, source in ((0, nothing), (1, file), (2, file)):
            os.dup2(source.fileno(), target)
    os.environ.update(environment)
    composition.compose = lambda *_: None  # type: ignore[assignment,return-value]
    loading.load = lambda _: loading.from_plain(json.loads(request.read_text()))  # type: ignore[assignment]
    if "EXTRA_PHASE" in os.environ:
        module, name = os.environ["EXTRA_PHASE"].split(".")
        phases.PHASES = (*phases.PHASES, getattr(importlib.import_module(module), name))
    acts = {"DIE_AT": _die, "FULL_AT": _full, "HOLD_AT": lambda: _hold(request.parent)}
    for name, act in acts.items():
        if name in os.environ:
            _at(os.environ[name], act)
    sys.exit(cli.main(["sweep"]))


def _at(place: str, act: Callable[[], None]) -> None:
    place, _, nth = place.partition(":")
    after, (package, module, *owners, name) = place.startswith("-"), place.lstrip("-").split(".")
    owner: Any = importlib.import_module(f"hpsearch.{package}.{module}")
    for part in owners:
        owner = getattr(owner, part)
    method, calls = getattr(owner, name), 0

    def changed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        is_it = not nth or calls == int(nth)
        if is_it and not after:
            act()
        result = method(*args, **kwargs)
        if is_it and after:
            act()
        return result

    for one in list(sys.modules.values()):
        if getattr(one, name, None) is method:
            setattr(one, name, changed)
    setattr(owner, name, changed)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")


def _hold(root: Path) -> None:
    if (root / "hold").exists():
        (root / "hold").rename(root / "held")
        while (root / "held").exists():
            time.sleep(0.01)
