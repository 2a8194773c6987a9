"""Several processes train one trial. That they are a worker like another is in test_workers."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.coordinator import checks, sweep
from hpsearch.errors import RequestError
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Alive,
    DataName,
    Decision,
    Lost,
    Message,
    OutOfMemory,
    Progress,
    Ready,
    RungReport,
    Train,
    TrialResult,
)
from hpsearch.state.records import DataRef, Status
from hpsearch.training import checkpoints, hardware
from hpsearch.training.order import LengthGroupedOrder, Parts
from hpsearch.training.team import LAUNCHED
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial
from hpsearch.workers.local import LocalWorker, LocalWorkplace

SECONDS = 300

Model = Callable[[str], Path]


@given(st.data())
def test_the_parts_of_all_processes_are_the_batches(data: st.DataObject) -> None:
    examples, size = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 20))
    processes, seed = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 9))
    micro = data.draw(st.integers(1, size))
    order = LengthGroupedOrder(np.arange(examples), size, seed)
    order.set_epoch(seed)
    flat = list(order)
    parts = [list(found := Parts(order, micro, rank, processes)) for rank in range(processes)]
    assert {len(one) for one in parts} == {len(found)}
    together = [[one[i] for one in parts] for i in range(len(found))]
    assert all(len(part) <= micro for one in parts for part in one)
    batches = [flat[start : start + size] for start in range(0, examples, size)]
    steps = iter(together)
    for batch in batches:
        seen: list[int] = []
        while len(seen) < len(batch):
            seen += [example for part in next(steps) for example in part]
        assert sorted(seen) == sorted(batch)
    assert next(steps, None) is None


@dataclass
class Heard:
    """What a trial has said."""

    losses: dict[int, float] = field(default_factory=dict)
    rungs: list[RungReport] = field(default_factory=list)


@contextmanager
def team(settings: Settings, home: Path, processes: int) -> Iterator[tuple[LocalWorkplace, LocalWorker]]:
    place = LocalWorkplace(settings.hardware, home, processes)
    worker = place.start(0, f"logs-{processes}")
    try:
        yield place, worker
    finally:
        worker.end(timeout_seconds=10)


def outcome(
    place: LocalWorkplace, worker: LocalWorker, pause_at: int | None = None, heard: Heard | None = None
) -> Message:
    """The message that ends the trial of a worker; it is asked to pause after a step."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for _, message in place.hear([worker], 1.0):
            if isinstance(message, RungReport):
                worker.answer(Decision.CONTINUE)
                if heard is not None:
                    heard.rungs.append(message)
            if isinstance(message, Progress):
                if heard is not None:
                    heard.losses[message.step] = message.metrics["train_loss"]
                if pause_at is not None and message.step >= pause_at:
                    worker.pause()
            if worker.trial is None:
                return message
    raise AssertionError("the trial did not end")


def toy(tmp_path: Path, tiny_model: Model, *overrides: str, task: str = "csv") -> tuple[Settings, DataRef]:
    """76 sentences for training: batches of 16, 16, 16, 16 and 12 if the batch size is 16, of 25 and 1 if it is 25."""
    if task == "csv":
        file = tiny.write_csv(tmp_path / "toy.csv", n=127)
    else:
        file = tiny.write_jsonl(tmp_path / "toy.jsonl", tiny.questions(127, 0))
        overrides = ("task.max_length=32", "task.stride=8", "train.learning_rate=0.003", *overrides)
    settings = make.toy_settings(file, tiny_model("bert"), "bert", "train.log_every=1", *overrides, task=task)
    return settings, make.prepared(settings, tmp_path)


def alone(settings: Settings, ref: DataRef, folder: Path) -> tuple[TrialResult, Heard]:
    """The trial in one process: this one."""
    heard = Heard()

    def rung(report: RungReport) -> Decision:
        heard.rungs.append(report)
        return Decision.CONTINUE

    def point(progress: Progress) -> None:
        heard.losses[progress.step] = progress.metrics["train_loss"]

    line = Line(point=point, rung=rung, heard=lambda: None, alive=lambda: None, retimed=lambda _: None)
    return run_trial(TrialSpec(0, settings, ref, folder), Warm(hardware.resolve(settings.hardware)), line), heard


SLOW = pytest.mark.slow


UNEVEN = ("train.batch_size=25", "train.micro_batch_size=3")
# So little dropout that none is dropped, because two passes are compared only where there is some.
TWICE = ("train.batch_size=16", "train.rdrop=1", "model.attention_dropout=0.001", "train.label_smoothing=0.1")


@pytest.mark.parametrize(("processes", "task", "more"), [
    (2, "csv", UNEVEN),
    pytest.param(4, "csv", UNEVEN, marks=SLOW),
    pytest.param(2, "csv", TWICE, marks=SLOW),
    pytest.param(4, "qa_files", ("train.batch_size=16",), marks=SLOW),
])  # fmt: skip
def test_losses_are_those_of_one_process(
    tmp_path: Path, tiny_model: Model, processes: int, task: str, more: tuple[str, ...]
) -> None:
    settings, ref = toy(tmp_path, tiny_model, "model.dropout=0.0", *more, task=task)
    expected, of_one = alone(settings, ref, tmp_path / "one")
    with team(settings, tmp_path, processes) as (place, worker):
        worker.give(Train(0, settings, DataName.of(ref, tmp_path), "trial"))
        heard = Heard()
        result = outcome(place, worker, heard=heard)
    assert isinstance(result, TrialResult)
    assert (result.status, result.step) == (Status.COMPLETE, expected.step)
    assert heard.losses.keys() == of_one.losses.keys() == set(range(1, expected.step + 1))
    assert max(abs(heard.losses[step] - of_one.losses[step]) for step in heard.losses) < 1e-5
    assert [replace(report, score=0.0, metrics={}) for report in heard.rungs] == [
        replace(report, score=0.0, metrics={}) for report in of_one.rungs
    ]
    assert result.metrics["validation_accuracy" if task == "csv" else "validation_f1"] == pytest.approx(
        expected.metrics["validation_accuracy" if task == "csv" else "validation_f1"]
    )


@SLOW
def test_a_trial_paused_anywhere_ends_as_one_never_paused(tmp_path: Path, tiny_model: Model) -> None:
    """With dropout, which each process has its own numbers for."""
    settings, ref = toy(tmp_path, tiny_model, "train.micro_batch_size=2")
    data = DataName.of(ref, tmp_path)
    whole, before, after = Heard(), Heard(), Heard()
    with team(settings, tmp_path, 2) as (place, worker):
        worker.give(Train(0, settings, data, "whole"))
        expected = outcome(place, worker, heard=whole)
        worker.give(Train(1, settings, data, "trial"))
        paused = outcome(place, worker, pause_at=3, heard=before)
        assert isinstance(paused, TrialResult)
        assert paused.status is Status.PAUSED
        assert 3 <= paused.step < paused.total_steps
    checkpoint = checkpoints.newest(tmp_path / "trial")
    assert checkpoint is not None
    first, second = (
        torch.load(checkpoint.folder / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in (0, 1)
    )
    assert not torch.equal(first, second)
    with team(settings, tmp_path, 2) as (place, worker):
        worker.give(Train(1, settings, data, "trial"))
        result = outcome(place, worker, heard=after)
    assert isinstance(expected, TrialResult)
    assert isinstance(result, TrialResult)
    assert before.losses | after.losses == whole.losses
    assert not before.losses.keys() & after.losses.keys()
    assert result.metrics == expected.metrics
    of_whole, of_trial = (load_file(TrialFolder(tmp_path / name).weights) for name in ("whole", "trial"))
    assert all(torch.equal(tensor, of_trial[name]) for name, tensor in of_whole.items())


@SLOW
def test_another_number_of_processes_goes_on_with_a_trial(tmp_path: Path, tiny_model: Model) -> None:
    settings, ref = toy(tmp_path, tiny_model, "model.dropout=0.0")
    data, heard, last = DataName.of(ref, tmp_path), Heard(), 0
    expected, of_one = alone(settings, ref, tmp_path / "one")
    for processes, pause_at in ((2, 2), (1, 4), (3, None)):
        with team(settings, tmp_path, processes) as (place, worker):
            worker.give(Train(0, settings, data, "trial"))
            result = outcome(place, worker, pause_at=pause_at, heard=heard)
        assert isinstance(result, TrialResult)
        assert result.step > last
        last = result.step
    assert (result.status, last) == (Status.COMPLETE, expected.step)
    assert heard.losses.keys() == of_one.losses.keys()
    assert max(abs(heard.losses[step] - of_one.losses[step]) for step in heard.losses) < 1e-5


def helpers(worker: LocalWorker) -> list[psutil.Process]:
    """The helpers of a worker, once they are there."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := psutil.Process(worker.process.pid).children():
            return found
        time.sleep(0.1)
    raise AssertionError("there are none")


def first_step(place: LocalWorkplace, worker: LocalWorker) -> None:
    """Wait until its trial has made a step."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for _, message in place.hear([worker], 1.0):
            if isinstance(message, Progress):
                return
            assert isinstance(message, Ready | Alive), message
    raise AssertionError("it has made none")


LONG = ("train.epochs=200", "search.rungs=[]", "hardware.checkpoint_seconds=0.2")


@SLOW
def test_a_worker_ends_with_any_of_its_helpers_and_its_trial_goes_on(tmp_path: Path, tiny_model: Model) -> None:
    settings, ref = toy(tmp_path, tiny_model, *LONG)
    work = Train(0, settings, DataName.of(ref, tmp_path), "trial")
    with team(settings, tmp_path, 3) as (place, worker):
        worker.give(work)
        first_step(place, worker)
        until = time.monotonic() + SECONDS
        while not TrialFolder(tmp_path / "trial").checkpoints():
            assert time.monotonic() < until
            time.sleep(0.05)
        first, second = helpers(worker)
        second.kill()
        lost = outcome(place, worker)
        assert isinstance(lost, Lost)
        assert lost.number == 0
        psutil.wait_procs([first, second], timeout=30)
        assert not first.is_running()
    with team(settings, tmp_path, 3) as (place, worker):
        worker.give(work)
        result = outcome(place, worker, pause_at=1)
        assert isinstance(result, TrialResult)
        assert result.status is Status.PAUSED
        assert result.step > 1  # it went on where it was


@SLOW
def test_helpers_end_with_their_worker(tmp_path: Path, tiny_model: Model) -> None:
    settings, ref = toy(tmp_path, tiny_model, *LONG)
    with team(settings, tmp_path, 2) as (place, worker):
        worker.give(Train(0, settings, DataName.of(ref, tmp_path), "trial"))
        first_step(place, worker)
        (helper,) = helpers(worker)
        worker.process.kill()
        psutil.wait_procs([helper], timeout=30)
        assert not helper.is_running()


@SLOW
def test_a_diverged_trial_costs_no_worker(tmp_path: Path, tiny_model: Model) -> None:
    settings, ref = toy(tmp_path, tiny_model)
    wild = settings.model_copy(update={"train": settings.train.model_copy(update={"learning_rate": 1e30})})
    data = DataName.of(ref, tmp_path)
    with team(settings, tmp_path, 2) as (place, worker):
        worker.give(Train(0, wild, data, "wild"))
        diverged = outcome(place, worker)
        assert isinstance(diverged, TrialResult)
        assert diverged.status is Status.FAILED
        assert "not finite" in str(diverged.reason) or "nan" in str(diverged.reason)
        worker.give(Train(1, settings, data, "trial"))
        result = outcome(place, worker)
        assert isinstance(result, TrialResult)
        assert result.status is Status.COMPLETE


@SLOW
def test_an_error_after_an_update_costs_no_worker(tmp_path: Path, tiny_model: Model) -> None:
    """Its helpers wait to be told what follows."""
    settings, ref = toy(tmp_path, tiny_model)
    data = DataName.of(ref, tmp_path)
    unknown = settings.model_copy(update={"task": settings.task.model_copy(update={"metric": "unknown"})})
    with team(settings, tmp_path, 2) as (place, worker):
        worker.give(Train(0, unknown, data, "unknown"))
        failed = outcome(place, worker)
        assert isinstance(failed, TrialResult)
        assert (failed.status, failed.reason) == (Status.FAILED, "KeyError: 'unknown'")
        worker.give(Train(1, settings, data, "trial"))
        result = outcome(place, worker)
        assert isinstance(result, TrialResult)
        assert result.status is Status.COMPLETE


OF_RANK_1 = """
import os
import torch

def faulty(*args, **kwargs):
    if os.environ.get("RANK") == "1":
        raise torch.OutOfMemoryError("no room (simulated)")
    return embedding(*args, **kwargs)

embedding, torch.nn.functional.embedding = torch.nn.functional.embedding, faulty
"""


@SLOW
def test_memory_that_runs_out_in_a_helper_is_no_fault_of_the_trial(
    tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(OF_RANK_1)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "start"), prepend=os.pathsep)
    settings, ref = toy(tmp_path, tiny_model)
    with team(settings, tmp_path, 2) as (place, worker):
        worker.give(Train(0, settings, DataName.of(ref, tmp_path), "trial"))
        assert outcome(place, worker) == OutOfMemory(0, settings.train.batch_size // 2, "a helper's memory ran out")


@SLOW
def test_a_sweep_by_several_processes(tmp_path: Path, tiny_model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """With hours: the plan's pace, floors, a search, its confirmation, a final model, and test."""
    file = tiny.write_csv(tmp_path / "toy.csv", n=300)
    more = ("cluster.processes_per_trial=2", "budget.floors=true", "budget.final=true", "budget.hours=0.05")
    more += ("search.space.train.learning_rate.low=0.005", "search.space.train.learning_rate.high=0.02")
    more += ("search.space.train.epochs.choices=[8]",)
    settings = make.toy_settings(file, tiny_model("bert"), "bert", *more)
    summary = sweep.run_sweep(settings, tmp_path / "home")
    said = " ".join(capsys.readouterr().out.split())
    assert "1 worker(s) with 2 processes of 1 thread(s) each" in said
    assert (summary.hardware.processes, summary.trials.failed) == (2, 0)
    assert summary.test.value > 0.8


@SLOW
def test_a_worker_is_none_of_a_launcher_s_processes(
    tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as pods that Kubeflow starts, and steps of SLURM with MPI. Trainer would wait for the other ones."""
    for number, name in enumerate(LAUNCHED):
        monkeypatch.setenv(name, str(number + 1))
    settings, ref = toy(tmp_path, tiny_model)
    with team(settings, tmp_path, 1) as (place, worker):
        worker.give(Train(0, settings, DataName.of(ref, tmp_path), "trial"))
        result = outcome(place, worker)
    assert isinstance(result, TrialResult)
    assert (result.status, result.reason) == (Status.COMPLETE, None)


def test_what_several_processes_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "cluster.processes_per_trial=2"
    with pytest.raises(RequestError, match=r"gpus=0\.5: each process needs a whole GPU, or none"):
        make.compose_settings(asked, "cluster.gpus=0.5")
    with pytest.raises(RequestError, match=r"processes_per_trial=2, cpus=1: each process needs a core"):
        make.compose_settings(asked, "cluster.cpus=1")
    wish = make.compose_settings("hardware.device=cuda").hardware
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RequestError, match=r"needs a GPU of its own, which are 2 with .* there are 1;"):
        hardware.resolve(wish, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(RequestError, match=r"which are 4 with hardware\.workers=2, and there are 3; lower one"):
        hardware.resolve(wish.model_copy(update={"workers": 2}), 2)
    with pytest.raises(RequestError, match=r"processes_per_trial=2: hardware\.compile=true is for one process"):
        hardware.resolve(wish.model_copy(update={"compile": True}), 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(RequestError, match=r"processes_per_trial=2: Apple's GPU serves one process only"):
        hardware.resolve(wish.model_copy(update={"device": "mps"}), 2)
    with pytest.raises(RequestError, match=r"processes_per_trial=32: train\.batch_size may be 16, and each process"):
        checks.check(make.compose_settings("cluster.processes_per_trial=32", "hardware.device=cpu"), tmp_path)


@pytest.mark.parametrize(("processes", "threads"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_a_worker_s_cores_are_divided(processes: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_cores", lambda: 8)
    found = hardware.resolve(make.compose_settings("hardware.device=cpu").hardware, processes)
    assert (found.processes, found.threads) == (processes, threads)
    before = torch.get_num_threads()
    try:
        with hardware.alone(found):
            assert torch.get_num_threads() == processes * threads
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
