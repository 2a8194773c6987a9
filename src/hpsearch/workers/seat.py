"""The part of a Ray worker that runs on a node: an actor that owns one worker process."""

import os
import socket
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import ray

from hpsearch.config.settings import HardwareSettings
from hpsearch.errors import SECRETS, RequestError
from hpsearch.state import identity
from hpsearch.state.messages import Begin, Decision, FitFloor, Lost, Message, Pace, Probe, Retime, Score, Train, Unfit
from hpsearch.workers.local import ENVIRONMENT, LocalWorker

LOOK_SECONDS = 1.0  # between two looks at the lease
LEASHED = "hpsearch.workers.leashed"  # the worker's module
OF_RAY = "RAY_"  # begins the names of Ray's variables, its token among them


class Seat:
    """An actor with one worker process. Its methods of one concurrency group run one after the other."""

    def __init__(
        self,
        index: int,
        wish: HardwareSettings,
        processes: int,
        home: Path,
        output: str,
        begun: Path,
        made_by: dict[str, Any],
        lease_seconds: float,
    ) -> None:
        """Start the worker.

        Args:
            index: number of the worker.
            wish: the hardware settings of the worker; `threads` is a number.
            processes: number of processes that train one trial.
            home: the coordinator's state folder, which this node must see at the same path.
            output: name of the folder for the worker's output.
            begun: a file in `home` that the coordinator has made for this command.
            made_by: code and libraries of the coordinator.
            lease_seconds: the worker is ended when the coordinator has not called for so long.
        """
        self._begin(index, Begin(wish, home, processes), output, _unseen(begun) or other(made_by), lease_seconds)

    def _begin(self, index: int, begin: Begin, output: str, unfit: Unfit | None, lease_seconds: float) -> None:
        context = ray.get_runtime_context()
        self._node, self._over = context.get_node_id(), False
        self._unfit = unfit
        self._worker: LocalWorker | None = None
        self._lease_seconds, self._called, self._expired = lease_seconds, now(), False
        if self._unfit is None:
            hidden = {} if context.get_accelerator_ids().get("GPU") else {"CUDA_VISIBLE_DEVICES": ""}
            kept = {key: value for key, value in os.environ.items() if not key.startswith((OF_RAY, *SECRETS))}
            variables = ENVIRONMENT | kept | {"OMP_NUM_THREADS": str(begin.wish.threads)} | hidden
            self._worker = LocalWorker(index, begin, begin.home / output, variables, LEASHED)
        threading.Thread(target=self._watch, daemon=True).start()

    @ray.method(concurrency_group="tell")
    def tell(self, request: Train | Score | FitFloor | Probe | Pace | Decision | Retime) -> None:
        """Pass a request on to the worker."""
        self._pass_on(request)

    def _pass_on(self, request: Train | Score | FitFloor | Probe | Pace | Decision | Retime) -> None:
        worker = self._worker
        if worker is None:
            return
        if isinstance(request, Decision):
            if request is Decision.PAUSE:
                worker.pause()
            else:
                worker.answer(request)
        elif isinstance(request, Retime):
            worker.retime(request.total_steps)
        elif isinstance(request, Probe | Pace):
            worker.ask(request)
        else:
            worker.give(request)

    @ray.method(concurrency_group="hear")
    def hear(self, seconds: float) -> Message | Unfit | None:
        """Return the worker's next message as soon as it comes; None after these seconds."""
        return self._next(seconds)

    def _next(self, seconds: float) -> Message | Unfit | None:
        self._called = now()
        if self._unfit is not None:
            unfit, self._unfit = self._unfit, None
            return unfit
        worker = self._worker
        if worker is None or self._over or not wait([worker.connection], seconds):
            return None
        try:
            message: Message | Unfit = worker.receive()
        except RequestError as error:
            message = Unfit(str(error))
        if isinstance(message, Lost) and self._expired:
            message = Lost(None, f"its node had no contact with the coordinator for {self._lease_seconds:.0f} s")
        self._over = isinstance(message, Lost | Unfit)
        self._called = now()
        return message

    @ray.method(concurrency_group="tell")
    def node(self) -> str:
        """Return the id of the node."""
        return self._node

    @ray.method(concurrency_group="tell")
    def process(self) -> int:
        """Return the process id of the worker."""
        assert self._worker is not None, "it is asked of a worker that runs"
        return self._worker.process.pid

    @ray.method(concurrency_group="tell")
    def end(self, seconds: float) -> None:
        """End the worker, see `Worker.end`."""
        self._let_go(seconds)

    def _let_go(self, seconds: float) -> None:
        self._over = True
        if self._worker is not None:
            self._worker.end(seconds)

    def _watch(self) -> None:
        """End the worker when the coordinator has not called for long: its trial may go on elsewhere by then."""
        while not self._over:
            time.sleep(LOOK_SECONDS)
            if now() - self._called > self._lease_seconds and self._worker is not None:
                self._expired = True
                self._worker.process.kill()
                return


def now() -> float:
    """Return seconds that also count while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _unseen(begun: Path) -> Unfit | None:
    """Return why this node does not see the coordinator's state folder; None: it does."""
    if begun.exists():
        return None
    return Unfit(
        f"cluster.shared: node {socket.gethostname()} does not see {begun.parent}, in the coordinator's state folder; "
        "set HPSEARCH_HOME to a folder that all nodes see at the same path, or leave cluster.shared out"
    )


def other(made_by: dict[str, Any]) -> Unfit | None:
    """Return in what this node's software differs from the coordinator's; None: in nothing."""
    if not (differing := identity.made_otherwise(made_by, identity.made_by())):
        return None
    return Unfit(
        f"cluster: node {socket.gethostname()} has other code or libraries than the coordinator: "
        f"{'; '.join(differing)}; install the same there"
    )
