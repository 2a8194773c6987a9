"""Local workers: what is theirs alone. What every worker must do is in test_workers."""

import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError
from hpsearch.state.messages import Begin, DataName, Decision, Lost, OutOfMemory, Ready, Train, Unfit
from hpsearch.state.records import DataRef
from hpsearch.training import hardware
from hpsearch.training import worker as process
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial
from hpsearch.workers import local
from hpsearch.workers.local import LocalWorker, LocalWorkplace


@pytest.fixture
def request_of_one(tmp_path: Path, tiny_model: Callable[[str], Path]) -> tuple[Settings, DataRef]:
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model("bert"), "bert")
    return settings, make.prepared(settings, tmp_path)


def first_of(workplace: LocalWorkplace, worker: LocalWorker, kind: type) -> object:
    """The first message of a kind."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for _, message in workplace.hear([worker], 1.0):
            if isinstance(message, kind):
                return message
    raise AssertionError(f"no {kind.__name__} came")


def test_a_worker_that_the_system_killed_for_memory_ran_out_of_it(
    tmp_path: Path, request_of_one: tuple[Settings, DataRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 7\noom_kill 3\n")
    monkeypatch.setattr(local, "VMSTAT", counters)
    settings, ref = request_of_one
    workplace = LocalWorkplace(settings.hardware, tmp_path)
    worker = workplace.start(0, "logs")
    try:
        worker.give(Train(2, settings, DataName.of(ref, tmp_path), "trial"))
        counters.write_text("pgfault 9\noom_kill 4\n")
        worker.process.kill()
        message = first_of(workplace, worker, OutOfMemory)
        assert message == OutOfMemory(2, settings.train.batch_size, "the system killed the worker when memory ran out")
        assert worker.trial is None
    finally:
        worker.end(timeout_seconds=10)


def test_what_a_worker_writes_is_in_its_log(
    tmp_path: Path, request_of_one: tuple[Settings, DataRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is said when it is lost: of a worker that ends at its start there is nothing else."""
    workplace = LocalWorkplace(request_of_one[0].hardware, tmp_path)
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text("import os\nos.write(2, b'broken at its start')\nos._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "start"), prepend=os.pathsep)
    worker = workplace.start(5, "logs")
    lost = first_of(workplace, worker, Lost)
    log = tmp_path / "logs" / "5.log"
    assert lost == Lost(None, f"the worker ended with status 7; see {log}", False, "broken at its start")
    assert worker.output == str(log)
    worker.end(timeout_seconds=10)
    assert log.read_text() == "broken at its start"


def test_time_in_which_the_coordinator_was_stopped_is_not_silence(
    tmp_path: Path, request_of_one: tuple[Settings, DataRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace = LocalWorkplace(request_of_one[0].hardware, tmp_path)
    worker = workplace.start(0, "logs")
    try:
        first_of(workplace, worker, Ready)
        monkeypatch.setattr(local, "wait", lambda _, timeout: time.sleep(timeout + 0.5) or [])
        assert list(workplace.hear([worker], 0.1)) == []
        assert worker.silent_seconds == pytest.approx(0.1)
    finally:
        worker.end(timeout_seconds=10)
    assert worker.process.returncode == 0
    assert worker.log.read_text() == ""


def test_a_worker_that_cannot_have_what_was_asked_says_so_and_ends(
    tmp_path: Path, request_of_one: tuple[Settings, DataRef]
) -> None:
    """The workplace has looked before, so here its wish changes under its hands."""
    asked = request_of_one[0].hardware
    workplace = LocalWorkplace(asked, tmp_path)
    workplace.wish = asked.model_copy(update={"compile": True})
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as connection:
        connection.send(Begin(workplace.wish, tmp_path))
        process.main(theirs.detach())
        unfit = connection.recv()
    assert isinstance(unfit, Unfit)
    assert "hardware.compile=true needs an NVIDIA GPU" in unfit.reason
    worker = workplace.start(0, "logs")
    try:
        with pytest.raises(RequestError, match="needs an NVIDIA GPU"):
            first_of(workplace, worker, Ready)
        assert worker.process.wait(timeout=60) == 0
    finally:
        worker.end(timeout_seconds=10)


@pytest.mark.slow
def test_memory_does_not_grow_over_100_trials(tmp_path: Path, request_of_one: tuple[Settings, DataRef]) -> None:
    settings, ref = request_of_one
    warm = Warm(hardware.resolve(settings.hardware))
    line = Line(
        point=lambda _: None,
        rung=lambda _: Decision.CONTINUE,
        heard=lambda: None,
        retimed=lambda _: None,
        alive=lambda: None,
    )
    resident = []
    for number in range(100):
        run_trial(TrialSpec(number, settings, ref, tmp_path / str(number)), warm, line)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    print(f"resident after 5 trials {resident[4]:.1f} MiB, after 100 {resident[-1]:.1f} MiB")
    assert resident[-1] < 1.02 * resident[4]
