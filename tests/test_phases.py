"""Phases are a list: one class and one entry are a phase that is run, continued, tracked, checked and shown."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import make
import tiny
import tracked
from forked import Coordinator
from hpsearch.config.settings import Settings
from hpsearch.coordinator import phases, results
from hpsearch.coordinator.phase import Phase
from hpsearch.errors import FaultsFound
from hpsearch.fsck import fsck
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import read_summary
from hpsearch.state.records import Status, TrialRecord, read_points
from hpsearch.tracking.runs import Tracking
from third_phase import SEED, Again

SECONDS = 600
OVERRIDES = (
    "budget.max_trials=3",
    "budget.startup_trials=2",
    "search.space.train.learning_rate.low=0.008",
    "search.space.train.learning_rate.high=0.03",
    "search.space.train.batch_size.choices=[8]",
    "search.space.train.epochs.choices=[8,12]",
    "budget.confirmation.finalists=1",
    "budget.confirmation.seeds=1",
    "train.epochs=8",
    "hardware.checkpoint_seconds=0.2",
)


def test_each_phase_has_its_own_name_folder_and_tag() -> None:
    assert len(phases.PHASES) == 3
    for names in zip(*((kind.name, kind.place, kind.tag) for kind in (*phases.PHASES, Again)), strict=True):
        assert len(set(names)) == 4


def run(settings: Settings, root: Path, home: Path) -> Coordinator:
    (root / "settings.json").write_text(settings.model_dump_json())
    environment = {"OMP_NUM_THREADS": "1", "HPSEARCH_HOME": str(home), "EXTRA_PHASE": "third_phase.Again"}
    return Coordinator(root / "settings.json", root / "log", environment)


@pytest.mark.slow
def test_a_third_phase_is_run_resumed_tracked_checked_and_shown(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", *OVERRIDES)
    home = tracked.new_home(tmp_path / "home")
    folder = StudyFolder.of(home, settings.study)
    again = folder.trial(Again.place, 0)

    process, deadline = run(settings, tmp_path, home), time.monotonic() + SECONDS
    while not again.checkpoints():
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.01)
    process.kill()
    process.wait(SECONDS)
    assert TrialRecord.load(again.path).status is Status.RUNNING
    assert run(settings, tmp_path, home).wait(SECONDS) == 0, (tmp_path / "log").read_text()

    record = TrialRecord.load(again.path)
    assert (record.status, record.seed, record.told) == (Status.COMPLETE, SEED, True)
    steps = [step for step, values in read_points(again.path) if "train_loss" in values]
    assert steps == sorted(set(steps)), "it went on from its checkpoint"
    assert "run 0 goes on" in (tmp_path / "log").read_text()

    summary = read_summary(folder)
    assert summary is not None
    assert summary.winner.folder == "again/0"
    assert [phase.name for phase in summary.phases] == ["search", "confirmation", "again"]
    assert [one.number for one in summary.phases[-1].runs] == [0]
    assert summary.seconds["again"] > 0
    assert summary.steps.confirmation > record.step
    assert again.weights.exists()
    assert not [one for kind in phases.PHASES for one in folder.trials(kind.place) if one.model.exists()]

    tracking = Tracking(settings, home)
    [child] = [one for one in tracking.children(summary.mlflow.run_id) if Again.tag in one.tags]
    assert (child.run_id, child.status) == (record.run_id, "FINISHED")
    assert child.tags["mlflow.runName"] == f"again-{summary.winner.entrant.replace(' ', '-')}-seed-{SEED}"

    entries: tuple[type[Phase], ...] = (*phases.PHASES, Again)
    monkeypatch.setattr(phases, "PHASES", entries)
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"
    replace(record, score=None).save(again.path)
    with pytest.raises(FaultsFound, match="run 0 is complete, but has no score"):
        fsck(settings, home, repair=False)
    record.save(again.path)

    page = folder.report.read_text()
    assert "<h2>Again</h2>" in page
    assert results.rebuild_report(settings, home).read_text() == page
    assert page.index("<h2>Again</h2>") < page.index("<h2>Confirmation</h2>") < page.index("<h2>Trials</h2>")
    assert json.loads(folder.summary.read_text())["winner"]["folder"] == "again/0"
