"""Whole sweeps with real worker processes, SQLite and MLflow, on 2-layer models."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import optuna
import pandas as pd
import pytest
from mlflow.entities import Run

import make
import tiny
import tracked
from hpsearch.config.settings import Settings
from hpsearch.coordinator import books, results, sweep
from hpsearch.coordinator.books import Books
from hpsearch.coordinator.loop import Loop
from hpsearch.coordinator.search import Search
from hpsearch.errors import NoResultError, OutOfReachError, PromotionRefused, RequestError
from hpsearch.fsck import fsck
from hpsearch.registry.champions import CHAMPION
from hpsearch.registry.promotion import promote
from hpsearch.reproduce import reproduce
from hpsearch.serving.packaging import predict_file
from hpsearch.state import addresses, codec, records
from hpsearch.state.messages import Lost, Message
from hpsearch.state.outcome import Counts, Summary
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks import squad
from hpsearch.tracking.registered import RegisteredModel
from hpsearch.tracking.runs import Tracking
from hpsearch.workers.local import LocalWorker

OVERRIDES = (
    "budget.max_trials=6",
    "budget.startup_trials=3",
    "search.space.train.learning_rate.low=0.001",
    "search.space.train.learning_rate.high=0.03",
    "search.space.train.batch_size.choices=[16]",
    "search.space.train.epochs.choices=[4,6]",
    "search.keep=0.34",
    "train.epochs=4",
)


@dataclass
class Swept:
    settings: Settings
    home: Path
    summary: Summary

    @property
    def folder(self) -> Path:
        return self.home / "studies" / self.settings.study

    def records(self) -> list[TrialRecord]:
        return sorted(
            (TrialRecord.load(p.parent) for p in self.folder.glob("trials/*/trial.json")), key=lambda t: t.number
        )

    def client(self) -> mlflow.MlflowClient:
        return tracked.client(Tracking(self.settings, self.home))

    def children(self) -> list[Run]:
        parent = self.summary.mlflow.run_id
        found = self.client().search_runs([self.summary.mlflow.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
        return sorted(found, key=lambda run: str(run.info.run_name))


def request_of(root: Path, tiny_model: Callable[[str], Path], *overrides: str) -> tuple[Settings, Path]:
    csv = tiny.write_csv(root / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", *OVERRIDES, *overrides)
    return settings, tracked.new_home(root / "home")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Swept:
    """In folders with the characters that addresses give a meaning."""
    strange = tmp_path_factory.mktemp("sweep") / "Jürgen #1 100%25 'x'? a::b;c&d"
    model = shutil.copytree(tiny_model("bert"), strange / "model %41?#")
    settings = make.toy_settings(tiny.write_csv(strange / "töy #%41?.csv", n=190), model, "bert", *OVERRIDES)
    home = tracked.new_home(strange / "höme %41?#")
    done = Swept(settings, home, sweep.run_sweep(settings, home))
    assert {path.name for path in strange.parent.iterdir()} == {strange.name}  # nothing went elsewhere
    assert {path.name for path in strange.iterdir()} == {model.name, "töy #%41?.csv", home.name}
    return done


@pytest.mark.slow
def test_questions_are_swept_as_texts_are(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    rows = tiny.write_jsonl(tmp_path / "toy.jsonl", tiny.questions(400, 0))
    longer = (
        "search.space.train.epochs.choices=[16]",
        "budget.max_trials=3",
        "search.space.train.learning_rate.low=0.008",
    )
    windows = ("task.max_length=32", "task.stride=8")
    settings = make.toy_settings(rows, tiny_model("bert"), "bert", *OVERRIDES, *longer, *windows, task="qa_files")
    done = Swept(settings, tmp_path / "home", sweep.run_sweep(settings, tmp_path / "home"))
    test = done.summary.test
    assert done.summary.trials.complete == 1
    assert done.summary.metric == test.metric == "f1"
    assert test.value > 0.7
    assert test.low < test.value <= test.high
    assert {"exact_match", "has_answer_f1", "no_answer_accuracy"} <= test.all.keys()
    assert done.summary.labels == ()
    assert test.confusion is None
    best = done.records()[done.summary.best.trial]
    assert best.fitted == done.summary.winner.fitted
    assert isinstance(best.fitted["no_answer_threshold"], float)
    assert "exact match" in (done.folder / "report.html").read_text()
    mlflow.set_tracking_uri(f"sqlite:///{done.home / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model(done.client().get_run(best.run_id).data.tags["hpsearch.model"])
    asked = tiny.questions(60, 1)
    out = model.predict(pd.DataFrame(asked)[["question", "context"]])
    golds = [[answer["text"] for answer in row["answers"]] for row in asked]
    assert squad.scores(out["answer"].tolist(), golds)[1].mean() > 0.7


def test_summary_keeps_its_contract(swept: Swept) -> None:
    summary = json.loads((swept.folder / "summary.json").read_text())
    assert summary == codec.plain(swept.summary)
    keys = {"study", "task", "model", "metric", "direction", "trials", "best", "winner", "confirmation", "test"}
    assert keys | {"seconds", "data", "mlflow"} <= summary.keys()
    assert summary["trials"] == {"complete": 2, "pruned": 4, "failed": 0}
    assert summary["best"]["validation"] > 0.9
    assert summary["test"]["value"] > 0.9
    assert summary["test"]["low"] < summary["test"]["value"] <= summary["test"]["high"]
    assert summary["test"]["n"] == summary["data"]["test"] == 38
    assert summary["test"]["readings"] == 1
    assert summary["seconds"]["total"] >= summary["seconds"]["search"] > 0
    trained, everything = summary["steps"]["trained"], summary["steps"]["all_to_the_end"]
    assert trained == sum(trial.step for trial in swept.records()) < everything


def test_answers_on_test_are_kept_with_the_run_and_make_its_score(swept: Swept) -> None:
    run_id, test = swept.summary.winner.run_id, swept.summary.test
    table = Tracking(swept.settings, swept.home).answers(run_id, "test")
    assert table is not None
    assert table.columns[:3] == ("id", "truth", "answer")
    ids, truths, answers = table.ids, table.truths, table.said
    assert len(set(ids)) == test.n
    assert set(truths) <= set(swept.summary.labels)
    assert sum(t == a for t, a in zip(truths, answers, strict=True)) / test.n == test.value
    assert test.intervals.keys() == {"accuracy", "precision", "recall", "f1", "f1_weighted", "log_loss"}
    assert swept.client().get_run(run_id).data.tags["mlflow.loggedArtifacts"]


@pytest.mark.slow
def test_a_champion_that_was_scored_on_other_data_is_run_on_the_challengers(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    sweep.run_sweep(settings, home)
    assert "the task's first" in promote(settings, home)
    csv = tiny.write_csv(tmp_path / "other.csv", n=400, seed=7)
    changed = make.toy_settings(csv, tiny_model("bert"), "bert", *OVERRIDES, "study=other")
    sweep.run_sweep(changed, home)
    first = swept_version(settings, home)
    with pytest.raises(PromotionRefused, match=r"version 1 was scored on other test data .* and was run on these"):
        promote(changed, home, dry_run=True)
    csv.write_text(csv.read_text().replace("superb", "grand"))
    with pytest.raises(RequestError, match="the test data are no longer those that it was scored on"):
        promote(changed, home)
    assert swept_version(settings, home) == first


def swept_version(settings: Settings, home: Path) -> str:
    version = RegisteredModel(Tracking(settings, home)).version_of(CHAMPION)
    assert version is not None
    return str(version.number)


def test_best_is_the_best_complete_trial_and_only_its_weights_are_kept(swept: Swept) -> None:
    complete = [trial for trial in swept.records() if trial.status is Status.COMPLETE]
    best = max(complete, key=lambda trial: trial.score or 0)
    assert swept.summary.best.trial == best.number
    assert [p.parent.name for p in swept.folder.glob("trials/*/model")] == [str(best.number)]
    assert not list(swept.folder.glob("trials/*/checkpoint-*"))
    assert not list(swept.folder.glob("trials/*/unsealed"))


def test_study_state_folder_and_tracking_agree(swept: Swept) -> None:
    study = optuna.load_study(study_name=swept.settings.study, storage=addresses.of_file(swept.home / "optuna.db"))
    states = {Status.COMPLETE: "COMPLETE", Status.PRUNED: "PRUNED", Status.FAILED: "FAIL"}
    runs = {run.info.run_id: run for run in swept.children()}
    assert len(runs) == len(study.trials) == len(swept.records()) == 6
    for trial, frozen in zip(swept.records(), study.trials, strict=True):
        assert trial.told
        assert frozen.state.name == states[trial.status]
        assert frozen.params == trial.params
        assert frozen.intermediate_values == trial.rungs
        run = runs[trial.run_id or ""]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["validation_accuracy"] == pytest.approx(trial.score)
        assert float(run.data.params["train.learning_rate"]) == pytest.approx(trial.params["train.learning_rate"])
    assert swept.client().get_run(swept.summary.mlflow.run_id).info.status == "FINISHED"


def test_curves_have_each_point_once(swept: Swept) -> None:
    for trial in swept.records():
        points = records.read_points(swept.folder / "trials" / str(trial.number))
        named = [(step, name) for step, values in points for name in values]
        assert len(named) == len(set(named)) > 3
        history = swept.client().get_metric_history(trial.run_id, "train_loss")
        steps = [point.step for point in history]
        assert steps == sorted(set(steps))
        assert steps == [step for step, values in points if "train_loss" in values]


def test_the_study_s_run_says_what_came_of_it(swept: Swept) -> None:
    said = swept.client().get_run(swept.summary.mlflow.run_id).data.tags["mlflow.note.content"]
    test = swept.summary.test
    assert said.startswith(f"tiny reaches accuracy {test.value:.3f} on {test.n} test examples of toy (95 % interval")
    assert said.endswith("not confirmed with fresh seeds (budget.confirmation.finalists=0).")


def test_the_winner_predicts_from_raw_text(swept: Swept) -> None:
    run = swept.client().get_run(swept.summary.winner.run_id)
    given, labelled = swept.home.parent / "new #%41?.csv", swept.home.parent / "labelled #%41?.csv"
    given.write_text("text\nthe film was good and superb\na dull and awful plot\n")
    predict_file(run.data.tags["hpsearch.model"], given, labelled, "text_classification", {"text": "text"}, "auto")
    out = pd.read_csv(labelled)
    assert list(out["label"]) == ["positive", "negative"]
    assert out["score"].between(0.5, 1).all()


def test_a_finished_study_starts_nothing(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in swept.folder.glob("trials/**/*") if path.is_file()}
    assert sweep.run_sweep(swept.settings, swept.home) == swept.summary
    assert before == {path: path.stat().st_mtime_ns for path in swept.folder.glob("trials/**/*") if path.is_file()}
    assert "is finished" in capsys.readouterr().out


def test_a_study_whose_time_is_spent_starts_nothing(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    budget = swept.settings.budget.model_copy(update={"max_trials": 99, "hours": 1e-6})
    found = sweep.run_sweep(swept.settings.model_copy(update={"budget": budget}), swept.home)
    assert found == swept.summary
    assert "is finished: 6 of 99 trials; a larger budget" in " ".join(capsys.readouterr().out.split())


def test_hours_are_those_of_the_clock_where_it_was_read() -> None:
    search = Search.__new__(Search)
    search.trials = {0: TrialRecord(0, {}, Status.COMPLETE, seconds={"training": 7200.0})}
    search.study = SimpleNamespace(workers=1, most_workers=2)  # type: ignore[assignment]
    for clocked, hours in ((0.0, 1.0), (1.5, 1.5)):  # the first was killed before it could write down its time
        search.clocked = clocked
        assert search.hours == hours


def test_other_settings_or_data_are_refused(swept: Swept) -> None:
    train = swept.settings.train.model_copy(update={"weight_decay": 0.3})
    with pytest.raises(RequestError, match=r"train.weight_decay: 0.01 -> 0.3"):
        sweep.run_sweep(swept.settings.model_copy(update={"train": train}), swept.home)


def test_report_is_rebuilt(swept: Swept) -> None:
    report = swept.folder / "report.html"
    before = report.read_text()
    report.unlink()
    assert results.rebuild_report(swept.settings, swept.home) == report
    assert report.read_text() == before
    search = swept.settings.search.model_copy(update={"space": {}, "rungs": (0.5, 0.9)})  # of this command, not its own
    results.rebuild_report(swept.settings.model_copy(update={"search": search, "seed": 7}), swept.home)
    assert report.read_text() == before


@pytest.mark.slow
def test_a_search_on_few_rows_runs_every_trial_to_its_end(
    tmp_path: Path, tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, home = request_of(tmp_path, tiny_model, "search.rungs_after=9999")
    swept = Swept(settings, home, sweep.run_sweep(settings, home))
    assert "every trial is trained to its end; search.rungs_after=9999" in " ".join(capsys.readouterr().out.split())
    assert [trial.rungs for trial in swept.records()] == [{}] * settings.budget.max_trials
    assert swept.summary.trials == Counts(complete=settings.budget.max_trials, pruned=0, failed=0)
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"
    before = (swept.folder / "report.html").read_text()
    assert results.rebuild_report(settings, home).read_text() == before


@pytest.mark.slow
def test_a_larger_budget_continues(swept: Swept) -> None:
    budget = swept.settings.budget.model_copy(update={"max_trials": 8})
    former = swept.records()
    summary = sweep.run_sweep(swept.settings.model_copy(update={"budget": budget}), swept.home)
    assert summary.trials.all == 8
    records = swept.records()
    assert [(t.number, t.params, t.score) for t in records[:6] if t.status is Status.COMPLETE] == [
        (t.number, t.params, t.score) for t in former if t.status is Status.COMPLETE
    ]
    assert summary.mlflow.run_id == swept.summary.mlflow.run_id
    same_winner = summary.best.trial == swept.summary.best.trial
    assert summary.test.readings == (1 if same_winner else 2)


def test_the_steps_of_a_trial_that_runs_longer_than_the_mean_are_still_to_come() -> None:
    search = Search.__new__(Search)
    lengths = {0: (40, Status.RUNNING), 1: (10, Status.PRUNED)}
    search.trials = {n: TrialRecord(n, {}, status, total_steps=total) for n, (total, status) in lengths.items()}
    kept = Books.__new__(Books)
    kept.phase, kept.trained = search, {0: 30, 1: 2}
    few: Any = object()
    search._few = few
    assert kept.remaining_steps() == 10, "what the time holds beyond it is not known"
    search.planned = lambda: 1.0  # type: ignore[method-assign]
    assert kept.remaining_steps() == 10
    search.planned = lambda: 4.0  # type: ignore[method-assign]
    assert kept.remaining_steps() == 100 - 32


def test_train_is_one_tracked_fine_tune(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    settings, home = request_of(tmp_path, tiny_model, "train.epochs=6")
    summary = sweep.run_train(settings, home)
    assert summary.trials == Counts(complete=1, pruned=0, failed=0)
    assert summary.best.params == {}
    assert summary.test.value > 0.8
    study = settings.model_copy(update={"study": summary.study})
    assert fsck(study, home, repair=False) == f"{study.study}: clean"
    page = results.rebuild_report(study, home).read_text()
    assert "<dt>epochs</dt><dd>6</dd>" in page
    assert "is reproduced bit for bit" in reproduce(study, home, summary.winner.run_id)
    with pytest.raises(RequestError, match=r"search\.space is empty; name at least one setting"):
        sweep.run_sweep(study.model_copy(update={"search": study.search.model_copy(update={"space": {}})}), home)


@pytest.fixture
def killed_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Kill the worker the first time that a trial reports its progress."""
    killed: list[int] = []
    original = Loop._handle

    def handle(self: Loop, worker: LocalWorker, message: Message) -> None:
        original(self, worker, message)
        if not killed and self.phase.trials and self.books.logged.get(1):
            killed.append(worker.process.pid)
            worker.process.kill()

    monkeypatch.setattr(Loop, "_handle", handle)
    yield killed
    assert killed


@pytest.mark.slow
def test_a_killed_worker_costs_no_trial(
    tmp_path: Path, tiny_model: Callable[[str], Path], killed_workers: list[int]
) -> None:
    settings, home = request_of(tmp_path, tiny_model, "budget.max_trials=3")
    summary = sweep.run_sweep(settings, home)
    assert summary.trials == Counts(complete=1, pruned=2, failed=0)
    swept = Swept(settings, home, summary)
    assert [trial.attempts for trial in swept.records()] == [0, 1, 0]
    test_curves_have_each_point_once(swept)


@pytest.mark.slow
def test_a_worker_that_hangs_costs_no_trial(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped the first time that the second trial reports its progress."""
    settings, home = request_of(tmp_path, tiny_model, "budget.max_trials=3")
    stopped: list[int] = []
    handle, lost = Loop._handle, Loop._lost

    def stopping(self: Loop, worker: LocalWorker, message: Message) -> None:
        handle(self, worker, message)
        if not stopped and self.books.logged.get(1) and worker.trial == 1:
            stopped.append(worker.process.pid)
            worker.process.send_signal(signal.SIGSTOP)
            patience = settings.hardware.model_copy(update={"hang_seconds": 2.0})
            self.crew.settings = settings.model_copy(update={"hardware": patience})

    def as_before(self: Loop, worker: LocalWorker, message: Lost) -> None:
        self.crew.settings = settings  # a fresh worker takes longer to start
        lost(self, worker, message)

    monkeypatch.setattr(Loop, "_handle", stopping)
    monkeypatch.setattr(Loop, "_lost", as_before)
    summary = sweep.run_sweep(settings, home)
    assert summary.trials == Counts(complete=1, pruned=2, failed=0)
    assert not Path(f"/proc/{stopped[0]}").exists()
    swept = Swept(settings, home, summary)
    assert [trial.attempts for trial in swept.records()] == [0, 1, 0]
    test_curves_have_each_point_once(swept)


@pytest.mark.slow
def test_a_search_without_mlflow_loses_nothing(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MLflow goes away once the study is open, for the whole search; the next command tells it all of it."""
    settings, home = request_of(tmp_path, tiny_model, "budget.max_trials=3")

    def away(*_: Any) -> None:
        raise OutOfReachError("it does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(Tracking, "open_trial", away)
        patched.setattr(books, "TELL_SECONDS", 1.0)
        patched.setattr(sweep, "LAST_SECONDS", 1.0)
        with pytest.raises(OutOfReachError, match="it does not answer"):
            sweep.run_sweep(settings, home)
    assert "MLflow will be told later, training goes on" in capsys.readouterr().out
    studies = home / "studies" / settings.study
    before = {path: path.read_bytes() for path in studies.glob("trials/*/points.jsonl")}
    assert len(before) == 3
    assert not (studies / "summary.json").exists()
    done = Swept(settings, home, sweep.run_sweep(settings, home))
    assert before == {path: path.read_bytes() for path in studies.glob("trials/*/points.jsonl")}, "it trained again"
    assert done.summary.test.readings == 1
    assert {run.info.status for run in done.children()} == {"FINISHED"}
    assert len(done.children()) == 3
    test_curves_have_each_point_once(done)


@pytest.mark.slow
def test_a_study_database_that_goes_away_ends_the_sweep_and_loses_nothing(
    tmp_path: Path, tiny_model: Callable[[str], Path], swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    database = optuna.storages.RDBStorage
    tell, calls = database.set_trial_state_values, 0

    def locked(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= 2:
            raise optuna.exceptions.StorageInternalError("database is locked")
        return tell(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(database, "set_trial_state_values", locked)
        patched.setattr("hpsearch.coordinator.study.PATIENCE_SECONDS", 0.2)
        patched.setattr("hpsearch.coordinator.study.RETRY_SECONDS", 0.05)
        with pytest.raises(OutOfReachError, match=r"storage\.uri: the study database does not answer"):
            sweep.run_sweep(settings, home)
    done = Swept(settings, home, sweep.run_sweep(settings, home))
    test_study_state_folder_and_tracking_agree(done)
    test_curves_have_each_point_once(done)
    assert done.summary.best == swept.summary.best


def test_a_database_of_another_folder_is_refused(swept: Swept, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(swept.home / "optuna.db", other)  # it knows trials that the new folder does not
    with pytest.raises(RequestError, match="the study database alone knows of trials"):
        sweep.run_sweep(swept.settings, other)
    assert not list(other.glob("studies/*/trials"))
    (other / "optuna.db").unlink()
    shutil.copytree(swept.folder, other / "studies" / swept.settings.study, dirs_exist_ok=True)
    with pytest.raises(RequestError, match=r"the state folder .* alone knows of trials"):
        sweep.run_sweep(swept.settings, other)


def test_diverging_trials_end_with_exit_code_3(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    space = ["search.space.train.learning_rate.low=1e29", "search.space.train.learning_rate.high=1e30"]
    settings, home = request_of(tmp_path, tiny_model, *space, "train.max_grad_norm=1e30", "budget.max_trials=2")
    with pytest.raises(NoResultError, match=r"failed: .*(finite|nan|inf)"):
        sweep.run_sweep(settings, home)
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FAILED", "KILLED"}


@pytest.mark.slow
def test_interrupted_sweep_goes_on_to_the_result_of_an_uninterrupted_one(
    tmp_path: Path, tiny_model: Callable[[str], Path], swept: Swept
) -> None:
    """Ctrl-C in the middle of the search, then the same command again."""
    home = tmp_path / "home"
    request = tmp_path / "settings.json"
    request.write_text(swept.settings.model_dump_json())
    script = (
        "import json, sys; from pathlib import Path; from hpsearch import errors\n"
        "from hpsearch.config import loading; from hpsearch.coordinator import sweep\n"
        "if __name__ == '__main__':\n"
        "    try: sweep.run_sweep(loading.from_plain(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))\n"
        "    except errors.HpsearchError as error: print(error); sys.exit(error.exit_code)\n"
    )
    (tmp_path / "run.py").write_text(script)
    command = [sys.executable, str(tmp_path / "run.py"), str(request), str(home)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    study = home / "studies" / swept.settings.study
    deadline = time.monotonic() + 240
    while not (study / "trials" / "2" / "trial.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "same command" in output
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert "RUNNING" not in {run.info.status for run in runs}
    summary = sweep.run_sweep(swept.settings, home)
    assert summary.trials == Counts(complete=2, pruned=4, failed=0)
    again = Swept(swept.settings, home, summary)
    test_curves_have_each_point_once(again)
    first_six = {t.number: (t.params, t.rungs, t.step) for t in again.records()}
    assert summary.best == swept.summary.best
    assert summary.test.all == swept.summary.test.all
    assert len(first_six) == 6
