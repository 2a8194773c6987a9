"""Checkpoints: sealed behind training, waited for by whoever needs them, the rung's kept beside the newest."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import transformers

from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision
from hpsearch.state.records import Status
from hpsearch.training import checkpoints
from hpsearch.training.trial import run_trial
from test_training import Recorder, assert_same, toy


def unsealed(trial: Path, step: int) -> Path:
    folder = trial / "unsealed" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(os.urandom(64) + bytes([step]))
    return folder


def seal(trial: Path, step: int, score: float | None = None, behind: bool = False) -> None:
    checkpoints.seal(unsealed(trial, step), trial, step, score)
    if not behind:
        checkpoints.settle()


def steps(trial: Path) -> list[int]:
    return sorted(int(folder.name.split("-")[1]) for folder in trial.glob("checkpoint-*"))


def test_the_newest_and_the_newest_of_a_rung_are_kept(tmp_path: Path) -> None:
    seal(tmp_path, 1)
    assert steps(tmp_path) == [1]
    seal(tmp_path, 2, score=0.7)
    assert steps(tmp_path) == [2]
    seal(tmp_path, 3)
    seal(tmp_path, 4)
    assert steps(tmp_path) == [2, 4]
    newest, scored = checkpoints.newest(tmp_path), checkpoints.newest(tmp_path, scored=True)
    assert newest == checkpoints.Checkpoint(tmp_path / "checkpoint-4", 4, None)
    assert scored == checkpoints.Checkpoint(tmp_path / "checkpoint-2", 2, 0.7)
    seal(tmp_path, 5, score=0.8)
    assert steps(tmp_path) == [5]
    checkpoints.discard(tmp_path)
    assert steps(tmp_path) == []
    assert checkpoints.newest(tmp_path) is None


def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path: Path) -> None:
    seal(tmp_path, 2, score=0.7)
    seal(tmp_path, 4)
    weights = tmp_path / "checkpoint-4" / "weights"
    weights.write_bytes(weights.read_bytes()[:-1])
    found = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.step == 2
    assert steps(tmp_path) == [2]


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[4]", b"7", b"\xff", b'{"files": []}', b'{"files": {}, "step": 4}']
)
def test_a_damaged_manifest_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    seal(tmp_path, 2, score=0.7)
    seal(tmp_path, 4)
    (tmp_path / "checkpoint-4" / checkpoints.MANIFEST).write_bytes(content)
    assert not checkpoints.whole(tmp_path / "checkpoint-4")
    seal(tmp_path, 5)
    assert steps(tmp_path) == [2, 5]
    found = checkpoints.newest(tmp_path, scored=True)
    assert found is not None
    assert found.step == 2


@pytest.mark.parametrize("need", [checkpoints.newest, checkpoints.discard])
def test_whoever_needs_a_checkpoint_waits_for_its_sealing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need: Callable[[Path], object]
) -> None:
    go, real = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (go.wait(60), real(handle)))
    seal(tmp_path, 3, behind=True)  # returns, though nothing is sealed
    assert steps(tmp_path) == []
    seen: list[object] = []
    waiting = threading.Thread(target=lambda: seen.append(need(tmp_path)))
    waiting.start()
    waiting.join(0.2)
    assert seen == []
    go.set()
    waiting.join(60)
    assert seen == [checkpoints.newest(tmp_path)]
    assert steps(tmp_path) == ([3] if need is checkpoints.newest else [])


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seal(tmp_path, 2)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        seal(tmp_path, 4)
    assert "No space left on device" in capsys.readouterr().err
    assert steps(tmp_path) == [2]
    assert not list((tmp_path / "unsealed").iterdir())
    seal(tmp_path, 5)
    assert steps(tmp_path) == [5]


@pytest.mark.parametrize("decision", [Decision.CONTINUE, Decision.PAUSE])
def test_on_a_full_disk_a_trial_goes_on_but_does_not_pause(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, decision: Decision
) -> None:
    """What it would have paused for is lost with its checkpoint; one that goes on needs none."""
    spec, warm = toy(tmp_path, tiny_model, "bert")

    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(transformers.Trainer, "_save_checkpoint", full)
    monkeypatch.setattr(checkpoints, "disk_full", lambda folder: True)
    if decision is Decision.PAUSE:
        with pytest.raises(RuntimeError, match="file write failed"):
            run_trial(spec, warm, Recorder(decision).line())
    else:
        assert run_trial(spec, warm, Recorder(decision).line()).status is Status.COMPLETE
    assert steps(spec.folder) == []


def test_what_a_crash_left_half_written_is_cleared_away(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert")
    unsealed(spec.folder, 3)
    assert run_trial(spec, warm, Recorder().line()).status is Status.COMPLETE
    assert not list(spec.folder.glob("unsealed/*"))


@pytest.mark.parametrize("epochs", [1.5, 2.0])
def test_from_a_checkpoint_of_the_last_step_nothing_is_trained(
    tmp_path: Path, tiny_model: Callable[[str], Path], epochs: float
) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert", f"train.epochs={epochs}", "train.scheduler=constant")
    total = run_trial(replace(spec, folder=tmp_path / "counted"), warm, Recorder().line()).total_steps
    first = Recorder(pause_after=total - 1)  # it is not asked at the rung
    ended = run_trial(spec, warm, first.line())
    assert (ended.step, ended.status) == (total, Status.COMPLETE)
    assert steps(spec.folder)[-1] == total
    weights = TrialFolder(spec.folder).weights.read_bytes()
    again = Recorder()
    result = run_trial(spec, warm, again.line())
    assert (result.step, result.status, result.metrics) == (total, Status.COMPLETE, ended.metrics)
    assert again.points == []
    assert TrialFolder(spec.folder).weights.read_bytes() == weights


def test_checkpoints_between_rungs_change_nothing_and_cost_at_most_a_step(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert", "hardware.checkpoint_seconds=1.0e-9")
    rarely = spec.settings.model_copy(
        update={"hardware": spec.settings.hardware.model_copy(update={"checkpoint_seconds": 1e9})}
    )
    whole = replace(spec, folder=tmp_path / "whole", settings=rarely)
    expected = run_trial(whole, warm, Recorder().line())

    class Crash(Exception):
        pass

    class Crashing(Recorder):
        def _heard(self) -> None:
            if sum(1 for _ in self.points) >= 5:
                raise Crash

    with pytest.raises(Crash):
        run_trial(spec, warm, Crashing().line())
    found = checkpoints.newest(spec.folder)
    assert found is not None
    last = json.loads((found.folder / "trainer_state.json").read_text())["global_step"]
    again = Recorder()
    result = run_trial(spec, warm, again.line())
    assert found.step == last >= 9  # points come every second step; the fifth came at the tenth
    assert_same((spec, result), (whole, expected))


def test_the_rung_s_weights_outlive_a_pause_after_it(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    spec, warm = toy(tmp_path, tiny_model, "bert")
    paused = run_trial(spec, warm, Recorder(pause_after=10).line())
    assert paused.status is Status.PAUSED
    rung = checkpoints.newest(spec.folder, scored=True)
    newest = checkpoints.newest(spec.folder)
    assert rung is not None
    assert newest is not None
    assert rung.step == paused.total_steps // 2 < newest.step == paused.step
    done = run_trial(spec, warm, Recorder(Decision.CONTINUE).line())
    assert done.status is Status.COMPLETE
    # A crash before the coordinator has the result costs what came after the checkpoint, and no more.
    assert sorted(steps(spec.folder)) == [rung.step, newest.step]
    weights = TrialFolder(spec.folder).weights.read_bytes()
    again = run_trial(spec, warm, Recorder(Decision.CONTINUE).line())
    assert (again.status, again.score) == (Status.COMPLETE, done.score)
    assert TrialFolder(spec.folder).weights.read_bytes() == weights


def test_a_process_that_ends_already_seals_what_it_has_begun(tmp_path: Path) -> None:
    """The one who ends it for certain waits for that, see `workers.leashed`."""
    code = """
import concurrent.futures.thread as futures, os, sys, threading, time
from pathlib import Path
from hpsearch.training import checkpoints

def slow(*_):
    time.sleep(1)
    Path(sys.argv[1]).touch()

def watch():
    while not futures._shutdown:  # until this process has begun to end
        time.sleep(0.01)
    checkpoints.close()
    os._exit(7)

checkpoints._seal = slow
os.mkdir("trial")
checkpoints.seal(Path("unsealed"), Path("trial"), 1, None)
threading.Thread(target=watch, daemon=True).start()
"""
    sealed = tmp_path / "sealed"
    assert subprocess.run([sys.executable, "-c", code, str(sealed)], cwd=tmp_path, timeout=60).returncode in (0, 7)
    assert sealed.exists()
