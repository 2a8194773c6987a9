"""Faults are put into a state folder one by one: each is found, named, and repaired where that is possible."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

import make
import tiny
import tracked
from hpsearch.config.settings import Settings
from hpsearch.coordinator import sweep
from hpsearch.errors import FaultsFound
from hpsearch.fsck import fsck
from hpsearch.registry import promotion
from hpsearch.state.folder import StudyFolder
from hpsearch.state.locks import Lock
from hpsearch.state.records import TrialRecord
from hpsearch.tracking.runs import Tracking


@dataclass
class Home:
    settings: Settings
    path: Path

    @property
    def study(self) -> Path:
        return self.path / "studies" / self.settings.study

    def record(self, number: int) -> TrialRecord:
        return TrialRecord.load(self.study / "trials" / str(number))

    def tracking(self) -> Tracking:
        return Tracking(self.settings, self.path)

    def run(self, number: int) -> str:
        return self.record(number).run_id or ""

    def optuna(self, statement: str) -> None:
        with sqlite3.connect(self.path / "optuna.db") as database:
            database.execute(statement)
        database.close()

    @property
    def parent(self) -> str:
        return str(json.loads((self.study / "summary.json").read_text())["mlflow"]["run_id"])

    @property
    def best(self) -> int:
        return int(json.loads((self.study / "summary.json").read_text())["best"]["trial"])

    @property
    def loser(self) -> int:
        return next(number for number in range(3) if number != self.best)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Home:
    root = tmp_path_factory.mktemp("fsck")
    csv = tiny.write_csv(root / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", "budget.max_trials=3", "search.keep=0.34")
    home = Home(settings, tracked.new_home(root / "home"))
    sweep.run_sweep(settings, home.path)
    promotion.promote(settings, home.path, force="a toy that learns nothing")
    return home


@pytest.fixture
def home(swept: Home, tmp_path: Path) -> Home:
    shutil.copytree(swept.path, tmp_path / "home", ignore=shutil.ignore_patterns("artifacts", "cache"))
    return Home(swept.settings, tmp_path / "home")


def left_over(home: Home) -> None:
    (home.study / "trials" / "0" / "trial.json.tmp").write_text("{")


def unsealed(home: Home) -> None:
    (home.study / "trials" / "1" / "unsealed" / "checkpoint-3").mkdir(parents=True)


def needless_checkpoint(home: Home) -> None:
    (home.study / "trials" / "0" / "checkpoint-3").mkdir()


def needless_model(home: Home) -> None:
    (home.study / "trials" / str(home.loser) / "model").mkdir()


def untold_optuna(home: Home) -> None:
    home.optuna(f"UPDATE trials SET state='RUNNING' WHERE number={home.best}")


def running_trial(home: Home) -> None:
    tracked.client(home.tracking()).update_run(home.run(1), status="RUNNING")


def running_study(home: Home) -> None:
    tracked.client(home.tracking()).update_run(home.parent, status="RUNNING")


def failed_study(home: Home) -> None:
    tracked.client(home.tracking()).update_run(home.parent, status="FAILED")


def deleted_run(home: Home) -> None:
    tracked.client(home.tracking()).delete_run(home.run(2))


def damaged_checkpoint(home: Home) -> None:
    folder = home.study / "trials" / "1"
    raw = json.loads((folder / "trial.json").read_text())
    (folder / "trial.json").write_text(json.dumps(raw | {"status": "paused"}))
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "manifest.json").write_text("{}")
    home.optuna("UPDATE trials SET state='RUNNING' WHERE number=1")
    home.tracking().end(home.run(1), "KILLED")


MENDABLE = {
    left_over: "trials/0/trial.json.tmp is left of a crash",
    unsealed: "trials/1/unsealed is left of a crash",
    needless_checkpoint: "trial 0 is .* and keeps checkpoints",
    needless_model: r"trial \d keeps a model and is not the best",
    untold_optuna: r"Optuna has not been told that trial \d is complete",
    running_trial: "trial 1 is .*; MLflow says RUNNING, 0 points missing",
    running_study: "the study is RUNNING in MLflow, and nobody runs it",
    failed_study: "the study is finished; MLflow says FAILED",
    deleted_run: "trial 2 has no run in MLflow",
    damaged_checkpoint: "trial 1: checkpoint-3 is damaged",
}


def test_a_whole_folder_is_clean(home: Home) -> None:
    assert fsck(home.settings, home.path, repair=False) == f"{home.settings.study}: clean"


@pytest.mark.parametrize("fault", MENDABLE, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_and_mended(fault: Callable[[Home], None], home: Home) -> None:
    fault(home)
    with pytest.raises(FaultsFound, match=f"{MENDABLE[fault]}: --repair repairs it\n1 fault\\(s\\) left"):
        fsck(home.settings, home.path, repair=False)
    assert fsck(home.settings, home.path, repair=True).endswith(": repaired")
    assert fsck(home.settings, home.path, repair=False) == f"{home.settings.study}: clean"


def lost_record(home: Home) -> None:
    (home.study / "trials" / "1" / "trial.json").unlink()


def torn_record(home: Home) -> None:
    (home.study / "trials" / "1" / "trial.json").write_text("{")


def other_parameters(home: Home) -> None:
    path = home.study / "trials" / "0" / "trial.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"params": raw["params"] | {"train.learning_rate": 0.5}}))


def other_score(home: Home) -> None:
    home.optuna("UPDATE trial_values SET value=0.123")


def point_twice(home: Home) -> None:
    client = tracked.client(home.tracking())
    step = client.get_metric_history(home.run(0), "train_loss")[0].step
    client.log_metric(home.run(0), "train_loss", 0.5, step=step)


def second_run(home: Home) -> None:
    client = tracked.client(home.tracking())
    tags = client.get_run(home.run(0)).data.tags
    again = client.create_run(home.tracking().experiment_id, tags=tags)
    client.set_terminated(again.info.run_id)


def no_model(home: Home) -> None:
    shutil.rmtree(home.study / "trials" / str(home.best) / "model")


def torn_summary(home: Home) -> None:
    (home.study / "summary.json").write_text("{")


def other_summary(home: Home) -> None:
    path = home.study / "summary.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"best": raw["best"] | {"trial": home.loser}}))


HOPELESS = {
    lost_record: "trial 1 is .* in Optuna, and the state folder has no record of it",
    torn_record: "trial 1: trial.json can't be read",
    other_parameters: "trial 0 has other parameters in Optuna",
    other_score: r"has the value 0\.123 in Optuna",
    point_twice: "trial 0 has points twice in MLflow: train_loss",
    second_run: "trial 0 has two runs in MLflow",
    no_model: r"the model of the winner, trials/\d, is missing",
    torn_summary: r"summary\.json: is damaged .* delete it, and the sweep's command writes it again",
    other_summary: r"summary\.json has trial \d as the best, and it is",
}


@pytest.mark.parametrize("fault", HOPELESS, ids=lambda fault: fault.__name__)
def test_what_cannot_be_mended_is_said(fault: Callable[[Home], None], home: Home) -> None:
    fault(home)
    for repair in (False, True):
        with pytest.raises(FaultsFound, match=rf"(?s){HOPELESS[fault]}.*: can't be repaired here"):
            fsck(home.settings, home.path, repair=repair)


def test_the_champion_s_weights_are_compared(swept: Home, home: Home) -> None:
    # The copy's MLflow store names the files of the first home.
    where = mlflow.artifacts.list_artifacts(run_id=swept.run(swept.best))
    assert where is not None
    [weights] = (swept.path / "artifacts").rglob("artifacts/model/model.safetensors")
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(FaultsFound, match="version 1, the champion, are not those that were logged"):
            fsck(home.settings, home.path, repair=False)
        weights.unlink()
        with pytest.raises(FaultsFound, match="version 1, the champion, are missing"):
            fsck(home.settings, home.path, repair=False)
    finally:
        weights.write_bytes(whole)


def test_a_checkpoint_s_empty_folder_is_no_fault(home: Home) -> None:
    (home.study / "trials" / "1" / "unsealed").mkdir(parents=True)  # as Trainer makes it
    assert fsck(home.settings, home.path, repair=False) == f"{home.settings.study}: clean"


def test_a_torn_identity_is_said(home: Home) -> None:
    (home.study / "identity.json").write_text("{")
    assert "identity.json: is damaged" in fsck(home.settings, home.path, repair=False)


def test_a_study_that_mlflow_has_lost_is_told_again_by_the_sweep(home: Home) -> None:
    former = home.parent
    tracked.client(home.tracking()).delete_run(former)
    with pytest.raises(FaultsFound, match=r"MLflow has no run of the study; .*: --repair repairs it"):
        fsck(home.settings, home.path, repair=False)
    assert fsck(home.settings, home.path, repair=True).endswith(": repaired")
    summary = sweep.run_sweep(home.settings, home.path)
    assert summary.mlflow.run_id not in (None, former)
    assert summary.test.readings == 1
    assert fsck(home.settings, home.path, repair=False) == f"{home.settings.study}: clean"


def test_a_study_that_runs_is_left_alone(home: Home) -> None:
    left_over(home)
    lock = Lock(StudyFolder(home.study))
    try:
        assert "not checked: study" in fsck(home.settings, home.path, repair=True)
    finally:
        lock.close()
    assert (home.study / "trials" / "0" / "trial.json.tmp").exists()


def test_a_folder_without_studies_is_clean(tmp_path: Path) -> None:
    assert "there is no study" in fsck(make.compose_settings(), tmp_path, repair=False)
