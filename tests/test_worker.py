"""Worker processes: what they answer, how they end, what they keep."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.coordinator.crew import SEAL_SECONDS
from hpsearch.state.folder import TrialFolder
from hpsearch.state.records import (
    Alive,
    DataRef,
    Decision,
    OutOfMemory,
    Progress,
    RungReport,
    Scored,
    ScoreSpec,
    Status,
    TrialResult,
    TrialSpec,
)
from hpsearch.training import hardware
from hpsearch.training.trial import Line, Warm, run_trial
from hpsearch.workers import local


@pytest.fixture
def request_of_one(tmp_path: Path, tiny_model: Callable[[str], Path]) -> tuple[Settings, DataRef]:
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model("bert"), "bert")
    return settings, make.prepared(settings, tmp_path)


def started(tmp_path: Path, settings: Settings) -> local.Worker:
    return local.Worker(0, hardware.resolve(settings.hardware), tmp_path / "worker.log")


def next_of(worker: local.Worker, kind: type) -> object:
    """The next message of a kind; others on the way are points of the curve."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for ready in local.wait_for([worker], timeout_seconds=1.0):
            message = ready.receive()
            if isinstance(message, kind):
                return message
            assert isinstance(message, Progress | Alive), message
    raise AssertionError(f"no {kind.__name__} came")


def test_a_worker_trains_pauses_resumes_and_scores(tmp_path: Path, request_of_one: tuple[Settings, DataRef]) -> None:
    settings, ref = request_of_one
    worker = started(tmp_path, settings)
    try:
        spec = TrialSpec(3, settings, ref, tmp_path / "trial")
        worker.give(spec)
        report = next_of(worker, RungReport)
        assert isinstance(report, RungReport)
        assert report.number == 3
        worker.answer(Decision.PAUSE)
        paused = next_of(worker, TrialResult)
        assert isinstance(paused, TrialResult)
        assert paused.status is Status.PAUSED
        assert worker.trial is None
        worker.pause()  # too late: the worker is idle, and must not take it for work
        worker.give(spec)
        result = next_of(worker, TrialResult)
        assert isinstance(result, TrialResult)
        assert result.status is Status.COMPLETE
        worker.give(ScoreSpec(3, settings, ref, TrialFolder(spec.folder).model, "validation", result.fitted))
        scored = next_of(worker, Scored)
        assert isinstance(scored, Scored)
        assert scored.metrics["accuracy"] == result.metrics["validation_accuracy"]
        assert len(scored.predictions) == ref.sizes["validation"]
    finally:
        worker.end(timeout_seconds=10)
    assert worker.process.returncode == 0
    assert (tmp_path / "worker.log").read_text() == ""


def test_an_error_fails_the_trial_and_not_the_worker(tmp_path: Path, request_of_one: tuple[Settings, DataRef]) -> None:
    settings, ref = request_of_one
    worker = started(tmp_path, settings)
    try:
        missing = settings.model.model_copy(update={"path": str(tmp_path / "nowhere")})
        broken = settings.model_copy(update={"model": missing})
        worker.give(TrialSpec(0, broken, ref, tmp_path / "trial"))
        result = next_of(worker, TrialResult)
        assert isinstance(result, TrialResult)
        assert result.status is Status.FAILED
        assert "there is no such folder" in (result.reason or "")
        assert worker.process.poll() is None
        worker.process.kill()
        worker.give(TrialSpec(1, settings, ref, tmp_path / "trial"))
        lost = next_of(worker, local.Lost)
        assert isinstance(lost, local.Lost)
        assert lost.number == 1
        assert "-9" in lost.reason
    finally:
        worker.end(timeout_seconds=10)


def test_a_worker_that_the_system_killed_for_memory_ran_out_of_it(
    tmp_path: Path, request_of_one: tuple[Settings, DataRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 7\noom_kill 3\n")
    monkeypatch.setattr(local, "VMSTAT", counters)
    settings, ref = request_of_one
    worker = started(tmp_path, settings)
    try:
        worker.give(TrialSpec(2, settings, ref, tmp_path / "trial"))
        counters.write_text("pgfault 9\noom_kill 4\n")
        worker.process.kill()
        message = next_of(worker, OutOfMemory)
        assert message == OutOfMemory(2, settings.train.batch_size, "the system killed the worker when memory ran out")
        assert worker.trial is None
    finally:
        worker.end(timeout_seconds=10)


SLOW_DISK = """
import os
import time
import torch

fsync, embedding = os.fsync, torch.nn.functional.embedding

def slow(handle):
    time.sleep(0.4)
    fsync(handle)

def limited(input, *args, **kwargs):
    if os.path.exists(os.environ["NO_MEMORY"]):
        raise torch.OutOfMemoryError("no room (simulated)")
    return embedding(input, *args, **kwargs)

os.fsync, torch.nn.functional.embedding = slow, limited
"""


@pytest.mark.parametrize("ended", ["idle", "out of memory"])
def test_a_checkpoint_is_sealed_before_its_worker_ends(
    tmp_path: Path, request_of_one: tuple[Settings, DataRef], monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "start"))
    monkeypatch.setenv("NO_MEMORY", str(tmp_path / "no memory"))
    settings, ref = request_of_one
    worker = started(tmp_path, settings)
    spec = TrialSpec(0, settings, ref, tmp_path / "trial")
    try:
        worker.give(spec)
        next_of(worker, RungReport)
        worker.answer(Decision.PAUSE)
        next_of(worker, TrialResult)
        assert not list(spec.folder.glob("checkpoint-*")), "it is being sealed still"
        if ended == "out of memory":
            (tmp_path / "no memory").touch()
            worker.give(TrialSpec(1, settings, ref, tmp_path / "another"))
            message = next_of(worker, OutOfMemory)
            assert isinstance(message, OutOfMemory)
            assert (message.number, message.examples) == (1, settings.train.batch_size)
    finally:
        worker.end(0.0 if ended == "out of memory" else SEAL_SECONDS)
    assert list(spec.folder.glob("checkpoint-*"))


def test_a_worker_ends_when_its_coordinator_is_gone(tmp_path: Path, request_of_one: tuple[Settings, DataRef]) -> None:
    settings, ref = request_of_one
    worker = started(tmp_path, settings)
    worker.give(TrialSpec(0, settings, ref, tmp_path / "trial"))
    next_of(worker, RungReport)
    worker.connection.close()
    assert worker.process.wait(timeout=60) == 0


@pytest.mark.slow
def test_memory_does_not_grow_over_100_trials(tmp_path: Path, request_of_one: tuple[Settings, DataRef]) -> None:
    settings, ref = request_of_one
    warm = Warm(hardware.resolve(settings.hardware))
    line = Line(
        point=lambda _: None, rung=lambda _: Decision.CONTINUE, asked_to_pause=lambda: False, alive=lambda: None
    )
    resident = []
    for number in range(100):
        run_trial(TrialSpec(number, settings, ref, tmp_path / str(number)), warm, line)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    print(f"resident after 5 trials {resident[4]:.1f} MiB, after 100 {resident[-1]:.1f} MiB")
    assert resident[-1] < 1.02 * resident[4]
