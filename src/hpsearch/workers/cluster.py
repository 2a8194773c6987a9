"""A Ray cluster: how the coordinator joins it, which nodes it has, and how many workers have room on them."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from hpsearch.config.settings import ClusterSettings
from hpsearch.errors import OutOfReachError, RequestError, first_line

KNOCK_SECONDS = 5.0  # for the head of a cluster to answer
PATIENCE_SECONDS = 15.0  # for a head that has not answered to do so; Ray itself ends this process after 60 s

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


def alive() -> list[dict[str, Any]]:
    """Return the nodes that are alive, as Ray describes them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


class Head:
    """The head of the cluster, which is asked for a sign of life now and then."""

    def __init__(self) -> None:
        self._address = ray.get_runtime_context().gcs_address
        self._answered = self._asked = time.monotonic()

    @property
    def away(self) -> bool:
        """Whether the head has not answered for long."""
        now = time.monotonic()
        if now - self._asked > KNOCK_SECONDS:
            self._asked = now
            with contextlib.suppress(OSError):
                _connect(self._address)
                self._answered = now
        return now - self._answered > KNOCK_SECONDS + PATIENCE_SECONDS


def placed(cluster: ClusterSettings, nodes: Sequence[dict[str, float]]) -> tuple[int, int]:
    """Return the CPUs of a worker and the number of workers.

    Args:
        cluster: what the settings say of them.
        nodes: resources of each node.

    Raises:
        RequestError: there is no room for the workers that the settings ask for.
    """
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    for cpus in [cluster.cpus] if cluster.cpus is not None else range(most, 0, -1):
        places = sum(_places(cluster, cpus, node) for node in nodes)
        wanted = cluster.workers if cluster.workers is not None else _wanted(cluster, nodes)
        if places >= wanted > 0:
            return cpus, cluster.workers if cluster.workers is not None else places
    have = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    raise RequestError(
        f"cluster.workers={cluster.workers}, cluster.cpus={cluster.cpus}, cluster.gpus={cluster.gpus:g}: there is no "
        f"room for such workers on the nodes, which have: {have or 'nothing'}; lower them"
    )


def _places(cluster: ClusterSettings, cpus: int, node: dict[str, float]) -> int:
    """Return how many workers a node has room for."""
    by_cpus = int(node.get("CPU", 0) // cpus)
    return min(by_cpus, int(node.get("GPU", 0) / cluster.gpus)) if cluster.gpus else by_cpus


def _wanted(cluster: ClusterSettings, nodes: Sequence[dict[str, float]]) -> int:
    """Return the number of workers where the settings leave it open: one for each part of a GPU, else for each node."""
    if cluster.cpus is not None:
        return 1
    if cluster.gpus:
        return sum(int(node.get("GPU", 0) / cluster.gpus) for node in nodes)
    return sum(node.get("CPU", 0) >= 1 for node in nodes)


def join(address: str | None) -> None:
    """Join the cluster at an address, else that of RAY_ADDRESS, else start one on this machine.

    Raises:
        RequestError: The address is no `host:port`.
        OutOfReachError: No cluster answers.
    """
    if ray.is_initialized():
        return
    known = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if known is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers give way to everything else
    else:
        _knock(known)
    former = signal.getsignal(signal.SIGTERM)
    try:
        # With an address the cluster has decided about its dashboard.
        ray.init(address=known or "local", include_dashboard=None if known else False, **QUIET)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise _away(str(known), error) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)  # Ray's handler ends this process at once


def _knock(address: str) -> None:
    """See within seconds that something answers. Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdecimal():
        raise RequestError(
            f"cluster.address={address}: is no <host>:<port> of a Ray cluster's head, as `ray start` prints"
        )
    try:
        _connect(address)
    except OSError as error:
        raise _away(address, error) from None


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _away(address: str, error: Exception) -> OutOfReachError:
    return OutOfReachError(
        f"cluster.address={address}: no Ray cluster answers there, or this machine is none of its nodes "
        f"({first_line(error)}); start it, join it with `ray start`, or leave the address out"
    )
