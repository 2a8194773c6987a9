"""What training and scoring take, as the first question to a worker finds it out."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.coordinator.memory import PACE_SECONDS, KnownPace, MicroBatch
from hpsearch.state.messages import BUSY, Decision, Hardware, Paced
from hpsearch.state.records import DataRef
from hpsearch.training import hardware, pace
from hpsearch.training.order import LengthGroupedOrder
from hpsearch.training.pace import PaceSpec, measure
from hpsearch.training.trial import Line, Warm

HERE = Hardware("cpu", "float32", "eager", 1, "a processor", 1.0)


def toy(root: Path, tiny_model: Callable[[str], Path], n: int, *overrides: str) -> tuple[Settings, DataRef]:
    settings = make.toy_settings(tiny.write_csv(root / "toy.csv", n=n), tiny_model("bert"), "bert", *overrides)
    return settings, make.prepared(settings, root)


def line(alive: Callable[[], None]) -> Line:
    return Line(
        point=lambda _: None,
        rung=lambda _: Decision.CONTINUE,
        heard=lambda: None,
        alive=alive,
        retimed=lambda _: None,
    )


@pytest.mark.parametrize("seconds", [4, 30, 200])
@pytest.mark.parametrize("n", [60, 190])
def test_a_token_costs_the_same_however_many_epochs_are_timed(
    n: int, seconds: int, tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here each step and each scoring takes a second."""
    settings, ref = toy(tmp_path, tiny_model, n, "train.epochs=100")
    ticks, signs = itertools.count(), itertools.count()
    monkeypatch.setattr(pace, "_now", lambda _: float(next(ticks)))
    warm = Warm(hardware.resolve(settings.hardware))
    found = measure(PaceSpec(settings, ref, seconds), warm, line(lambda: next(signs)))
    tokens = warm.tokens(ref, settings, "train")
    a_step = tokens.lengths.sum() / -(-len(tokens) // 16)
    assert found.train == pytest.approx(1 / a_step, rel=0.15)
    validation = warm.tokens(ref, settings, "validation")
    assert found.score == pytest.approx(1 / validation.lengths.sum())
    assert 0 < found.trial < 60
    assert next(signs) > seconds, "it says that it is alive"
    assert 0 < found.running <= 1


@pytest.mark.parametrize(
    ("schedstat", "running"),
    [("{ran} {waited} 7", 0.25), ("0 0 0", 1.0), ("", 1.0), (None, 1.0)],
    ids=["busy", "not counted", "empty", "not there"],
)
def test_a_worker_says_how_often_it_had_a_processor(
    schedstat: str | None,
    running: float,
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here the worker has a processor for a second, and then waits for one for three."""
    settings, ref = toy(tmp_path, tiny_model, 60, "train.epochs=100")
    said, seconds = tmp_path / "schedstat", itertools.count()

    def now(_: Hardware) -> float:
        second = next(seconds)
        if schedstat is not None:
            said.write_text(schedstat.format(ran=5 + 10**9 * second, waited=3 * 10**9 * second))
        return float(second)

    monkeypatch.setattr(pace, "_now", now)
    monkeypatch.setattr(pace, "SCHEDSTAT", said)
    warm = Warm(hardware.resolve(settings.hardware))
    assert measure(PaceSpec(settings, ref, 8), warm, line(lambda: None)).running == running


@pytest.mark.skipif(not pace.SCHEDSTAT.exists(), reason="the kernel does not say it")
def test_a_thread_that_shares_its_processor_waits_for_it() -> None:
    processor = min(os.sched_getaffinity(0))
    other = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{processor}])\nwhile 1: pass"]
    )
    former = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [processor])
        ran, waited = pace._scheduled()
        until = time.process_time() + 1
        while time.process_time() < until:
            pass
        after = pace._scheduled()
    finally:
        os.sched_setaffinity(0, former)
        other.kill()
        other.wait()
    assert after[0] > ran
    assert (after[1] - waited) / (after[0] - ran) > 0.3


def test_what_is_trained_by_a_step_is_what_the_order_says(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    settings, ref = toy(tmp_path, tiny_model, 60)  # 36 examples: batches of 16, 16 and 4
    tokens = Warm(hardware.resolve(settings.hardware)).tokens(ref, settings, "train")
    order = LengthGroupedOrder(tokens.lengths, 16, 0)
    found = pace._tokens(order, 8)
    assert len(found) == 8
    assert sum(found[:3]) == sum(found[3:6]) == tokens.lengths.sum()
    assert found[2] < found[0]
    assert pace._tokens(order, 2) == found[:2]


def test_the_pace_is_measured_once_for_what_it_depends_on(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    hours = ("budget.hours=0.5", "budget.max_trials=null")
    settings, ref = toy(tmp_path, tiny_model, 60, *hours)
    known = KnownPace(settings, ref, HERE, tmp_path)
    assert known.found is None
    asked = known.question(MicroBatch(settings, ref, HERE, tmp_path))
    assert asked.seconds == PACE_SECONDS
    known.keep(Paced(1e-4, 1e-5, 0.5), HERE)
    again = KnownPace(settings, ref, HERE, tmp_path)
    assert again.found == known.found == Paced(1e-4, 1e-5, 0.5)
    for other in ("task.max_length=32", "train.batch_size=32", "optimizer=radam"):
        changed, _ = toy(tmp_path, tiny_model, 60, *hours, other)
        assert KnownPace(changed, ref, HERE, tmp_path).found is None, other
    for same in ("train.learning_rate=0.001", "budget.hours=2", "search.keep=0.3", "seed=4"):
        changed, _ = toy(tmp_path, tiny_model, 60, *hours, same)
        assert KnownPace(changed, ref, HERE, tmp_path).found is not None, same


def test_the_pace_of_a_busy_machine_is_used_and_said_and_not_kept(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    settings, ref = toy(tmp_path, tiny_model, 60, "budget.hours=0.5", "budget.max_trials=null")
    known = KnownPace(settings, ref, HERE, tmp_path)
    slow = Paced(2e-4, 2e-5, 0.5, running=0.52)
    known.keep(slow, HERE)
    assert known.found == slow
    assert known.busy is not None
    assert "the worker had one 52% of the time" in known.busy
    again = KnownPace(settings, ref, HERE, tmp_path)
    assert again.found is None
    assert again.busy is None
    again.keep(Paced(1e-4, 1e-5, 0.5, running=BUSY), HERE)
    assert again.busy is None
    assert KnownPace(settings, ref, HERE, tmp_path).found == again.found
