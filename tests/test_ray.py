"""Sweeps whose workers are actors of Ray on this machine, and what happens when a node is lost or cut off."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import make
import postgres
import tiny
import tracked
from forked import Coordinator
from hpsearch.config.settings import ClusterSettings, Settings
from hpsearch.coordinator import sweep
from hpsearch.coordinator.loop import Loop
from hpsearch.errors import OutOfReachError, RequestError
from hpsearch.fsck import fsck
from hpsearch.state import identity
from hpsearch.state.folder import StudyFolder
from hpsearch.state.messages import Alive, DataName, Lost, NoRoom, OutOfMemory, Progress, Ready, Train, TrialResult
from hpsearch.state.records import Status, TrialRecord, read_points
from hpsearch.tracking.runs import Tracking
from hpsearch.training import checkpoints
from hpsearch.workers.workplaces import open_workplace
from test_tracking import server as mlflow_server
from test_workers import process_is_gone

ray = pytest.importorskip("ray")
SECONDS = 300
FAULTS = 4  # of nodes, in one sweep
ON_RAY = ("cluster=ray", "cluster.cpus=1", "cluster.workers=1")
Models = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray's, of files that its processes write to


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Models) -> Callable[..., Settings]:
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    return lambda *more: make.toy_settings(csv, tiny_model("bert"), "bert", "study=toy", "budget.max_trials=4", *more)


@pytest.fixture
def cluster() -> Iterator[None]:
    """Ray that this process has joined, and that does not end with a sweep."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A cluster of a head without processors, and of the nodes that a test adds."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


def auth_mode() -> str:
    """Return Ray's mode in this process.

    Whoever starts Ray without an address turns tokens on, and whoever joins an address must say so as well. A test may
    have done the first here.
    """
    return os.environ.get("RAY_AUTH_MODE", "disabled")


def records(home: Path) -> list[TrialRecord]:
    return [TrialRecord.load(one.path) for one in StudyFolder.of(home, "toy").trials("trials")]


def scores(home: Path) -> list[tuple[Status, float | None, dict[int, float]]]:
    return [(one.status, one.score, one.rungs) for one in records(home)]


@pytest.mark.slow
def test_a_sweep_on_ray_comes_to_what_it_comes_to_here(
    settings: Callable[..., Settings], tmp_path: Path, cluster: None
) -> None:
    more = ("budget.floors=true", "budget.confirmation.finalists=1")
    here, there = (tracked.new_home(tmp_path / name) for name in ("here", "there"))
    first = sweep.run_sweep(settings(*more), here)
    asked = settings(*ON_RAY, *more)
    second = sweep.run_sweep(asked, there)
    assert scores(there) == scores(here)
    assert second.test.value == first.test.value
    assert second.winner.params == first.winner.params
    assert fsck(asked, there, repair=False) == "toy: clean"
    assert sweep.run_sweep(asked, there).finished == second.finished, "there is nothing left to do"


@pytest.mark.slow
def test_several_processes_of_a_node_come_to_what_they_come_to_here(
    settings: Callable[..., Settings], tmp_path: Path, cluster: None
) -> None:
    several = ("cluster.processes_per_trial=2", "budget.max_trials=2")
    here, there = (tracked.new_home(tmp_path / name) for name in ("here", "there"))
    first = sweep.run_sweep(settings(*several), here)
    asked = settings("cluster=ray", "cluster.cpus=2", "cluster.workers=1", *several)
    second = sweep.run_sweep(asked, there)
    assert (first.hardware.processes, second.hardware.processes) == (2, 2)
    assert scores(there) == scores(here)
    assert second.test.value == first.test.value
    assert fsck(asked, there, repair=False) == "toy: clean"


@pytest.mark.slow
def test_trials_and_workers_are_known_by_node(settings: Callable[..., Settings], tmp_path: Path, nodes: Any) -> None:
    for name in ("n1", "n2"):
        nodes.add_node(num_cpus=1, node_name=name)
    home = tracked.new_home(tmp_path / "home")
    long = ("train.epochs=60", "search.space.train.epochs.choices=[60]", "search.rungs=[]")  # until both have begun
    asked = settings("cluster=ray", "cluster.cpus=1", "cluster.workers=2", "cluster.shared=true", *long)
    summary = sweep.run_sweep(asked, home)
    staff = summary.staff
    assert staff is not None
    assert (staff.workers, staff.nodes) == (2, {"n1": 1, "n2": 1})
    assert 0 < staff.working < 2 * staff.seconds
    found = records(home)
    assert {one.node for one in found} <= {"n1", "n2"}
    runs = {run.run_id: run for run in Tracking(settings(), home).children(summary.mlflow.run_id)}
    for one in found:
        assert one.run_id is not None
        tags = runs[one.run_id].tags
        assert (tags["hpsearch.node"], tags["hpsearch.device"]) == (one.node, summary.hardware.name)
    page = StudyFolder.of(home, "toy").report.read_text()
    assert "2 workers on 2 nodes worked" in page
    assert "By node: n1 1, n2 1." in page


def started(nodes: Any, name: str, **environment: str) -> subprocess.Popen[bytes]:
    """A node with one processor, in processes of its own.

    Ray gives a node 30 seconds to come up, which a busy machine may not hold. Then it is started again.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={nodes.address}"]
    own = ["--num-cpus=1", f"--node-name={name}"]
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        node = subprocess.Popen(
            [*command, *own], stdout=subprocess.DEVNULL, env=os.environ | environment, start_new_session=True
        )
        while node.poll() is None:
            if any(one["Alive"] and one["NodeName"] == name for one in ray.nodes()):
                return node
            time.sleep(0.1)
    raise AssertionError(f"node {name} does not come up")


@pytest.mark.slow
def test_workers_come_and_go_with_their_nodes(
    settings: Callable[..., Settings],
    tmp_path: Path,
    nodes: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("hpsearch.workers.ray.RayWorkplace.lease_seconds", 8.0)
    home = tracked.new_home(tmp_path / "home")
    long = ("train.epochs=150", "search.space.train.epochs.choices=[150]", "search.rungs=[]", "budget.max_trials=5")
    asked = settings("cluster=ray", "cluster.cpus=1", "cluster.shared=true", *long)
    nodes.add_node(num_cpus=1, node_name="n1")

    def wait_for(what: Callable[[TrialRecord], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not any(map(what, records(home))) and time.monotonic() < deadline:
            time.sleep(0.1)

    def change() -> None:
        wait_for(lambda one: one.node == "n1")
        second = started(nodes, "n2")
        wait_for(lambda one: one.node == "n2")
        os.killpg(second.pid, signal.SIGKILL)
        second.wait(60)

    changing = threading.Thread(target=change)
    changing.start()
    summary = sweep.run_sweep(asked, home)
    changing.join()
    assert summary.staff is not None
    assert (summary.staff.workers, summary.staff.nodes) == (2, {"n1": 1, "n2": 1})
    found = records(home)
    assert [(one.status, one.attempts) for one in found] == [(Status.COMPLETE, 0)] * 5
    said = " ".join(capsys.readouterr().out.split())
    grown = said.index("cluster: the number of workers changes from 1 to 2")
    assert "cluster: the number of workers changes from 2 to 1" in said[grown:]
    assert fsck(asked, home, repair=False) == "toy: clean"


@pytest.mark.slow
def test_a_node_that_goes_with_notice_is_left_with_all_that_was_trained(
    settings: Callable[..., Settings],
    tmp_path: Path,
    nodes: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As Ray gives notice where its process is asked to end."""
    monkeypatch.setattr("hpsearch.workers.cluster.KNOCK_SECONDS", 1.0)
    home, saved = tracked.new_home(tmp_path / "home"), list[tuple[int, int]]()
    long = ("train.epochs=150", "search.space.train.epochs.choices=[150]", "search.rungs=[]", "budget.max_trials=2")
    asked = settings("cluster=ray", "cluster.cpus=1", "cluster.shared=true", *long)
    ended = Loop._ended

    def noted(loop: Loop, result: TrialResult) -> None:
        if result.status is Status.PAUSED:
            saved.append((result.number, result.step))
        ended(loop, result)

    monkeypatch.setattr(Loop, "_ended", noted)
    nodes.add_node(num_cpus=1, node_name="n1")
    second = started(nodes, "n2")

    def drain() -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            there = [one for one in records(home) if one.node == "n2"]
            if any(read_points(StudyFolder.of(home, "toy").trial("trials", one.number).path) for one in there):
                break
            time.sleep(0.1)
        second.terminate()

    draining = threading.Thread(target=drain)
    draining.start()
    summary = sweep.run_sweep(asked, home)
    draining.join()
    second.wait(60)
    [(number, step)] = saved
    assert step > 0
    found = records(home)
    assert [(one.status, one.attempts, one.node) for one in found] == [(Status.COMPLETE, 0, "n1")] * 2
    steps = [point for point, _ in read_points(StudyFolder.of(home, "toy").trial("trials", number).path)]
    assert steps == sorted(set(steps)), "no step was trained twice"
    said = " ".join(capsys.readouterr().out.split())
    assert "cluster: node n2 will go soon; what worker" in said
    assert "lost its worker" not in said
    assert summary.trials.failed == 0
    assert fsck(asked, home, repair=False) == "toy: clean"


@pytest.mark.chaos
def test_nodes_are_killed_stopped_and_drained_at_random_moments(
    settings: Callable[..., Settings], tmp_path: Path, nodes: Any, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.workers.ray.RayWorkplace.lease_seconds", 8.0)
    monkeypatch.setattr("hpsearch.workers.cluster.KNOCK_SECONDS", 1.0)
    home, complete = tracked.new_home(tmp_path / "home"), list[int]()
    long = ("train.epochs=80", "search.space.train.epochs.choices=[80]", "budget.max_trials=6")
    asked = settings("cluster=ray", "cluster.cpus=1", "cluster.shared=true", "hardware.checkpoint_seconds=2", *long)
    ended = Loop._ended

    def noted(loop: Loop, result: TrialResult) -> None:
        if result.status is Status.COMPLETE and loop.phase.name == "search":
            complete.append(result.number)
        ended(loop, result)

    monkeypatch.setattr(Loop, "_ended", noted)
    there, names, over = [started(nodes, f"n{i}") for i in range(2)], itertools.count(2), threading.Event()

    def disturb() -> None:
        for _ in range(FAULTS):
            if over.wait(rng.uniform(4, 12)):
                return
            node, what = rng.choice(there), rng.choice(["killed", "drained", "stopped"])
            print(f"a node is {what}")
            if what == "stopped":
                os.killpg(node.pid, signal.SIGSTOP)
                over.wait(rng.uniform(1, 6))
                os.killpg(node.pid, signal.SIGCONT)
                continue
            there.remove(node)
            there.append(started(nodes, f"n{next(names)}"))
            gone.append(node)
            os.killpg(node.pid, signal.SIGKILL) if what == "killed" else node.terminate()

    gone: list[subprocess.Popen[bytes]] = []
    deadline = time.monotonic() + SECONDS
    while not any(one.get("CPU") for one in (node["Resources"] for node in ray.nodes())):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        summary = sweep.run_sweep(asked, home)
    finally:
        over.set()
        disturbing.join()
        for node in [*there, *gone]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait(60)
    found = records(home)
    assert len(found) == 6
    assert {one.status for one in found} <= {Status.COMPLETE, Status.PRUNED}
    assert {one.attempts for one in found} == {0}, "what a node suffers is no fault of a trial"
    assert sorted(complete) == sorted({*complete}), "none is trained to its end twice"
    assert summary.trials.failed == 0
    assert fsck(asked, home, repair=False) == "toy: clean"


@contextlib.contextmanager
def autoscaled(folder: Path, most: int) -> Iterator[str]:
    """The address of a head without processors, whose autoscaler starts up to `most` nodes and ends idle ones."""
    address, empty = f"{ray.util.get_node_ip_address()}:{tracked.free_port()}", {"file_mounts": {}, "auth": {}}
    lists = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    none = {f"{name}_commands": [] for name in lists} | {"cluster_synced_files": [], "rsync_exclude": []}
    provider = {"type": "fake_multinode", "disable_node_updaters": True, "use_node_id_as_ip": True}
    head_kind = "ray.head.default"  # the provider's own name of it
    kinds = {head_kind: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
    kinds["node"] = {"resources": {"CPU": 1, "quick": 1}, "node_config": {}, "max_workers": most}
    config = folder / "autoscaler.json"
    config.write_text(
        json.dumps(
            {
                **{"cluster_name": "toy", "max_workers": most, "upscaling_speed": 1.0, "idle_timeout_minutes": 0.1},
                **{"provider": provider | {"gcs_address": address}, "head_node_type": head_kind},
                **{"available_node_types": kinds, "rsync_filter": [], "file_mounts_sync_continuously": False},
                **(empty | none),
            }
        )
    )
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=0"]
    command += [f"--port={address.partition(':')[2]}", "--include-dashboard=false", f"--autoscaling-config={config}"]
    more = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_AUTH_MODE": auth_mode()}
    with open(folder / "head.log", "wb") as output:
        head = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | more, start_new_session=True)
    try:
        yield address
    finally:
        head.terminate()
        head.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)  # what is left of its nodes


@pytest.mark.slow
def test_an_autoscaler_is_asked_for_nodes_and_lets_them_go(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tracked.new_home(tmp_path / "home")
    monkeypatch.setattr("hpsearch.coordinator.headcount.IDLE_SECONDS", 2.0)
    with autoscaled(tmp_path, most=2) as address:
        asked = settings(
            *("cluster=ray", "cluster.autoscaling=true", "cluster.workers=2", "cluster.cpus=1"),
            *("+cluster.resources.quick=1", "cluster.shared=true", f"cluster.address={address}"),
            *("train.epochs=150", "search.space.train.epochs.choices=[150]", "search.rungs=[]"),
        )
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(OutOfReachError):
                open_workplace(asked.hardware.model_copy(update={"workers": "auto"}), asked.cluster, tmp_path).close()
                break
            assert time.monotonic() < deadline, (tmp_path / "head.log").read_text()
            time.sleep(1.0)
        try:
            assert len(ray.nodes()) == 1
            sweep.run_sweep(asked, home)
            roster = StudyFolder.of(home, "toy").roster.read_text().splitlines()
            done = [json.loads(line) for line in roster if '"what": "search' in line]
            assert {one["worker"] for one in done} == {0, 1}, "the nodes have one name, because they are one machine"
            while sum(node["Alive"] for node in ray.nodes()) > 1:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        finally:
            ray.shutdown()
    assert all(one.status.final for one in records(home))


@contextlib.contextmanager
def far_node(
    nodes: Any, home: Path, cache: Path, kilobytes: int = 1_000_000, more: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A node that sees nothing of the folder `home`, with a disk of this size for its cache."""
    log, before = cache.with_suffix(".log"), len(ray.nodes())
    for folder in (home, cache):
        folder.mkdir(exist_ok=True)
    mounts = f"mount -t tmpfs none {home} && mount -t tmpfs -o size={kilobytes}k none {cache}"
    start = f"{sys.executable} -m ray.scripts.scripts start --block --address={nodes.address} --num-cpus=1 {more}"
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    if subprocess.run([*alone, mounts], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk in a namespace of its own")
    with open(log, "wb") as output:
        node = subprocess.Popen(
            [*alone, f"{mounts} && exec {start} --node-name=far"],
            stdout=output,
            stderr=output,
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + SECONDS
        while len(ray.nodes()) == before:
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield node
    finally:
        if node.poll() is None:
            node.terminate()
        node.wait(60)


@pytest.mark.slow
def test_a_sweep_without_a_shared_disk_comes_to_what_it_comes_to_here(
    settings: Callable[..., Settings], tmp_path: Path, nodes: Any, tiny_model: Models
) -> None:
    more = ("budget.floors=true", "budget.confirmation.finalists=1")
    here, there = tracked.new_home(tmp_path / "here"), tracked.new_home(tmp_path / "home")
    first = sweep.run_sweep(settings(*more), here)
    asked = settings(*ON_RAY, *more)
    with far_node(nodes, there, tmp_path / "cache"):
        second = sweep.run_sweep(asked, there)
    assert scores(there) == scores(here)
    assert second.test.value == first.test.value
    assert {one.node for one in records(there)} == {"far"}
    assert second.staff is not None
    assert second.staff.carried is not None
    assert "were sent to nodes, and" in StudyFolder.of(there, "toy").report.read_text()
    model = sum(path.stat().st_size for path in tiny_model("bert").rglob("*") if path.is_file())
    assert min(second.staff.carried.sent, second.staff.carried.fetched) > model
    assert fsck(asked, there, repair=False) == "toy: clean"


@pytest.mark.slow
def test_a_database_and_a_server_serve_a_cluster_whose_nodes_see_neither_nor_the_disk(
    settings: Callable[..., Settings], tmp_path: Path, nodes: Any
) -> None:
    home, store, port = tmp_path / "home", tracked.new_home(tmp_path / "store"), tracked.free_port()
    address = f"http://127.0.0.1:{port}"
    with (
        postgres.server() as database,
        tracked.process(mlflow_server(store, port), f"{address}/health", tmp_path / "server.log"),
        far_node(nodes, home, tmp_path / "cache"),
    ):
        asked = settings(*ON_RAY, f"storage.uri='{database.address}'", f"tracking.uri='{address}'")
        summary = sweep.run_sweep(asked, home)
        assert {one.node for one in records(home)} == {"far"}
        runs = Tracking(asked, home).children(summary.mlflow.run_id)
        assert {run.tags["hpsearch.node"] for run in runs} == {"far"}
        assert len(runs) == len(records(home)) == 4
        assert fsck(asked, home, repair=False) == "toy: clean"
    assert not list(home.glob("*.db")), "neither the study nor its runs are in a file here"


@pytest.mark.slow
def test_a_sweep_on_ray_is_interrupted_and_continued(settings: Callable[..., Settings], tmp_path: Path) -> None:
    home = tracked.new_home(tmp_path / "home")
    asked = settings(*ON_RAY, "train.epochs=30", "search.space.train.epochs.choices=[30]", "search.rungs=[]")
    request, log = tmp_path / "settings.json", tmp_path / "log"
    request.write_text(asked.model_dump_json())
    process = Coordinator(request, log, {"HPSEARCH_HOME": str(home)})
    deadline = time.monotonic() + SECONDS
    while not any(one.status is Status.COMPLETE for one in records(home)):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 130, log.read_text()
    before = records(home)
    assert Coordinator(request, log, {"HPSEARCH_HOME": str(home)}).wait(SECONDS) == 0, log.read_text()
    after = records(home)
    assert len(after) == 4
    assert [(one.params, one.score) for one in before if one.status is Status.COMPLETE] == [
        (after[one.number].params, after[one.number].score) for one in before if one.status is Status.COMPLETE
    ]
    assert fsck(asked, home, repair=False) == "toy: clean"


@pytest.mark.slow
def test_when_the_head_dies_all_is_saved_and_goes_on_with_the_next_one(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    home, request, log = tracked.new_home(tmp_path / "home"), tmp_path / "settings.json", tmp_path / "log"
    # The loss of a head is noticed after twenty seconds. A trial takes longer.
    long = ("train.epochs=500", "search.space.train.epochs.choices=[500]", "search.rungs=[]", "budget.max_trials=1")
    asked = settings(*ON_RAY, *long)

    def on(cluster: Any) -> Coordinator:
        there = asked.model_copy(update={"cluster": asked.cluster.model_copy(update={"address": cluster.address})})
        request.write_text(there.model_dump_json())
        return Coordinator(request, log, {"HPSEARCH_HOME": str(home), "RAY_AUTH_MODE": auth_mode()})

    first = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        process, deadline = on(first), time.monotonic() + SECONDS
        while not any(read_points(one.path) for one in StudyFolder.of(home, "toy").trials("trials")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        first.head_node.kill_gcs_server()
        assert process.wait(SECONDS) == 5, log.read_text()
        assert "its head is gone" in log.read_text()
        assert any(checkpoints.newest(one.path) for one in StudyFolder.of(home, "toy").trials("trials"))
    finally:
        first.shutdown()
    second = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        assert on(second).wait(SECONDS) == 0, log.read_text()
    finally:
        second.shutdown()
    assert [(one.status, one.attempts) for one in records(home)] == [(Status.COMPLETE, 0)]
    assert fsck(asked, home, repair=False) == "toy: clean"


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_told_from_none(
    settings: Callable[..., Settings], tmp_path: Path, cluster: None
) -> None:
    request, log = tmp_path / "settings.json", tmp_path / "log"
    asked = settings(*ON_RAY, f"cluster.address={ray.get_runtime_context().gcs_address}")
    request.write_text(asked.model_dump_json())
    without = {"HPSEARCH_HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "disabled"}
    assert Coordinator(request, log, without).wait(SECONDS) == 5, log.read_text()
    assert "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in log.read_text().splitlines()[-1]


@pytest.mark.slow
def test_a_worker_for_which_there_is_no_room_holds_up_nothing(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:

        class Other:
            def there(self) -> bool:
                return True

        other = ray.remote(Other).options(num_cpus=1).remote()
        assert ray.get(other.there.remote())
        home = tracked.new_home(tmp_path / "home")
        asked = settings("cluster=ray", "cluster.cpus=1", "cluster.workers=2")
        sweep.run_sweep(asked, home)
        assert all(one.status.final for one in records(home))
        assert len(records(home)) == 4
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_no_secret_reaches_a_worker(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpsearch.workers import ray as on_ray
    from hpsearch.workers import ray_worker

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    asked = settings("tracking.uri=http://me:hush-hush@mlflow", "storage.uri=postgresql+psycopg://me:hush-hush@db/x")
    for far in (True, False):
        place: Any = SimpleNamespace(far=far, brings_code=far)
        assert "hush-hush" not in ray_worker._for_a_node(asked, place).model_dump_json()
    command = "hpsearch sweep storage.uri=postgresql+psycopg://me:hush-hush@db/x"
    monkeypatch.setattr("ray._private.utils.get_entrypoint_name", lambda: command)
    try:
        hardware = asked.hardware.model_copy(update={"workers": "auto"})
        place = on_ray.RayWorkplace(hardware, of(workers=1, cpus=1), tmp_path)
        assert place.hardware.device == "cpu"
        worker = place.start(0, "workers")
        environment = Path(f"/proc/{ray.get(worker.seat.process.remote())}/environ").read_text()
        assert "OMP_NUM_THREADS=" in environment
        assert "hush-hush" not in environment
        assert "\0RAY_" not in environment
        jobs = ray._private.worker.global_worker.gcs_client.get_all_job_info()
        assert all("hush-hush" not in job.entrypoint for job in jobs.values())
        worker.end(0)
        place.close()
    finally:
        ray.shutdown()


class Heard:
    """A worker that a test speaks with."""

    place: Any
    worker: Any

    def until(self, kind: type) -> Any:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for _, message in self.place.hear([self.worker], 1.0):
                if isinstance(message, kind):
                    return message
                assert isinstance(message, Ready | Progress | Alive), message
        raise AssertionError(f"no {kind.__name__} came")

    def end(self) -> None:
        self.worker.end(0)
        self.place.close()


class Long(Heard):
    """A worker on a node of its own that trains a long trial."""

    def __init__(self, settings: Settings, home: Path, nodes: Any, lease_seconds: float) -> None:
        from hpsearch.workers.ray import RayWorkplace

        self.node, ref = nodes.add_node(num_cpus=1), make.prepared(settings, home)
        hardware = settings.hardware.model_copy(update={"workers": "auto"})
        self.place = RayWorkplace(hardware, of(workers=1, cpus=1, shared=True), home)
        self.place.lease_seconds = lease_seconds
        self.worker = self.place.start(0, "workers")
        self.worker.give(Train(0, settings, DataName.of(ref, home), "studies/toy/trials/0"))
        self.until(Progress)
        self.process = ray.get(self.worker.seat.process.remote())


@pytest.fixture
def long(settings: Callable[..., Settings]) -> Settings:
    return settings("train.epochs=1000", "search.space.train.epochs.choices=[1000]", "search.rungs=[]")


@pytest.mark.slow
def test_the_loss_of_a_node_is_told_once_its_worker_is_gone_and_is_no_fault_of_the_trial(
    long: Settings, tmp_path: Path, nodes: Any
) -> None:
    bench = Long(long, tmp_path / "home", nodes, lease_seconds=8.0)
    removed = time.monotonic()
    nodes.remove_node(bench.node, allow_graceful=False)
    lost = bench.until(Lost)
    assert time.monotonic() - removed > bench.place.lease_seconds
    assert process_is_gone(bench.process)
    assert (lost.number, bench.worker.trial) == (None, None)
    bench.end()


@pytest.mark.slow
def test_an_actor_that_dies_takes_its_worker_along_and_is_an_attempt_at_the_trial(
    long: Settings, tmp_path: Path, nodes: Any
) -> None:
    bench = Long(long, tmp_path / "home", nodes, lease_seconds=60.0)
    killed = time.monotonic()
    ray.kill(bench.worker.seat)
    lost = bench.until(Lost)
    assert time.monotonic() - killed < bench.place.lease_seconds, "its node answers"
    assert (lost.number, lost.for_memory) == (0, False)
    deadline = time.monotonic() + 5
    while not process_is_gone(bench.process):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    bench.end()


@pytest.mark.slow
def test_a_node_that_hears_nothing_ends_its_worker(long: Settings, tmp_path: Path, nodes: Any) -> None:
    bench = Long(long, tmp_path / "home", nodes, lease_seconds=8.0)
    with bench.place.news:  # as if the coordinator were cut off: it calls no more
        bench.place.serving.clear()
        deadline = time.monotonic() + SECONDS
        while not process_is_gone(bench.process):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        lost = ray.get(bench.worker.seat.hear.remote(5.0))
        while not isinstance(lost, Lost):
            lost = ray.get(bench.worker.seat.hear.remote(5.0))
    assert (lost.number, "no contact" in lost.reason) == (None, True)
    bench.end()


# ---- without a shared disk


class Far(Heard):
    """A worker on a node that does not see the coordinator's disk."""

    def __init__(self, settings: Settings, home: Path) -> None:
        from hpsearch.workers.ray import RayWorkplace

        self.home, self.ref = home, make.prepared(settings, home)
        self.settings, hardware = settings, settings.hardware.model_copy(update={"workers": "auto"})
        self.place = RayWorkplace(hardware, of(workers=1, cpus=1), home)
        self.worker = self.place.start(0, "workers")

    def train(self) -> None:
        self.worker.give(Train(0, self.settings, DataName.of(self.ref, self.home), "studies/toy/trials/0"))

    @property
    def trial(self) -> Path:
        return StudyFolder.of(self.home, "toy").trial("trials", 0).path


@pytest.mark.slow
def test_sealed_checkpoints_come_while_a_trial_is_trained_and_survive_its_node(
    long: Settings, tmp_path: Path, nodes: Any
) -> None:
    often = long.model_copy(update={"hardware": long.hardware.model_copy(update={"checkpoint_seconds": 1.0})})
    with far_node(nodes, tmp_path / "home", tmp_path / "cache") as node:
        bench = Far(often, tmp_path / "home")
        bench.place.lease_seconds = 8.0
        bench.train()
        steps: set[int] = set()
        deadline = time.monotonic() + SECONDS
        while len(steps) < 3:
            assert time.monotonic() < deadline
            bench.until(Progress)
            if (found := checkpoints.newest(bench.trial)) is not None:
                steps.add(found.step)
        assert len(list(bench.trial.glob("checkpoint-*"))) <= 2, "former ones are deleted here too"
        os.killpg(node.pid, signal.SIGKILL)
        lost = bench.until(Lost)
    assert (lost.number, bench.worker.trial) == (None, None)
    bench.end()
    kept = checkpoints.newest(bench.trial)
    assert kept is not None
    assert kept.step >= max(steps)
    with far_node(nodes, tmp_path / "home", tmp_path / "other"):
        again = Far(often, tmp_path / "home")
        again.train()
        assert again.until(Progress).step > kept.step, "it goes on from there"
        again.end()


@pytest.mark.slow
def test_a_model_of_the_hub_is_sent_from_the_cache_here_though_the_object_stores_are_full(
    long: Settings, tmp_path: Path, tiny_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    size, cache = 80 * 2**20, tmp_path / "hub" / "models--someone--tiny"  # the least that Ray allows is 75 MiB
    snapshot = cache / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model("bert"), snapshot)
    (snapshot / "notes.txt").write_bytes(os.urandom(2**20) * 100)
    model = sum(path.stat().st_size for path in snapshot.iterdir())
    (snapshot / "pytorch_model.bin").write_bytes(bytes(2**20))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    asked = long.model_copy(update={"model": long.model.model_copy(update={"path": "someone/tiny"})})
    store = {"object_store_memory": size}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        with far_node(nodes, tmp_path / "home", tmp_path / "cache", more=f"--object-store-memory={size}"):
            held = [ray.put(os.urandom(2**20) * 30) for _ in range(4)]
            bench = Far(asked, tmp_path / "home")
            bench.train()
            assert bench.until(Progress).step > 0
            assert [len(one) for one in ray.get(held[:1])] == [30 * 2**20]
            assert bench.place.carried is not None
            assert 0 <= bench.place.carried.sent - model < 2**20, "other forms of weights are not sent"
            bench.end()
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.slow
def test_a_full_disk_is_told_by_its_node(
    long: Settings, tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with far_node(nodes, tmp_path / "home", tmp_path / "small", kilobytes=100):
        bench = Far(long, tmp_path / "home")
        bench.until(Ready)
        bench.train()
        assert bench.until(NoRoom) == NoRoom(0, "far")
        bench.end()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left (simulated)")

    with far_node(nodes, tmp_path / "home", tmp_path / "large"):
        bench = Far(long, tmp_path / "home")
        bench.train()
        bench.until(Progress)
        monkeypatch.setattr("hpsearch.workers.parcels.Arrival.write", full)
        bench.worker.pause()
        assert bench.until(NoRoom) == NoRoom(0, ""), "the coordinator's own"
        bench.end()


def test_what_a_seat_left_behind_is_deleted_by_the_next(tmp_path: Path) -> None:
    from hpsearch.workers.far_seat import SETTLED_SECONDS, clear_leftovers

    seats, models, long_ago = tmp_path / "seats" / "me", tmp_path / "models", time.time() - SETTLED_SECONDS - 1
    for name in ("dead", "young", "alive"):
        (seats / name / "studies").mkdir(parents=True)
        (seats / f"{name}.lock").touch()
        (models / f"arriving-{name}-1.tmp").mkdir(parents=True)
        if name != "young":
            os.utime(seats / f"{name}.lock", (long_ago, long_ago))
    (models / "whole").mkdir()
    with open(seats / "alive.lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        clear_leftovers(tmp_path, seats)
    assert sorted(path.name for path in seats.iterdir()) == ["alive", "alive.lock", "young", "young.lock"]
    assert sorted(path.name for path in models.iterdir()) == ["arriving-alive-1.tmp", "arriving-young-1.tmp", "whole"]


def test_the_end_of_an_actor_is_no_fault_of_work_that_it_never_had(settings: Callable[..., Settings]) -> None:
    from hpsearch.workers.ray_worker import RayWorker

    silent = SimpleNamespace(remote=lambda *_: None)
    place: Any = SimpleNamespace(far=False, brings_code=False, counted=lambda **_: None)
    result = TrialResult(3, Status.COMPLETE, 1, 1, 0.5, {}, None, {}, (), None, {})
    for last in (OutOfMemory(3, 16, "memory ran out"), Lost(0, "it died", True)):
        worker = RayWorker(0, SimpleNamespace(node=silent, tell=silent), place, "log")
        worker.ready, worker.trial, worker.over = True, 3, True  # both messages came before the first is received
        worker.inbox.extend([result, last])
        assert worker.receive() == result
        worker.give(Train(7, settings(), DataName("data", (), {}, {}), "studies/toy/trials/7"))
        lost = worker.receive()
        assert isinstance(lost, Lost)
        assert (lost.number, lost.for_memory, worker.trial) == (None, True, None)


# ---- refusals


def of(**given: object) -> ClusterSettings:
    plain = {"name": "ray", "address": None, "workers": None, "cpus": None, "gpus": None, "resources": {}}
    plain |= {"shared": False, "autoscaling": False, "environment": "none", "processes_per_trial": 1}
    return ClusterSettings.model_validate(plain | given)


@pytest.mark.parametrize(
    ("given", "nodes", "expected"),
    [
        ({}, [{"CPU": 8}], (8, 1)),
        ({}, [{"CPU": 8}, {"CPU": 4}, {"GPU": 1}], (4, 3)),  # the larger one has room for two
        ({"workers": 4}, [{"CPU": 8}], (2, 4)),
        ({"workers": 3}, [{"CPU": 8}, {"CPU": 4}], (4, 3)),
        ({"cpus": 3}, [{"CPU": 8}, {"CPU": 4}], (3, 3)),
        ({}, [{"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}], (8, 4)),
        ({"gpus": 0.0}, [{"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}], (16, 2)),
        ({"gpus": 0.25}, [{"CPU": 16, "GPU": 2}], (2, 8)),
        ({"gpus": 0.3}, [{"CPU": 30, "GPU": 3}], (3, 9)),
        ({"gpus": 1.0, "workers": 1}, [{"CPU": 64}, {"CPU": 16, "GPU": 2}], (16, 1)),
        ({"resources": {"big": 1}}, [{"CPU": 8}, {"CPU": 8, "big": 1}], (8, 1)),
        ({"resources": {"big": 0.2}, "cpus": 1}, [{"CPU": 8, "big": 1}], (1, 5)),
        ({"resources": {"big": 0.5}, "gpus": 0.25}, [{"CPU": 8, "GPU": 2, "big": 1}], (4, 2)),
        ({"autoscaling": True, "workers": 9, "cpus": 3}, [{"CPU": 0}], (3, 9)),
        ({"processes_per_trial": 4}, [{"CPU": 8}, {"CPU": 6}, {"CPU": 2}], (6, 2)),
        ({"processes_per_trial": 4}, [{"CPU": 16, "GPU": 8}, {"CPU": 16, "GPU": 7}], (8, 3)),
        ({"processes_per_trial": 4, "gpus": 0.0}, [{"CPU": 16, "GPU": 8}], (16, 1)),
        ({}, [{"CPU": 16, "GPU": 2}, {"CPU": 0, "GPU": 1}], (8, 2)),  # a head that runs nothing
        ({}, [{"CPU": 1, "GPU": 8}], (1, 1)),
    ],
)
def test_workers_are_placed_node_by_node(
    given: dict[str, Any], nodes: list[dict[str, float]], expected: tuple[int, int]
) -> None:
    from hpsearch.workers.cluster import gpus, placed

    cluster = of(**given)
    assert placed(cluster, gpus(cluster, "auto", nodes), nodes) == expected


@pytest.mark.parametrize(
    ("given", "nodes"),
    [
        ({"workers": 2, "cpus": 3}, [{"CPU": 4}, {"CPU": 2}]),  # six processors in all, and room for one
        ({"workers": 9, "cpus": 1}, [{"CPU": 4}]),
        ({"gpus": 0.5, "workers": 1}, [{"CPU": 4}]),
        ({"gpus": 1.0}, [{"CPU": 4}]),
        ({"resources": {"big": 1}}, [{"CPU": 4}, {"CPU": 4, "large": 1}]),
        ({"processes_per_trial": 4}, [{"CPU": 3}, {"CPU": 3}]),
        ({"processes_per_trial": 4, "gpus": 1.0}, [{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}]),
        ({}, []),
    ],
)
def test_workers_for_which_there_is_no_room_are_refused(given: dict[str, Any], nodes: list[dict[str, float]]) -> None:
    from hpsearch.workers.cluster import gpus, placed

    cluster = of(**given)
    with pytest.raises(RequestError, match=r"cluster\.workers=.* there is no room for such workers on the nodes"):
        placed(cluster, gpus(cluster, "auto", nodes), nodes)
    with pytest.raises(ValueError, match=r"give cluster\.workers and cluster\.cpus"):
        of(autoscaling=True, workers=2)
    with pytest.raises(ValueError, match=r"GPU is no custom resource; give cluster\.cpus and cluster\.gpus"):
        of(resources={"GPU": 1, "big": 1})
    assert gpus(of(), "cpu", [{"CPU": 4, "GPU": 1}]) == 0
    with pytest.raises(RequestError, match=r"hardware\.device=cuda: needs nodes with GPUs"):
        gpus(of(), "cuda", [{"CPU": 4}])


def test_what_ray_cannot_do_is_refused(settings: Callable[..., Settings], tmp_path: Path) -> None:
    hardware = settings().hardware.model_copy(update={"workers": "auto"})
    address = f"127.0.0.1:{tracked.free_port()}"
    with pytest.raises(OutOfReachError, match=f"cluster.address={address}: no Ray cluster answers there"):
        open_workplace(hardware, of(address=address), tmp_path)
    with pytest.raises(RequestError, match=r"cluster\.address=ray://head:10001: is no <host>:<port>"):
        open_workplace(hardware, of(address="ray://head:10001"), tmp_path)
    with pytest.raises(RequestError, match=r"hardware\.workers=2: with cluster=ray say cluster\.workers"):
        open_workplace(hardware.model_copy(update={"workers": 2}), of(), tmp_path)


@pytest.mark.slow
def test_nodes_need_the_same_code(
    settings: Callable[..., Settings], tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add_node(num_cpus=1)
    hardware = settings().hardware.model_copy(update={"workers": "auto"})
    place = open_workplace(hardware, of(shared=True), tmp_path)
    other = identity.made_by() | {"libraries": {"torch": "1.0.0"}}
    monkeypatch.setattr("hpsearch.state.identity.made_by", lambda: other)
    with pytest.raises(RequestError, match=r"node .* has other code or libraries.*libraries\.torch: '1\.0\.0' -> "):
        assert place.hardware
    place.close()


@pytest.mark.slow
def test_a_node_that_lacks_something_and_joins_later_is_left_out(
    settings: Callable[..., Settings], tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add_node(num_cpus=1)
    hardware = settings().hardware.model_copy(update={"workers": "auto"})
    place: Any = open_workplace(hardware, of(shared=True), tmp_path)
    assert (place.count, place.hardware.device) == (1, "cpu")
    first = Heard()
    first.place, first.worker = place, place.start(0, "workers")
    first.until(Ready)
    nodes.add_node(num_cpus=1)
    deadline = time.monotonic() + SECONDS
    while place.count == 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lacks = identity.made_by() | {"libraries": {"torch": "1.0.0"}}
    monkeypatch.setattr("hpsearch.state.identity.made_by", lambda: lacks)
    second = Heard()
    second.place, second.worker = place, place.start(1, "workers")
    lost = second.until(Lost)
    assert lost.number is None
    while place.count > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "has other code or libraries" in lost.reason
    second.worker.end(0)
    monkeypatch.undo()
    third = Heard()
    third.place, third.worker = place, place.start(1, "workers")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for _, message in place.hear([third.worker], 1.0):
            raise AssertionError(f"{message}: the free node is not to be used any more")
    third.worker.end(0)
    nodes.add_node(num_cpus=1)
    fourth = Heard()
    fourth.place, fourth.worker = place, place.start(1, "workers")
    fourth.until(Ready)
    fourth.worker.end(0)
    first.end()


@pytest.mark.slow
def test_a_node_without_hpsearch_is_left_out(
    settings: Callable[..., Settings], tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it is passed on to nodes
    broken = tmp_path / "broken" / "hpsearch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'hpsearch'\")\n")
    nodes.add_node(num_cpus=1)
    place: Any = open_workplace(settings().hardware.model_copy(update={"workers": "auto"}), of(shared=True), tmp_path)
    assert (place.count, place.hardware.device) == (1, "cpu")
    first = Heard()
    first.place, first.worker = place, place.start(0, "workers")
    first.until(Ready)
    node = started(nodes, "bare", PYTHONPATH=str(broken.parent))
    try:
        deadline = time.monotonic() + SECONDS
        while place.count == 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second = Heard()
        second.place, second.worker = place, place.start(1, "workers")
        lost = second.until(Lost)
        assert lost.number is None
        assert "node bare can't start a worker: ModuleNotFoundError: No module named 'hpsearch'" in lost.reason
        while place.count > 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second.worker.end(0)
        first.end()
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait(60)


def test_without_ray_a_sentence_says_what_to_install(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("ray", "seat", "cluster"):
        monkeypatch.delitem(sys.modules, f"hpsearch.workers.{name}", raising=False)
    hardware = settings().hardware.model_copy(update={"workers": "auto"})
    with pytest.raises(RequestError, match=r"cluster=ray: needs Ray; pip install 'ray>=2\.60"):
        open_workplace(hardware, of(), tmp_path)


# ---- what is brought to nodes


def test_nodes_get_this_code_and_the_installed_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpsearch.workers.environment import not_set_up, of_job, of_worker, pinned

    for name, value in {"HF_HOME": "/models", "PYTHONPATH": "/code", "MLFLOW_TRACKING_PASSWORD": "hush"}.items():
        monkeypatch.setenv(name, value)
    assert of_job("none") == {}
    brought = of_job("package")
    assert brought["py_modules"] == [str(identity.PACKAGE)]
    assert "torch==2.13.0" in brought["pip"]
    assert {one.partition("==")[0] for one in brought["pip"]} >= set(identity.LIBRARIES)
    assert not any("+" in one or "ray" in one or "psycopg" in one for one in brought["pip"])
    assert len(pinned()) == len({one.partition("==")[0] for one in pinned()}) > 20
    assert of_worker("none") == {"env_vars": of_worker("none")["env_vars"] | {"PYTHONPATH": "/code"}}
    assert "PYTHONPATH" not in of_worker("package")["env_vars"], "it names a folder of this machine"
    assert of_worker("package")["env_vars"]["HF_HOME"] == "/models"
    assert "hush" not in str((brought, of_worker("none")))
    assert "RuntimeError: no pip; nodes need virtualenv" in not_set_up(
        Exception("Failed.\n RuntimeError: no pip\n"), "package"
    )


def test_a_model_inside_a_package_is_brought_along_with_the_code() -> None:
    from hpsearch.workers.ray_worker import _for_a_node

    settings = make.compose_settings()
    assert settings.model.path.startswith("package://")
    for brings_code in (True, False):
        place: Any = SimpleNamespace(far=True, brings_code=brings_code)
        path = _for_a_node(settings, place).model.path
        assert (path == settings.model.path) is not brings_code
        assert (Path(path) / "config.json").exists() is brings_code


def test_nothing_can_be_brought_to_a_cluster_that_is_joined_already(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    context = SimpleNamespace(gcs_address="head:6379", get_job_id=lambda: "01000000")
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    hardware = settings().hardware.model_copy(update={"workers": "auto"})
    with pytest.raises(RequestError, match=r"cluster\.environment=package: this process has joined .* head:6379"):
        open_workplace(hardware, of(environment="package"), tmp_path)
