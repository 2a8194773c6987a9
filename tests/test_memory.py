"""Memory or disk runs out. The micro-batch is settled before the search and halved within it; nothing else changes.

Workers are real processes; a module that Python imports at their start has torch raise its own error for batches of
more examples than a file allows.
"""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.coordinator import checks, sweep
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.memory import MicroBatch, settle_memory
from hpsearch.errors import Interrupted, RequestError
from hpsearch.report.display import Display
from hpsearch.state.folder import TrialFolder
from hpsearch.state.outcome import Counts
from hpsearch.state.records import TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.training.hardware import resolve
from hpsearch.training.parts import micro_batch
from hpsearch.training.trial import FitSpec, Warm, fits
from hpsearch.workers import local
from hpsearch.workers.workplaces import open_workplace

LIMITED = """
import os
import torch

embedding = torch.nn.functional.embedding

def limited(input, *args, **kwargs):
    most = int(open(os.environ["MOST_EXAMPLES"]).read())
    if input.ndim == 2 and len(input) > most:
        raise torch.OutOfMemoryError("no room (simulated)")
    return embedding(input, *args, **kwargs)

torch.nn.functional.embedding = limited
"""


@pytest.fixture
def most_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many examples fit in a forward pass of the workers."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(LIMITED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "start"), prepend=os.pathsep)
    monkeypatch.setenv("MOST_EXAMPLES", str(tmp_path / "most"))
    return lambda most: (tmp_path / "most").write_text(str(most))  # type: ignore[return-value]


class Made:
    """A worker that keeps what it is given."""

    ready, trial, node = True, None, "n1"

    def __init__(self, index: int) -> None:
        self.index = index

    def give(self, work: Any) -> None:
        self.given = work


def request_of(root: Path, tiny_model: Callable[[str], Path], *overrides: str) -> Settings:
    csv = tiny.write_csv(root / "toy.csv", n=190)
    space = ("search.space.train.batch_size.choices=[8,12]", "search.space.train.epochs.choices=[4]")
    space += ("search.space.train.learning_rate.low=0.005", "search.space.train.learning_rate.high=0.02")
    budget = ("budget.max_trials=2", "search.keep=0.5", "train.batch_size=12", "train.epochs=4")
    space += ("model.dropout=0.0",)  # masks are drawn for each micro-batch
    return make.toy_settings(csv, tiny_model("bert"), "bert", *space, *budget, *overrides)


def crew_of(settings: Settings, home: Path) -> Crew:
    workplace, display = (
        open_workplace(settings.hardware, settings.cluster, home),
        Display(Console(), OBJECTIVES["accuracy"]),
    )
    return Crew(settings, home, make.prepared(settings, home), workplace, display, lambda: None)


def outcome(home: Path, settings: Settings) -> dict[int, tuple[object, ...]]:
    folder = home / "studies" / settings.study
    records = [TrialRecord.load(path.parent) for path in folder.glob("trials/*/trial.json")]
    return {t.number: (t.params, t.status, t.step, t.rungs, t.score) for t in records}


def found(home: Path) -> list[int]:
    return [json.loads(path.read_text()) for path in home.glob("cache/micro_batch/*.json")]


def test_a_model_that_the_worker_lacks_is_no_lack_of_memory(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    settings = request_of(tmp_path, tiny_model)
    ref, hardware = make.prepared(settings, tmp_path / "home"), resolve(settings.hardware)
    missing = settings.model_copy(update={"model": settings.model.model_copy(update={"path": "/nowhere/tiny"})})
    said = fits(FitSpec(missing, ref, 8), Warm(hardware))
    assert not said.fits
    assert said.fault is not None
    assert said.fault.startswith("RequestError: model.path=/nowhere/tiny: there is no such folder")


@pytest.mark.slow
def test_the_micro_batch_is_found_before_the_search(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    most_examples: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    most_examples(7)
    settings = request_of(tmp_path, tiny_model)
    sweep.run_sweep(settings, tmp_path / "home")
    said = " ".join(capsys.readouterr().out.split())
    assert "memory: batches are trained in parts of at most 6 examples" in said  # 12, 6
    assert found(tmp_path / "home") == [6]
    assert not list((tmp_path / "home").glob("studies/*/trials/*/checkpoint-*"))
    # The same sweep, told so: batches of 8 in parts of 4, the largest divisor that is at most 6.
    most_examples(99)
    told = request_of(tmp_path, tiny_model, "train.micro_batch_size=6")
    sweep.run_sweep(told, tmp_path / "told")
    assert outcome(tmp_path / "home", settings) == outcome(tmp_path / "told", told)


@pytest.mark.slow
def test_memory_that_runs_out_in_the_search_costs_no_trial(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    most_examples: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, home = request_of(tmp_path, tiny_model), tmp_path / "home"
    most_examples(99)
    sweep.run_sweep(settings.model_copy(update={"study": "before"}), home)
    assert found(home) == [12]
    most_examples(6)
    summary = sweep.run_sweep(settings, home)  # finds 12 remembered, and it is no longer true
    assert summary.trials == Counts(complete=1, pruned=1, failed=0)
    assert found(home) == [6]
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("memory: batches are trained in parts of at most 6 examples") == 1
    # An update is the same up to the order of a sum.
    before, after = outcome(home, settings.model_copy(update={"study": "before"})), outcome(home, settings)
    assert {number: values[:3] for number, values in before.items()} == {n: v[:3] for n, v in after.items()}


@pytest.mark.slow
def test_one_example_that_does_not_fit_stops_the_sweep_before_its_first_trial(
    tmp_path: Path, tiny_model: Callable[[str], Path], most_examples: Callable[[int], None]
) -> None:
    most_examples(0)
    settings = request_of(tmp_path, tiny_model, "search.space.train.batch_size.choices=[2]", "train.batch_size=2")
    with pytest.raises(RequestError) as caught:
        sweep.run_sweep(settings, tmp_path / "home")
    assert caught.value.exit_code == 2
    for part in ("task.max_length=48", "not one example", "model tiny", "lower task.max_length"):
        assert part in str(caught.value)
    assert outcome(tmp_path / "home", settings) == {}
    assert found(tmp_path / "home") == []
    most_examples(99)
    assert sweep.run_sweep(settings, tmp_path / "home").trials.complete == 1


@pytest.mark.slow
def test_an_update_that_fails_for_another_reason_stops_the_sweep_before_its_first_trial(
    tmp_path: Path, tiny_model: Callable[[str], Path], most_examples: Callable[[int], None]
) -> None:
    settings = request_of(tmp_path, tiny_model)
    most_examples("many")  # type: ignore[arg-type]
    with pytest.raises(
        RequestError, match="a first update fails, as every trial would, so none is started: ValueError"
    ):
        sweep.run_sweep(settings, tmp_path / "home")
    assert outcome(tmp_path / "home", settings) == {}
    assert found(tmp_path / "home") == [], "it is not known what fits"
    most_examples(99)
    assert sweep.run_sweep(settings, tmp_path / "home").trials.failed == 0


def test_workers_that_run_out_together_halve_once(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    settings, home = request_of(tmp_path, tiny_model), tmp_path / "home"
    ref = make.prepared(settings, home)
    micro = MicroBatch(settings, ref, resolve(settings.hardware), home)
    assert (micro.largest, micro.examples) == (12, 12)
    assert [micro.halve(12, 12) for _ in range(5)] == [True] * 5  # five workers, all of which had tried 12
    assert micro.examples == 6
    assert micro.halve(8, 4)  # a batch of 8 had been in two parts
    assert micro.examples == 2
    assert micro.halve(12, 6)  # started before that was known
    assert micro.examples == 2
    assert not micro.halve(12, 1)


def test_the_probe_asks_for_the_most_that_may_be_sampled(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    condition = "+search.space.task.max_length={choices: [16, 24], when: {train.batch_size: [8]}}"
    dropout = "+search.space.model.attention_dropout={low: 0.0, high: 0.2}"
    settings = request_of(tmp_path, tiny_model, condition, dropout)
    home = tmp_path / "home"
    ref, chosen = make.prepared(settings, home), resolve(settings.hardware)
    asked = MicroBatch(settings, ref, chosen, home).question().settings
    assert (asked.task.max_length, asked.train.batch_size) == (48, 12)  # 48 where the condition is not met
    assert (asked.model.dropout, asked.model.attention_dropout) == (0.0, 0.2)


def test_what_fits_is_remembered_for_the_same_data_alone(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    settings, home = request_of(tmp_path, tiny_model), tmp_path / "home"
    ref, chosen = make.prepared(settings, home), resolve(settings.hardware)
    MicroBatch(settings, ref, chosen, home).keep(chosen)
    longer = replace(ref, digests=ref.digests | {"train": "another"})
    assert MicroBatch(settings, ref, chosen, home).known
    assert not MicroBatch(settings, longer, chosen, home).known
    elsewhere = MicroBatch(settings, longer, chosen, home)
    elsewhere.keep(replace(chosen, name="another processor"))
    assert elsewhere.known
    assert not MicroBatch(settings, longer, chosen, home).known, "it was not found out on this hardware"


def test_a_worker_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, home = request_of(tmp_path, tiny_model, "hardware.hang_seconds=1"), tmp_path / "home"
    crew = crew_of(settings, home)
    with crew.staffed():
        crew.workers[0].process.send_signal(signal.SIGSTOP)
        crew.interrupted = True
        with pytest.raises(Interrupted, match="before the first trial"):
            settle_memory(crew)
        crew.interrupted = False
        with pytest.raises(RequestError, match="not one example"):  # no worker starts within a second either
            settle_memory(crew)
    assert "no sign of life for hardware.hang_seconds=1" in capsys.readouterr().out
    assert found(home) == []


@pytest.mark.parametrize(("killed_for_memory", "examples"), [(False, 12), (True, 6)])
def test_a_worker_that_is_killed_while_it_is_asked_is_asked_again(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    killed_for_memory: bool,
    examples: int,
) -> None:
    """Unless the system says that it killed it for memory: then so many did not fit."""
    counters = tmp_path / "vmstat"
    counters.write_text("oom_kill 0\n")
    monkeypatch.setattr(local, "VMSTAT", counters)
    settings, home = request_of(tmp_path, tiny_model), tmp_path / "home"
    crew, killed = crew_of(settings, home), list[Any]()
    ask = crew.ask

    def kill_first(worker: Any, question: Any) -> Any:
        if not killed:
            worker.process.kill()
            counters.write_text(f"oom_kill {int(killed_for_memory)}\n")
            killed.append(worker)
        return ask(worker, question)

    crew.ask = kill_first  # type: ignore[method-assign]
    with crew.staffed():
        settle_memory(crew)
    assert len(killed) == 1
    assert found(home) == [examples]


def test_a_worker_with_other_hardware_than_the_first_is_told_of(
    tmp_path: Path, tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, home = request_of(tmp_path, tiny_model), tmp_path / "home"
    crew = crew_of(settings, home)
    crew.workplace.hardware = replace(crew.workplace.hardware, name="an old GPU")  # type: ignore[misc]
    with crew.staffed():
        settle_memory(crew)
    assert "hardware: worker 0 has another: " in " ".join(capsys.readouterr().out.split())


def test_each_kind_of_hardware_has_its_own_parts(
    tmp_path: Path, tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, home = request_of(tmp_path, tiny_model), tmp_path / "home"
    crew = crew_of(settings, home)
    first = crew.workplace.hardware
    small = replace(first, name="a small GPU", memory=1.0)
    here, there = Made(0), Made(1)
    crew._hardware = {0: first, 1: small}

    def parts(worker: Any) -> list[int]:
        crew.give(worker, 0, settings, crew.ref, TrialFolder(crew.folder.path / "trials" / "0"))
        given: Any = worker.given
        return [given.settings.train.micro_batch_size]

    assert parts(here) == parts(there) == [12]
    assert crew.halve(there, 12, 12)
    assert parts(here) == [12]
    assert parts(there) == [6]
    assert "parts of at most 6 examples on a small GPU" in " ".join(capsys.readouterr().out.split())
    assert crew.halve(here, 12, 12)
    assert crew.halve(there, 12, 6)
    assert parts(here) == [6]
    assert parts(there) == [3]
    assert sorted(found(home)) == [3, 6], "each is kept for the next study"
    assert crew.micro_on("a small GPU").examples == 3, "as MLflow is told of a trial there"
    assert crew.micro_on(None) is crew.micro_on("of a former command") is crew.micro
    again = crew_of(settings, home)
    again._hardware = {1: replace(small, name="an unknown GPU"), 2: small}
    assert again._micro.of(again.hardware_of(Made(1))).examples == 6, "it begins as the first"
    assert again._micro.of(again.hardware_of(Made(2))).examples == 3
    ready = [Made(1), Made(2), Made(3)]
    again.workers = list(ready)
    again.workplace.hear = lambda workers, seconds: iter(())  # type: ignore[method-assign]
    assert again.ready_worker() is ready[2], "it has the hardware that is measured"


def test_a_disk_too_small_for_the_study_is_told_before_anything_is_written(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, home = request_of(tmp_path, tiny_model, "budget.max_trials=4"), tmp_path / "deep" / "home"
    folder = tiny_model("bert")
    weights = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values()) * 4
    bound = checks.disk_bound(settings, 1)
    assert bound == pytest.approx((2 + 3) * 3 * weights + 3 * weights, rel=0.1)  # the pooler and a head more or less
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=bound - 1))
    with pytest.raises(RequestError) as caught:
        sweep.run_sweep(settings, home)
    for part in ("checkpoints and models take up to", f"the disk of {tmp_path} has", "HPSEARCH_HOME"):
        assert part in str(caught.value)
    assert not home.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=bound))
    assert sweep.run_sweep(settings, home).trials.complete == 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    sweep.run_sweep(settings, home)  # is finished and needs nothing


@given(st.integers(1, 500), st.integers(1, 600))
def test_micro_batches_make_up_the_batch(batch_size: int, at_most: int) -> None:
    micro = micro_batch(batch_size, at_most)
    assert 0 < micro <= at_most
    parts = math.ceil(batch_size / micro)
    assert parts == math.ceil(batch_size / at_most)  # as few as can be
    assert math.ceil(batch_size / parts) == micro  # and as equal
    assert micro_batch(batch_size, None) == batch_size
