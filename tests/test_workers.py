"""The contract of workers: what the coordinator relies on, of every workplace where they may run.

Another implementation is one more entry of IMPLEMENTATIONS. Models are tiny, workers are real; a module that Python
imports at their start has them meet a fault where a file of its name is there.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

import hpsearch
import make
import tiny
from hpsearch.config.settings import ClusterSettings, HardwareSettings, Settings
from hpsearch.errors import RequestError
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Alive,
    DataName,
    Decision,
    FitFloor,
    Fits,
    FloorFitted,
    Lost,
    Message,
    NoRoom,
    OutOfMemory,
    Part,
    Probe,
    Progress,
    Ready,
    RungReport,
    Score,
    Scored,
    Train,
    TrialResult,
    named,
)
from hpsearch.state.records import DataRef, Status
from hpsearch.workers.interface import Worker, Workplace
from hpsearch.workers.local import LocalWorkplace

SECONDS = 300  # more than any answer takes, on a busy machine too

M = TypeVar("M")


@dataclass(frozen=True)
class Implementation:
    """How a workplace is opened, and what fate does to its workers. A worker's handle can be pickled."""

    open: Callable[[HardwareSettings, Path], Workplace]
    handle: Callable[[Any], Any]
    freeze: Callable[[Any], None]
    kill: Callable[[Any], None]
    gone: Callable[[Any], bool]
    behind: bool = True  # whether a checkpoint may come after the message that names it


def process_is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def on_ray(settings: HardwareSettings, home: Path) -> Workplace:
    """On Ray of this machine."""
    ray = pytest.importorskip("ray")
    from hpsearch.workers.ray import RayWorkplace

    if not ray.is_initialized():  # one for all tests; it ends with this process
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    amounts: Any = {"workers": 1, "cpus": 1, "gpus": 0.0, "resources": {}}
    more: Any = {"shared": True, "autoscaling": False, "environment": "none", "processes_per_trial": 1}
    cluster = ClusterSettings(name="ray", address=None, **amounts, **more)
    return RayWorkplace(settings, cluster, home)


def far_on_ray(settings: HardwareSettings, home: Path) -> Workplace:
    """On Ray of this machine, as if its node had another disk."""
    workplace: Any = on_ray(settings, home)
    workplace.far = True
    return workplace  # type: ignore[no-any-return]


def pid_on_ray(worker: Any) -> int:
    import ray

    return int(ray.get(worker.seat.process.remote()))


RAY = Implementation(
    open=on_ray,
    handle=pid_on_ray,
    freeze=lambda pid: os.kill(pid, signal.SIGSTOP),
    kill=lambda pid: os.kill(pid, signal.SIGKILL),
    gone=process_is_gone,
)
LOCAL = replace(RAY, open=LocalWorkplace, handle=lambda worker: worker.process.pid)
IMPLEMENTATIONS = {
    "local": LOCAL,
    "several processes": replace(LOCAL, open=lambda settings, home: LocalWorkplace(settings, home, processes=2)),
    "ray": RAY,
    "ray without a shared disk": replace(RAY, open=far_on_ray, behind=False),
}

FAULTS = """
import errno
import os
import shutil
import time
import torch

fsync, embedding, usage = os.fsync, torch.nn.functional.embedding, shutil.disk_usage

def there(name):
    return os.path.exists(os.path.join(os.environ["FAULTS"], name))

def faulty(input, *args, **kwargs):
    if there("memory"):
        raise torch.OutOfMemoryError("no room (simulated)")
    if there("disk"):
        raise OSError(errno.ENOSPC, "no space left (simulated)")
    if there("error"):
        class Unknown(Exception):  # pickle finds no class that a function holds
            pass
        raise Unknown("an error of its own kind (simulated)")
    return embedding(input, *args, **kwargs)

def slow(handle):
    if there("slow"):
        time.sleep(0.4)
    if there("very slow"):
        time.sleep(4.0)
    fsync(handle)

os.fsync, torch.nn.functional.embedding = slow, faulty
shutil.disk_usage = lambda path: usage(path)._replace(free=0) if there("disk") else usage(path)
"""


@dataclass(frozen=True)
class Bench:
    """A workplace, a study for its workers, and the faults that they meet."""

    name: str
    workplace: Workplace
    settings: Settings
    ref: DataRef
    home: Path
    faults: Path

    @property
    def fate(self) -> Implementation:
        return IMPLEMENTATIONS[self.name]

    def start(self, index: int = 0) -> Worker:
        return self.workplace.start(index, "studies/toy/workers")

    def folder(self, number: int) -> Path:
        return self.home / "studies" / "toy" / "trials" / str(number)

    def train(self, number: int, settings: Settings | None = None) -> Train:
        data = DataName.of(self.ref, self.home)
        return Train(number, settings or self.settings, data, named(self.folder(number), self.home))

    def hopeless(self, number: int) -> Train:
        """A trial that fails before its first step."""
        nowhere = self.settings.model.model_copy(update={"path": str(self.home / "nowhere")})
        return self.train(number, self.settings.model_copy(update={"model": nowhere}))

    def until(self, worker: Worker, kind: type[M]) -> M:
        """The next message of a kind; others on the way say that it lives."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for who, message in self.workplace.hear([worker], 1.0):
                assert who is worker
                if isinstance(message, kind):
                    return message
                assert isinstance(message, Ready | Progress | Alive), message
        raise AssertionError(f"no {kind.__name__} came")

    def finished(self, worker: Worker, decision: Decision = Decision.CONTINUE) -> tuple[list[Message], TrialResult]:
        """All that is heard of a trial whose rungs are answered so, and how its part ended."""
        heard: list[Message] = []
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for _, message in self.workplace.hear([worker], 1.0):
                if isinstance(message, TrialResult):
                    return heard, message
                heard.append(message)
                if isinstance(message, RungReport):
                    worker.answer(decision)
        raise AssertionError(f"the trial did not end; heard {heard}")

    def checkpoints(self, number: int) -> list[Path]:
        return list(self.folder(number).glob("checkpoint-*"))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in IMPLEMENTATIONS if name != "local"]


@pytest.fixture(scope="module", params=["local", *SLOW])
def bench(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp(request.param)
    (root / "start").mkdir()
    (root / "start" / "sitecustomize.py").write_text(FAULTS)
    (root / "faults").mkdir()
    csv = tiny.write_csv(root / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", "search.rungs=[0.25,0.75]")
    ref = make.prepared(settings, root / "home")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(root / "start"), prepend=os.pathsep)
        patched.setenv("FAULTS", str(root / "faults"))
        patched.setenv("XDG_CACHE_HOME", str(root / "cache"))  # of nodes that share no disk
        workplace = IMPLEMENTATIONS[request.param].open(settings.hardware, root / "home")
        yield Bench(request.param, workplace, settings, ref, root / "home", root / "faults")
        workplace.close()
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()  # the next one has other variables


@pytest.fixture(scope="module")
def worker(bench: Bench) -> Iterator[Worker]:
    """One for all tests that leave it as it was: idle."""
    worker = bench.start()
    yield worker
    worker.end(10)


@pytest.fixture(scope="module")
def undisturbed(bench: Bench, worker: Worker) -> TrialResult:
    """What a trial comes to that nothing happens to."""
    worker.give(bench.train(1000))
    return bench.finished(worker)[1]


@pytest.fixture
def fault(bench: Bench) -> Iterator[Callable[[str], None]]:
    """Has workers meet one from now on."""
    yield lambda name: (bench.faults / name).touch()
    for file in bench.faults.iterdir():
        file.unlink()


def test_every_implementation_is_here() -> None:
    assert len(IMPLEMENTATIONS) == 4


# --- what a worker is ------------------------------------------------------------------------------------------------


def test_a_worker_says_first_what_it_computes_with_and_ends_at_once_while_it_is_busy(bench: Bench) -> None:
    worker = bench.start(3)
    handle = bench.fate.handle(worker)
    assert bench.until(worker, Ready).hardware == bench.workplace.hardware
    assert (worker.index, worker.trial) == (3, None)
    worker.give(bench.train(50))
    bench.until(worker, RungReport)
    began = time.monotonic()
    worker.end(60)
    assert bench.fate.gone(handle)
    assert time.monotonic() - began < 30


def test_a_place_knows_what_its_workers_compute_with(bench: Bench) -> None:
    found, asked = bench.workplace.hardware, bench.settings.hardware
    assert (found.device, found.precision, found.threads) == (asked.device, asked.precision, asked.threads)
    assert found.name
    assert found.memory > 0
    assert bench.workplace.count == 1


def test_what_is_not_there_is_refused(bench: Bench) -> None:
    wish = bench.settings.hardware.model_copy(update={"compile": True})
    with pytest.raises(RequestError, match=r"hardware\.compile=true needs an NVIDIA GPU"):
        assert bench.fate.open(wish, bench.home).hardware.compile


def test_a_worker_ends_with_its_coordinator(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # The spawned process has this one's path, at whose head models that other tests have loaded put code of theirs.
    monkeypatch.syspath_prepend(Path(hpsearch.__file__).parents[1])
    spawned = multiprocessing.get_context("spawn")
    ours, theirs = spawned.Pipe()
    coordinator = spawned.Process(target=coordinate, args=(bench.name, bench.settings, bench.ref, bench.home, theirs))
    coordinator.start()
    try:
        assert ours.poll(SECONDS), "its worker never came to a rung"
        handle = ours.recv()
        assert not bench.fate.gone(handle)
    finally:
        coordinator.kill()
        coordinator.join()
    deadline = time.monotonic() + SECONDS
    while not bench.fate.gone(handle):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def coordinate(name: str, settings: Settings, ref: DataRef, home: Path, pipe: Connection) -> None:
    bench = Bench(name, IMPLEMENTATIONS[name].open(settings.hardware, home), settings, ref, home, home)
    worker = bench.start()
    worker.give(bench.train(90))
    bench.until(worker, RungReport)
    pipe.send(bench.fate.handle(worker))
    time.sleep(SECONDS)


# --- a trial ---------------------------------------------------------------------------------------------------------


def test_a_trial_reports_its_progress_and_its_rungs_and_goes_on(
    bench: Bench, worker: Worker, undisturbed: TrialResult
) -> None:
    worker.give(bench.train(1))
    assert worker.trial == 1
    heard, result = bench.finished(worker)
    assert worker.trial is None
    assert (result.number, result.status) == (1, Status.COMPLETE)
    assert [m.rung for m in heard if isinstance(m, RungReport)] == [0, 1]
    assert any("train_loss" in m.metrics for m in heard if isinstance(m, Progress))
    assert {m.number for m in heard if isinstance(m, Progress | RungReport)} == {1}
    assert TrialFolder(bench.folder(1)).weights.exists(), "where the coordinator looks for it"
    assert (result.score, result.metrics) == (undisturbed.score, undisturbed.metrics)


def test_a_paused_trial_goes_on_where_it_was(bench: Bench, worker: Worker, undisturbed: TrialResult) -> None:
    worker.give(bench.train(2))
    heard, result = bench.finished(worker, Decision.PAUSE)
    assert (result.status, result.score) == (Status.PAUSED, None)
    assert [m.rung for m in heard if isinstance(m, RungReport)] == [0]
    worker.pause()  # too late: the worker is idle, and must not take it for work
    worker.give(bench.train(2))
    heard, result = bench.finished(worker)
    assert [m.rung for m in heard if isinstance(m, RungReport)] == [1]
    assert (result.status, result.score, result.metrics) == (
        Status.COMPLETE,
        undisturbed.score,
        undisturbed.metrics,
    )


def test_a_stopped_trial_leaves_no_checkpoint(bench: Bench, worker: Worker) -> None:
    worker.give(bench.train(3))
    _, result = bench.finished(worker, Decision.STOP)
    assert result.status is Status.PAUSED  # that it is over for good is the coordinator's to say
    assert bench.checkpoints(3) == []


def test_a_request_to_pause_that_crosses_a_rung_is_its_answer(bench: Bench, worker: Worker) -> None:
    worker.give(bench.train(4))
    report = bench.until(worker, RungReport)
    worker.pause()
    worker.pause()
    worker.answer(Decision.CONTINUE)  # the coordinator has booked the score, and does not know
    result = bench.until(worker, TrialResult)
    assert (result.status, result.step) == (Status.PAUSED, report.step)
    worker.give(bench.train(4))
    assert bench.until(worker, RungReport).rung == 1, "the answer that was not sent is not read as this one's"
    worker.answer(Decision.STOP)
    bench.until(worker, TrialResult)


def test_a_trial_is_asked_to_pause_between_rungs(bench: Bench, worker: Worker) -> None:
    long = bench.settings.train.model_copy(update={"epochs": 200.0})
    worker.give(bench.train(5, bench.settings.model_copy(update={"train": long})))
    bench.until(worker, Progress)
    worker.pause()
    result = bench.until(worker, TrialResult)
    assert result.status is Status.PAUSED
    assert 0 < result.step < 0.25 * result.total_steps


def test_an_error_that_cannot_be_sent_fails_the_trial_and_not_the_worker(
    bench: Bench, worker: Worker, fault: Callable[[str], None]
) -> None:
    fault("error")
    worker.give(bench.train(6))
    result = bench.until(worker, TrialResult)
    assert result.status is Status.FAILED
    assert result.reason == "Unknown: an error of its own kind (simulated)"
    assert worker.trial is None
    worker.give(bench.hopeless(7))
    assert "there is no such folder" in (bench.until(worker, TrialResult).reason or "")


# --- questions -------------------------------------------------------------------------------------------------------


def test_a_model_is_scored(bench: Bench, worker: Worker, undisturbed: TrialResult) -> None:
    work = bench.train(1000)
    worker.give(Score(1000, work.settings, work.data, work.folder, Part("validation"), undisturbed.fitted))
    scored = bench.until(worker, Scored)
    assert worker.trial is None
    assert (scored.number, scored.split) == (1000, "validation")
    assert scored.metrics["accuracy"] == undisturbed.metrics["validation_accuracy"]
    assert scored.predictions == undisturbed.predictions
    assert len(scored.confidences) == bench.ref.sizes["validation"]


def test_a_worker_is_asked_what_fits(bench: Bench, worker: Worker, fault: Callable[[str], None]) -> None:
    data = DataName.of(bench.ref, bench.home)
    worker.ask(Probe(bench.settings, data, 8))
    assert bench.until(worker, Fits) == Fits(fits=True)
    assert worker.trial is None
    fault("memory")
    worker.ask(Probe(bench.settings, data, 8))
    assert bench.until(worker, Fits) == Fits(fits=False)
    fault("error")
    (bench.faults / "memory").unlink()
    worker.ask(Probe(bench.settings, data, 8))
    assert bench.until(worker, Fits) == Fits(False, "Unknown: an error of its own kind (simulated)")


def test_a_floor_is_fitted_and_scored(bench: Bench, worker: Worker) -> None:
    data, folder = DataName.of(bench.ref, bench.home), named(bench.folder(70), bench.home)
    worker.give(FitFloor(70, "words", bench.settings, data, folder, 30.0))
    assert worker.trial == 70
    found = bench.until(worker, FloorFitted)
    assert worker.trial is None
    assert (found.number, found.fault, found.examples) == (70, None, bench.ref.sizes["train"])
    assert TrialFolder(bench.folder(70)).weights.exists(), "where the coordinator looks for it"
    worker.give(Score(70, bench.settings, data, folder, Part("validation"), found.fitted, "words"))
    scored = bench.until(worker, Scored)
    assert scored.predictions == found.predictions


def test_a_floor_that_fails_says_why_and_costs_no_worker(
    bench: Bench, worker: Worker, fault: Callable[[str], None]
) -> None:
    data, folder = DataName.of(bench.ref, bench.home), named(bench.folder(71), bench.home)
    worker.give(FitFloor(71, "frozen", bench.settings, data, folder, 0.0))
    assert "its 0 s are too short: they hold 0 of the" in (bench.until(worker, FloorFitted).fault or "")
    fault("error")
    worker.give(FitFloor(71, "frozen", bench.settings, data, folder, 30.0))
    found = bench.until(worker, FloorFitted)
    assert found.fault == "Unknown: an error of its own kind (simulated)"
    assert worker.trial is None
    assert not TrialFolder(bench.folder(71)).model.exists()


def test_a_worker_that_fits_a_floor_says_that_it_is_alive(bench: Bench, fault: Callable[[str], None]) -> None:
    """Its first fsync takes long, and it is not silent meanwhile."""
    fault("very slow")
    worker = bench.start()
    try:
        data, folder = DataName.of(bench.ref, bench.home), named(bench.folder(72), bench.home)
        worker.give(FitFloor(72, "words", bench.settings, data, folder, 30.0))
        alive, deadline = 0, time.monotonic() + SECONDS
        while worker.trial is not None and time.monotonic() < deadline:
            alive += sum(isinstance(message, Alive) for _, message in bench.workplace.hear([worker], 1.0))
        assert worker.trial is None
        assert alive >= 2
    finally:
        worker.end(10)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_worker_that_hangs_is_silent_while_it_is_listened_to_and_one_that_is_killed_is_lost(
    bench: Bench, undisturbed: TrialResult
) -> None:
    worker = bench.start()
    try:
        worker.give(bench.train(20))
        bench.until(worker, RungReport)
        worker.answer(Decision.CONTINUE)
        bench.until(worker, RungReport)
        assert worker.silent_seconds == 0
        deadline = time.monotonic() + SECONDS
        while not bench.checkpoints(20):
            assert time.monotonic() < deadline, "the first rung's checkpoint never came"
            time.sleep(0.05)
        bench.fate.freeze(bench.fate.handle(worker))
        worker.answer(Decision.CONTINUE)
        time.sleep(0.6)
        assert worker.silent_seconds == 0, "nobody has listened"
        assert list(bench.workplace.hear([worker], 0.5)) == []
        assert worker.silent_seconds == pytest.approx(0.5, abs=0.2)
        bench.fate.kill(bench.fate.handle(worker))
        lost = bench.until(worker, Lost)
        assert lost.number == 20
        assert "ended" in lost.reason
        assert not lost.for_memory
        assert worker.trial is None
    finally:
        worker.end(0)
    fresh = bench.start(worker.index)
    try:
        fresh.give(bench.train(20))
        heard, result = bench.finished(fresh)
        assert [m.rung for m in heard if isinstance(m, RungReport)] == [1], "it goes on from the checkpoint"
        assert (result.score, result.metrics) == (undisturbed.score, undisturbed.metrics)
    finally:
        fresh.end(10)


def test_each_message_is_its_worker_s_and_is_taken_when_it_is_read(bench: Bench, worker: Worker) -> None:
    """What is known of one is acted upon before the other is heard, and that one has its trial until then."""
    both = {7: worker, 8: bench.start(1)}
    try:
        bench.until(both[8], Ready)
        for number, one in both.items():
            one.give(bench.hopeless(number))
        time.sleep(1.0)  # for both to answer
        heard: dict[int, Worker] = {}
        deadline = time.monotonic() + SECONDS
        while len(heard) < 2 and time.monotonic() < deadline:
            for who, message in bench.workplace.hear(list(both.values()), 1.0):
                if isinstance(message, TrialResult):
                    heard[message.number] = who
                    assert [number for number, one in both.items() if one.trial is None] == sorted(heard)
        assert heard == both
    finally:
        both[8].end(10)


def test_memory_or_disk_that_runs_out_costs_no_checkpoint(bench: Bench, fault: Callable[[str], None]) -> None:
    worker = bench.start()
    try:
        fault("slow")
        worker.give(bench.train(30))
        bench.finished(worker, Decision.PAUSE)
        assert not (bench.fate.behind and bench.checkpoints(30)), "it is being sealed still"
        fault("disk")
        worker.give(bench.train(31))
        assert bench.until(worker, NoRoom).number == 31
        assert worker.trial is None
        fault("memory")
        worker.give(bench.train(32))
        message = bench.until(worker, OutOfMemory)
        processes = bench.workplace.hardware.processes
        assert (message.number, message.examples) == (32, bench.settings.train.batch_size // processes)
        assert "no room" in message.reason
        assert worker.trial is None
    finally:
        worker.end(0)
    assert bench.checkpoints(30)


def test_an_idle_worker_seals_its_checkpoint_before_it_ends(bench: Bench, fault: Callable[[str], None]) -> None:
    fault("slow")
    worker = bench.start()
    handle = bench.fate.handle(worker)
    worker.give(bench.train(40))
    bench.finished(worker, Decision.PAUSE)
    assert not (bench.fate.behind and bench.checkpoints(40)), "it is being sealed still"
    worker.end(60)
    assert bench.fate.gone(handle)
    assert bench.checkpoints(40)
