"""A Ray cluster: how the coordinator joins it, which nodes it has, and how many workers have room on them."""

import logging
import math
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from hpsearch.config.settings import ClusterSettings
from hpsearch.errors import OutOfReachError, RequestError, first_line, redact

KNOCK_SECONDS = 5.0  # for the head of a cluster to answer
PATIENCE_SECONDS = 15.0  # for a head that has not answered to do so; Ray itself ends this process after 60 s

ALIVE = 0  # a node's state, as Ray numbers it
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


def alive() -> list[dict[str, Any]]:
    """Return the nodes that are alive, as Ray describes them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def present(timeout_seconds: float) -> dict[str, dict[str, float]] | None:
    """Return the resources of each node that is alive, by its id; None if the head does not say so in time."""
    worker: Any = ray._private.worker.global_worker
    try:
        found = worker.gcs_client.get_all_node_info(timeout=timeout_seconds)
    except Exception:  # its calls raise many unrelated types
        return None
    return {node.hex(): dict(one.resources_total) for node, one in found.items() if one.state == ALIVE}


def drained(timeout_seconds: float) -> frozenset[str] | None:
    """Return the ids of the nodes that will go soon, with notice; None if the head does not say so in time."""
    worker: Any = ray._private.worker.global_worker
    try:
        return frozenset(worker.gcs_client.get_draining_nodes(timeout=timeout_seconds))
    except Exception:  # its calls raise many unrelated types
        return None


class Head:
    """The head of the cluster, which is asked for a sign of life now and then."""

    def __init__(self) -> None:
        self._address = ray.get_runtime_context().gcs_address
        self._asked = 0.0
        self._silent_since: float | None = None

    def answers(self) -> bool:
        """Ask it, unless that was a short time ago. Return whether it was asked and has answered."""
        now = time.monotonic()
        if now - self._asked <= KNOCK_SECONDS:
            return False
        self._asked = now
        try:
            _connect(self._address)
            self._silent_since = None
        except OSError:
            self._silent_since = self._silent_since or now
        return self._silent_since is None

    @property
    def away(self) -> bool:
        """Whether it has not answered for long."""
        return self._silent_since is not None and time.monotonic() - self._silent_since > PATIENCE_SECONDS


def gpus(cluster: ClusterSettings, device: str, nodes: Sequence[dict[str, float]]) -> float:
    """Return the GPUs of a worker with all its processes, where the settings may leave them open.

    Args:
        cluster: what the settings say of the cluster.
        device: `hardware.device`.
        nodes: resources of each node.

    Raises:
        RequestError: the settings ask for a GPU, and workers are to have none.
    """
    found = cluster.gpus
    if found is None:
        found = 1.0 if device != "cpu" and any(node.get("GPU", 0) >= 1 <= node.get("CPU", 0) for node in nodes) else 0.0
    found *= cluster.processes_per_trial
    if device == "cuda" and not found:
        raise RequestError("hardware.device=cuda: needs nodes with GPUs, and cluster.gpus=1 or a part of a GPU")
    return found


def placed(cluster: ClusterSettings, share: float, nodes: Sequence[dict[str, float]]) -> tuple[int, int]:
    """Return the CPUs of a worker and the number of workers.

    Args:
        cluster: what the settings say of the cluster.
        share: GPUs of a worker.
        nodes: resources of each node.

    Raises:
        RequestError: there is no room for the workers that the settings ask for.
    """
    if cluster.autoscaling:
        assert cluster.cpus is not None, "the settings are valid"
        assert cluster.workers is not None, "the settings are valid"
        return cluster.cpus, cluster.workers
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    wanted = cluster.workers if cluster.workers is not None else _wanted(cluster, share, nodes)
    for cpus in [cluster.cpus] if cluster.cpus is not None else range(most, cluster.processes_per_trial - 1, -1):
        there = places(cluster, share, cpus, nodes)
        if there >= wanted > 0:
            return cpus, cluster.workers if cluster.workers is not None else there
    names = ("CPU", "GPU", *cluster.resources)
    have = "; ".join(" and ".join(f"{node.get(name, 0):g} {name}" for name in names) for node in nodes)
    own = "".join(f", cluster.resources.{name}={amount:g}" for name, amount in cluster.resources.items())
    count = cluster.processes_per_trial
    own += f", cluster.processes_per_trial={count}" if count > 1 else ""
    raise RequestError(
        f"cluster.workers={cluster.workers}, cluster.cpus={cluster.cpus}, cluster.gpus={share / count:g}{own}: there "
        f"is no room for such workers on the nodes, which have: {have or 'nothing'}; lower them"
    )


def places(cluster: ClusterSettings, share: float, cpus: int, nodes: Sequence[dict[str, float]]) -> int:
    """Return for how many workers nodes have room.

    Args:
        cluster: what the settings say of the cluster.
        share: GPUs of a worker.
        cpus: CPUs of a worker.
        nodes: resources of each node.
    """
    return sum(int(min(node.get("CPU", 0) // cpus, _for_rest(cluster, share, node))) for node in nodes)


def _wanted(cluster: ClusterSettings, share: float, nodes: Sequence[dict[str, float]]) -> int:
    """Return the least number of workers where the settings leave it open."""
    if cluster.cpus is not None:
        return 1
    least = cluster.processes_per_trial
    if share:
        return sum(int(min(node.get("CPU", 0) // least, _for_rest(cluster, share, node))) for node in nodes)
    return sum(node.get("CPU", 0) >= least and _for_rest(cluster, share, node) >= 1 for node in nodes)


def _for_rest(cluster: ClusterSettings, share: float, node: dict[str, float]) -> float:
    """Return for how many workers a node has GPUs and custom resources; infinity where they need none."""
    own = (int(node.get(name, 0) / amount + 1e-6) for name, amount in cluster.resources.items())
    return min([_parts(share, node) if share else math.inf, *own])


def _parts(share: float, node: dict[str, float]) -> int:
    """Return for how many workers a node has GPUs. A part of a GPU lies on one GPU. More than one are whole."""
    whole = int(node.get("GPU", 0))
    return whole // int(share) if share >= 1 else whole * int(1 / share)


@dataclass(frozen=True)
class Joined:
    """How this process has joined the cluster that it is in."""

    job: str
    named: bool
    environment: dict[str, Any]


_joined: Joined | None = None


def join(address: str | None, environment: dict[str, Any]) -> bool:
    """Join the cluster at an address, else that of RAY_ADDRESS, else start one on this machine.

    Args:
        address: `cluster.address`.
        environment: what Ray brings to the nodes, as its `runtime_env`.

    Returns:
        Whether an address was given, so that other nodes may come later.

    Raises:
        RequestError: The address is no `host:port`, or this process has joined a cluster, and another one is asked for
            or nothing can be brought to its nodes any more.
        OutOfReachError: No cluster answers.
    """
    global _joined
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if address is not None and address.rpartition(":")[2] != joined.rpartition(":")[2]:
            raise RequestError(
                f"cluster.address={address}: this process has joined the Ray cluster at {joined}; leave the address "
                "out, or call ray.shutdown() first"
            )
        job = ray.get_runtime_context().get_job_id()
        before = _joined if _joined is not None and _joined.job == job else Joined(job, address is not None, {})
        if environment and environment != before.environment:
            raise RequestError(
                f"cluster.environment=package: this process has joined the Ray cluster at {joined}, whose nodes get "
                "their environment when it is joined; call ray.shutdown() first"
            )
        return before.named
    known = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if known is None:
        # Ray turns token authentication on. Without a token it would make a file that others may read.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers give way to everything else
    else:
        _knock(known)
    former = signal.getsignal(signal.SIGTERM)
    entrypoint: Callable[[], str] = ray._private.utils.get_entrypoint_name
    # Ray shows the command line to everyone on the cluster, and it may hold the password of a database.
    ray._private.utils.get_entrypoint_name = lambda: redact(entrypoint())
    try:
        # With an address the cluster has decided about its dashboard.
        ray.init(address=known or "local", include_dashboard=None if known else False, runtime_env=environment, **QUIET)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        if known is None:
            raise OutOfReachError(f"cluster: Ray can't be started on this machine: {first_line(error)}") from None
        raise _away(known, error) from None
    finally:
        ray._private.utils.get_entrypoint_name = entrypoint
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)  # Ray's handler ends this process at once
    _joined = Joined(ray.get_runtime_context().get_job_id(), known is not None, environment)
    return _joined.named


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
        f"({first_line(error)}); start it, join it with `ray start`, or leave the address out; a cluster that asks for "
        "a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )
