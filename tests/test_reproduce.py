"""Trials trained once more from what MLflow has of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import make
import tiny
import tracked
from hpsearch import arguments, cli
from hpsearch.config import stored
from hpsearch.config.settings import Settings
from hpsearch.coordinator import sweep
from hpsearch.coordinator.loop import Loop
from hpsearch.coordinator.search import Search
from hpsearch.errors import FaultsFound, NoResultError, RequestError
from hpsearch.fsck import fsck
from hpsearch.reproduce import reproduce
from hpsearch.state.folder import StudyFolder
from hpsearch.state.messages import NoRoom, OutOfMemory, Progress, Retimed
from hpsearch.state.origin import Origin
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tracking.runs import Tracking
from hpsearch.workers.local import LocalWorker


@dataclass
class Done:
    settings: Settings
    home: Path
    csv: Path

    def run_id(self, status: Status, group: str = "trials") -> str:
        folder = self.home / "studies" / self.settings.study / group
        records = [TrialRecord.load(path.parent) for path in folder.glob("*/trial.json")]
        return next(record.run_id for record in records if record.status is status and record.run_id)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Done:
    root = tmp_path_factory.mktemp("reproduce")
    csv = tiny.write_csv(root / "toy.csv", n=190)
    overrides = (
        *("budget.max_trials=3", "search.keep=0.34", "search.space.train.learning_rate.high=0.03"),
        *("search.space.train.batch_size.choices=[16]", "search.space.train.epochs.choices=[2,4]"),
        *("budget.confirmation.finalists=1", "budget.confirmation.seeds=1"),
    )
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", *overrides)
    home = tracked.new_home(root / "home")
    sweep.run_sweep(settings, home)
    return Done(settings, home, csv)


@pytest.mark.parametrize(("status", "group"), [(Status.PRUNED, "trials"), (Status.COMPLETE, "confirmation")])
def test_a_trial_comes_to_the_same_bit_for_bit(status: Status, group: str, done: Done) -> None:
    before = sorted(done.home.rglob("*"))
    said = reproduce(done.settings, done.home, done.run_id(status, group))
    assert "is reproduced bit for bit: 7 metrics" in said
    assert "differs" not in said
    left = set(done.home.rglob("*")) - set(before)
    assert not [path for path in left if "cache" not in path.parts], "nothing is recorded"


@pytest.mark.parametrize("dies", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_retimed_trial_comes_to_the_same_even_if_its_worker_ended(
    dies: bool, tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes of its length are told to the worker that goes on with it, and to the one that trains it again."""
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    how = ("budget.max_trials=1", "search.rungs=[]", "train.epochs=60", "hardware.checkpoint_seconds=0.1")
    space = ("search.space.train.epochs.choices=[60]", "search.space.train.batch_size.choices=[16]")
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", *how, *space)
    home, retimed = tracked.new_home(tmp_path / "home"), Loop._retimed
    asked: list[int] = []

    def retime(self: Search, progress: Progress) -> int | None:
        if progress.step >= 20 + 60 * len(asked) and len(asked) < 2:
            asked.append(progress.step)
            return 300 - 50 * len(asked)
        return None

    def killed_after(self: Loop, message: Retimed) -> None:
        retimed(self, message)
        if dies and len(self.phase.trials[message.number].retimed) == 1:
            [worker] = self.crew.workers
            assert isinstance(worker, LocalWorker)
            worker.process.kill()

    monkeypatch.setattr(Search, "retime", retime)
    monkeypatch.setattr(Loop, "_retimed", killed_after)
    summary = sweep.run_sweep(settings, home)
    [record] = [TrialRecord.load(one.path) for one in StudyFolder.of(home, settings.study).trials("trials")]
    assert (record.status, record.attempts) == (Status.COMPLETE, int(dies))
    assert [total for _, total in record.retimed] == [250, 200]
    assert record.step == record.total_steps == 200 < 60 * 8
    assert [at for at, _ in record.retimed] == sorted({at for at, _ in record.retimed})
    assert fsck(settings, home, repair=False).endswith("clean")
    said = reproduce(settings, home, summary.winner.run_id)
    assert "is reproduced bit for bit: 7 metrics" in said
    assert "differs" not in said


def test_a_run_of_another_version_is_refused(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, origin = done.run_id(Status.PRUNED), Tracking.origin

    def older(self: Tracking, run_id: str) -> Origin:
        found = origin(self, run_id)
        assert found is not None
        return replace(found, settings=found.settings | {"retired": 1})

    monkeypatch.setattr(Tracking, "origin", older)
    with pytest.raises(RequestError, match=r"another version of hpsearch; use that one \(retired: there is no such"):
        reproduce(done.settings, done.home, run_id)
    monkeypatch.setattr(stored, "GONE", {"retired": 2})
    assert reproduce(done.settings, done.home, run_id).endswith("bit for bit: 7 metrics\n  differs: retired: 1 -> None")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (OutOfMemory(0, 16, "no memory"), "one update does not fit in memory here: no memory"),
        (NoRoom(0), "is full; free some"),
    ],
)
def test_what_the_machine_lacks_is_not_taken_for_another_result(
    message: Any, reason: str, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalWorker, "receive", lambda self: message)
    with pytest.raises(NoResultError, match=reason):
        reproduce(done.settings, done.home, done.run_id(Status.PRUNED))


def test_a_trial_without_a_score_has_nothing_to_compare(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = done.run_id(Status.PRUNED)
    origin = Tracking(done.settings, done.home).origin(run_id)
    assert origin is not None
    monkeypatch.setattr(Tracking, "origin", lambda *_: replace(origin, metrics={}))
    with pytest.raises(RequestError, match="ended before its first score"):
        reproduce(done.settings, done.home, run_id)


def test_what_is_different_is_said(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data have changed, and another version of a library was there."""
    run_id = done.run_id(Status.COMPLETE)
    origin = Tracking(done.settings, done.home).origin(run_id)
    assert origin is not None
    assert origin.settings["tracking"] == {"uri": None}
    changed = replace(origin, libraries=origin.libraries | {"torch": "1.0"})
    monkeypatch.setattr(Tracking, "origin", lambda *_: changed)
    text = done.csv.read_text()
    try:
        done.csv.write_text(text.replace("superb", "dull"))
        with pytest.raises(FaultsFound, match=r"(?s)is not reproduced:\n  validation_.* then, .* now") as raised:
            reproduce(done.settings, done.home, run_id)
    finally:
        done.csv.write_text(text)
    assert "differs: data.train" in str(raised.value)
    assert "differs: libraries.torch: '1.0' -> " in str(raised.value)


def test_a_change_without_effect_is_said_too(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = done.run_id(Status.PRUNED)
    origin = Tracking(done.settings, done.home).origin(run_id)
    assert origin is not None
    changed = replace(origin, code=origin.code | {"training/trial": "0" * 16})
    monkeypatch.setattr(Tracking, "origin", lambda *_: changed)
    said = reproduce(done.settings, done.home, run_id)
    assert "bit for bit" in said
    assert "\n  differs: code: training/trial" in said


def test_other_metrics_without_a_known_cause_are_said(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = done.run_id(Status.PRUNED)
    origin = Tracking(done.settings, done.home).origin(run_id)
    assert origin is not None
    changed = replace(origin, metrics=origin.metrics | {"validation_accuracy": 0.123})
    monkeypatch.setattr(Tracking, "origin", lambda *_: changed)
    with pytest.raises(FaultsFound, match=r"(?s)validation_accuracy: 0\.123 then.*nothing is known to differ"):
        reproduce(done.settings, done.home, run_id)


@pytest.mark.parametrize("run_id", ["0" * 32, "no-such-run"])
def test_a_run_that_says_nothing_is_refused(run_id: str, done: Done) -> None:
    with pytest.raises(RequestError, match=f"{run_id}: is no run of a trial that ended complete or pruned"):
        reproduce(done.settings, done.home, run_id)


def test_the_command_takes_the_run_and_settings() -> None:
    for words in (["abc123", "tracking.uri=http://host:5000"], ["tracking.uri=http://host:5000", "abc123"]):
        args, overrides = arguments.parse(["reproduce", *words])
        assert (args.verb, args.run, overrides) == ("reproduce", "abc123", ["tracking.uri=http://host:5000"])


def test_the_command_needs_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "task=imdb"]) == 2
    assert "needs the id of a trial's MLflow run" in capsys.readouterr().err
