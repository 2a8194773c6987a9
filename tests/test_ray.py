"""Sweeps whose workers are actors of Ray on this machine, with a disk that is shared and with none."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import make
import tiny
import tracked
from forked import Coordinator
from hpsearch.config.settings import ClusterSettings, Settings
from hpsearch.coordinator import sweep
from hpsearch.errors import OutOfReachError, RequestError
from hpsearch.fsck import fsck
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import Status, TrialRecord
from hpsearch.workers.workplaces import open_workplace

ray = pytest.importorskip("ray")
SECONDS = 300
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


def records(home: Path) -> list[TrialRecord]:
    return [TrialRecord.load(one.path) for one in StudyFolder.of(home, "toy").trials("trials")]


def scores(home: Path) -> list[tuple[Status, float | None, dict[int, float]]]:
    return [(one.status, one.score, one.rungs) for one in records(home)]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared disk", "no shared disk"])
def test_a_sweep_on_ray_comes_to_what_it_comes_to_here(
    shared: bool, settings: Callable[..., Settings], tmp_path: Path, cluster: None
) -> None:
    more = ("budget.floors=true", "budget.confirmation.finalists=1", f"cluster.shared={json.dumps(shared)}")
    here, there = (tracked.new_home(tmp_path / name) for name in ("here", "there"))
    first = sweep.run_sweep(settings(*more[:2], "cluster=local"), here)
    asked = settings(*ON_RAY, *more)
    second = sweep.run_sweep(asked, there)
    assert scores(there) == scores(here)
    assert second.test.value == first.test.value
    assert second.winner.params == first.winner.params
    assert fsck(asked, there, repair=False) == "toy: clean"
    assert sweep.run_sweep(asked, there).finished == second.finished, "there is nothing left to do"


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
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130, log.read_text()
    before = records(home)
    assert Coordinator(request, log, {"HPSEARCH_HOME": str(home)}).wait(SECONDS) == 0, log.read_text()
    after = records(home)
    assert len(after) == 4
    assert [(one.params, one.score) for one in before if one.status is Status.COMPLETE] == [
        (after[one.number].params, after[one.number].score) for one in before if one.status is Status.COMPLETE
    ]
    assert fsck(asked, home, repair=False) == "toy: clean"


def of(**given: object) -> ClusterSettings:
    plain = {"name": "ray", "address": None, "workers": None, "cpus": None, "gpus": 0.0, "shared": False}
    return ClusterSettings.model_validate(plain | given)


def test_what_a_cluster_has_not_is_refused(settings: Callable[..., Settings], tmp_path: Path, cluster: None) -> None:
    hardware = settings().hardware.model_copy(update={"workers": "auto"})
    with pytest.raises(RequestError, match=r"cluster\.workers=9, cluster\.cpus=1, .* has 4 CPUs and 0 GPUs"):
        open_workplace(hardware, of(workers=9, cpus=1), tmp_path)
    with pytest.raises(RequestError, match=r"cluster\.gpus=0\.5: the cluster has 4 CPUs and 0 GPUs"):
        open_workplace(hardware, of(workers=1, cpus=1, gpus=0.5), tmp_path)
    with pytest.raises(RequestError, match=r"hardware\.workers=2: with cluster=ray say cluster\.workers"):
        open_workplace(hardware.model_copy(update={"workers": 2}), of(), tmp_path)


def test_a_cluster_that_does_not_answer_is_out_of_reach(settings: Callable[..., Settings], tmp_path: Path) -> None:
    hardware = settings().hardware.model_copy(update={"workers": "auto"})
    address = f"127.0.0.1:{tracked.free_port()}"
    with pytest.raises(OutOfReachError, match=f"cluster.address={address}: no Ray cluster answers there"):
        open_workplace(hardware, of(address=address), tmp_path)
    with pytest.raises(RequestError, match=r"cluster\.address=ray://head:10001: is no <host>:<port>"):
        open_workplace(hardware, of(address="ray://head:10001"), tmp_path)


def test_without_ray_a_sentence_says_what_to_install(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "hpsearch.workers.ray", raising=False)
    hardware = settings().hardware.model_copy(update={"workers": "auto"})
    with pytest.raises(RequestError, match=r"cluster=ray: needs Ray; pip install 'hpsearch\[ray\]'"):
        open_workplace(hardware, of(), tmp_path)
