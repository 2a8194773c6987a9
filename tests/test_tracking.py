import importlib.util
import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

import gate_server
import tracked
from hpsearch.config.settings import Settings
from hpsearch.errors import OutOfReachError, RequestError, redact
from hpsearch.state.messages import Progress
from hpsearch.state.records import Status
from hpsearch.tracking import pictures, stores
from hpsearch.tracking.runs import Tracking
from hpsearch.tracking.ui import ui
from make import compose_settings
from tracked import LABELS, TAG, curve, data_ref, record


@pytest.fixture(scope="module")
def settings() -> Settings:
    return compose_settings("budget.max_trials=8")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tracked.new_home(tmp_path)


@pytest.fixture
def tracking(settings: Settings, home: Path) -> Tracking:
    return Tracking(settings, home)


@pytest.fixture
def parent(tracking: Tracking, settings: Settings, home: Path) -> str:
    return tracking.open_study(settings.study, "id", settings, data_ref(home), tracked.FACTS)


def history(tracking: Tracking, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in tracked.client(tracking).get_metric_history(run_id, key)]


def test_a_study_is_a_tree_of_runs_with_all_that_a_reader_needs(
    tracking: Tracking, settings: Settings, home: Path, parent: str
) -> None:
    trials = [tracked.run_trial(tracking, parent, number, settings) for number in range(2)]
    result = tracked.summary(settings, parent, trials[1], 0.85)
    tracked.finish(tracking, result, tracked.save_study(home, settings, trials, result))

    study = tracked.client(tracking).get_run(parent)
    assert study.info.status == "FINISHED"
    assert study.info.run_name == settings.study
    assert tracked.client(tracking).get_experiment(tracking.experiment_id).name == "hpsearch-imdb"
    assert study.data.params["train.scheduler"] == "linear"
    assert study.data.params["search.space.train.learning_rate.log"] == "True"
    assert study.data.tags["hpsearch.budget.max_trials"] == str(settings.budget.max_trials)
    assert study.data.tags["hpsearch.budget.hours"] == "0.25"
    assert study.data.tags["hpsearch.version.torch"].startswith("2.")
    assert study.data.tags["hpsearch.version.python"].startswith("3.")
    assert "hpsearch.data.note" not in study.data.tags
    assert study.data.metrics["test_accuracy"] == 0.85
    assert study.data.metrics["best_validation_accuracy"] == 0.81
    given = {one.tags[0].value: one.dataset.digest for one in study.inputs.dataset_inputs}
    assert given == data_ref(home).digests
    files = {file.path for file in tracked.client(tracking).list_artifacts(parent)}
    assert files >= {"settings.yaml", "report.html", "summary.json", "leaderboard.json", "plots"}

    child = tracked.client(tracking).get_run(trials[1].run_id)
    assert child.info.status == "FINISHED"
    assert child.info.run_name == "trial-1"
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert child.data.tags["hpsearch.status"] == "complete"
    assert child.data.params["train.learning_rate"] == "0.0002"
    assert child.data.params["optimizer.name"] == "AdamW"
    assert child.data.metrics["seconds_training"] == 2.0
    assert child.data.metrics["throughput"] == 5 * 16 / 2.0
    assert history(tracking, trials[1].run_id, "train_loss") == [(step, 1 / step) for step in range(1, 6)]
    for name in ("confusion_matrix.png", "learning_curves.png"):
        picture = matplotlib.image.imread(tracked.client(tracking).download_artifacts(trials[1].run_id, name))
        assert picture.std() > 0.01, "the picture is blank"


def test_artifacts_lie_in_the_state_folder_wherever_the_command_runs(
    settings: Settings, home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(home)
    tracking = Tracking(settings, Path())
    monkeypatch.chdir(elsewhere)
    parent = tracking.open_study(settings.study, "id", settings, data_ref(home), tracked.FACTS)
    tracked.client(tracking).log_text(parent, "x", "x.txt")
    assert list(home.glob("artifacts/**/x.txt"))
    assert not list(elsewhere.iterdir())


def test_a_trial_goes_on_in_its_run(tracking: Tracking, settings: Settings, parent: str) -> None:
    opened = record(3)
    run_id = tracking.open_trial(parent, opened, settings, TAG)
    tracking.points(run_id, curve(3)[:2])
    tracking.pause_trial(run_id)
    assert tracked.client(tracking).get_run(run_id).info.status == "SCHEDULED"

    elsewhere = compose_settings("train.evaluation_batch_size=7")  # as after an upgrade: another value of a parameter
    assert tracking.open_trial(parent, replace(opened, run_id=run_id), elsewhere, TAG) == run_id
    assert tracked.client(tracking).get_run(run_id).info.status == "RUNNING"
    assert tracked.client(tracking).get_run(run_id).data.params["train.evaluation_batch_size"] == "64"
    assert tracking.steps(run_id) == {"train_loss": [1, 2]}
    tracking.points(run_id, [point for point in curve(3) if point.step > 2])
    assert history(tracking, run_id, "train_loss") == [(step, 1 / step) for step in range(1, 6)]


def test_a_trial_whose_run_id_was_lost_is_found_by_its_number(
    tracking: Tracking, settings: Settings, parent: str
) -> None:
    run_id = tracking.open_trial(parent, record(1), settings, TAG)
    assert tracking.open_trial(parent, record(1), settings, TAG) == run_id
    assert tracking.open_trial(parent, record(2), settings, TAG) != run_id


@pytest.mark.parametrize("unknown", [False, True])
def test_a_trial_whose_run_is_gone_gets_a_new_one(
    unknown: bool, tracking: Tracking, settings: Settings, parent: str
) -> None:
    gone = tracking.open_trial(parent, record(1), settings, TAG)
    tracked.client(tracking).delete_run(gone)
    run_id = tracking.open_trial(parent, record(1, run_id="0" * 32 if unknown else gone), settings, TAG)
    assert run_id != gone
    assert tracking.steps(run_id) == {}


def test_a_study_goes_on_in_its_run_with_a_larger_budget(
    tracking: Tracking, settings: Settings, home: Path, parent: str
) -> None:
    result = tracked.summary(settings, parent, record(0, score=0.8, run_id="its run"), 0.8)
    folder = tracked.save_study(home, settings, [record(0, Status.PRUNED, score=0.8)], result)
    tracked.finish(tracking, result, folder)
    larger = compose_settings("budget.max_trials=99")
    assert tracking.open_study(settings.study, "id", larger, data_ref(home), tracked.FACTS) == parent
    run = tracked.client(tracking).get_run(parent)
    assert (run.info.status, run.data.tags["hpsearch.budget.max_trials"]) == ("RUNNING", "99")
    assert tracking.open_study("another", "id", larger, data_ref(home), tracked.FACTS) != parent

    tracked.save_study(home, settings, [record(0, Status.PRUNED, score=0.8), record(1, Status.PRUNED)], result)
    tracked.finish(tracking, result, folder)
    table = json.loads(Path(tracked.client(tracking).download_artifacts(parent, "leaderboard.json")).read_text())
    assert [row[table["columns"].index("trial")] for row in table["data"]] == [0, 1]
    assert len(history(tracking, parent, "test_accuracy")) == 1
    assert len(tracked.client(tracking).get_run(parent).inputs.dataset_inputs) == 3


@pytest.mark.parametrize(
    ("status", "shown", "tag"),
    [
        (Status.COMPLETE, "FINISHED", "complete"),
        (Status.PRUNED, "FINISHED", "pruned"),
        (Status.FAILED, "FAILED", "failed"),
    ],
)
def test_each_end_of_a_trial_is_terminal(
    status: Status, shown: str, tag: str, tracking: Tracking, settings: Settings, parent: str
) -> None:
    run_id = tracking.open_trial(parent, record(0), settings, TAG)
    ended = record(0, status, run_id=run_id, metrics={"validation_loss": 0.5}, reason="loss is nan at step 4")
    for _ in range(2):  # it is told again if the first time was cut off before it was noted
        tracking.finish_trial(ended, settings, LABELS, [], None)
    run = tracked.client(tracking).get_run(run_id)
    assert (run.info.status, run.data.tags["hpsearch.status"]) == (shown, tag)
    assert run.data.tags["hpsearch.reason"] == "loss is nan at step 4"
    assert run.info.end_time is not None
    assert len(history(tracking, run_id, "validation_loss")) == 1


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_never_sent(value: float, tracking: Tracking, settings: Settings, parent: str) -> None:
    run_id = tracking.open_trial(parent, record(0), settings, TAG)
    tracking.points(run_id, [Progress(0, 1, 2, {"train_loss": value, "learning_rate": 0.1})])
    tracking.finish_trial(
        record(0, Status.FAILED, run_id=run_id, metrics={"validation_loss": value}), settings, LABELS, [], None
    )
    assert tracked.client(tracking).get_run(run_id).data.metrics == {"learning_rate": 0.1}


def test_more_points_than_one_call_takes(tracking: Tracking, settings: Settings, parent: str) -> None:
    run_id = tracking.open_trial(parent, record(0), settings, TAG)
    tracking.points(run_id, [Progress(0, step, 1500, {"train_loss": float(step)}) for step in range(1500)])
    assert len(history(tracking, run_id, "train_loss")) == 1500


def test_an_interruption_ends_open_runs_only(tracking: Tracking, settings: Settings, home: Path, parent: str) -> None:
    done = tracked.run_trial(tracking, parent, 0, settings)
    running = tracking.open_trial(parent, record(1), settings, TAG)
    paused = tracking.open_trial(parent, record(2), settings, TAG)
    tracking.pause_trial(paused)
    other = tracking.open_study("another", "id", settings, data_ref(home), tracked.FACTS)
    tracking.interrupt_study(parent)
    statuses = {
        run_id: tracked.client(tracking).get_run(run_id).info.status for run_id in (parent, running, paused, other)
    }
    assert statuses == {parent: "KILLED", running: "KILLED", paused: "KILLED", other: "RUNNING"}
    assert tracked.client(tracking).get_run(done.run_id).info.status == "FINISHED"
    assert tracking.open_trial(parent, record(1, run_id=running), settings, TAG) == running
    assert tracked.client(tracking).get_run(running).info.status == "RUNNING"


def test_a_deleted_experiment_is_named_with_its_remedy(tracking: Tracking, settings: Settings, parent: str) -> None:
    tracked.client(tracking).delete_experiment(tracking.experiment_id)
    with pytest.raises(RequestError, match=r"hpsearch-imdb is deleted.*mlflow experiments restore"):
        tracking.open_study(settings.study, "id", settings, data_ref(Path()), tracked.FACTS)


def test_a_study_of_another_folder_is_not_gone_on_with(
    tracking: Tracking, settings: Settings, home: Path, parent: str
) -> None:
    said = rf"study={settings.study}: MLflow .* begun in another state folder \(run {parent}\); give STUDY="
    for study_id in ("other", None):  # None: the folder is gone
        with pytest.raises(RequestError, match=said):
            tracking.check_owner(settings.study, study_id)
    with pytest.raises(RequestError, match=said):
        tracking.open_study(settings.study, "other", settings, data_ref(home), tracked.FACTS)
    tracking.check_owner(settings.study, "id")
    tracking.check_owner("another", None)


def test_no_secret_reaches_a_run(home: Path) -> None:
    secret = compose_settings("storage.uri='postgresql://ann:s3cret@db/optuna?sslpassword=s3cret'")
    tracking = Tracking(secret, home)
    parent = tracking.open_study(secret.study, "id", secret, data_ref(home), tracked.FACTS)
    run = tracked.client(tracking).get_run(parent)
    text = Path(tracked.client(tracking).download_artifacts(parent, "settings.yaml")).read_text()
    assert "postgresql://***@db/optuna" in text
    assert "s3cret" not in text + str(run.data.params) + str(run.data.tags)


HARMLESS = st.text("abcXYZ019-_.", min_size=1, max_size=12)


@given(HARMLESS, st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=8), HARMLESS, HARMLESS)
def test_redact_hides_the_password_and_nothing_else(user: str, password: str, host: str, words: str) -> None:
    shown = redact(f"{words} postgresql://{user}:{password}@{host}/db {words}")
    assert shown == f"{words} postgresql://***@{host}/db {words}"


def test_redact_hides_what_lets_one_into_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret-token")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a")  # a word would lose its letters
    assert redact("s3cret-token, authorization: Basic YW5uOg== a basic one") == (
        "***, authorization: Basic *** a basic one"
    )


def test_redact_leaves_plain_addresses_alone() -> None:
    assert redact("see http://127.0.0.1:5000/#/experiments/1") == "see http://127.0.0.1:5000/#/experiments/1"
    assert redact("http://h/p?token=abc&x=1") == "http://h/p?token=***&x=1"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "uri", ["http://ann:s3cret@127.0.0.1:{closed}", "http://ann:s3cret@127.0.0.1:{silent}", "sqlite:///{garbage}"]
)
def test_a_store_out_of_reach_is_told_within_seconds(
    uri: str, tmp_path: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "KNOCK_SECONDS", 0.5)
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"this is no database" * 100)
    uri = uri.format(closed=tracked.free_port(), silent=silent_port, garbage=garbage)
    start = time.monotonic()
    with pytest.raises(OutOfReachError, match=r"tracking\.uri=.*does not answer.*leave tracking\.uri out") as caught:
        Tracking(compose_settings(f"tracking.uri='{uri}'"), tmp_path)
    assert time.monotonic() - start < 5
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "ftp://host/x", "databricks"])
def test_an_address_of_another_kind_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"tracking\.uri=.*give the address of an MLflow server"):
        Tracking(compose_settings(f"tracking.uri='{uri}'"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_relative_database_is_taken_from_the_working_directory(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert Tracking(compose_settings("tracking.uri='sqlite:///mlflow.db'"), home).uri == f"sqlite:///{home}/mlflow.db"


def test_a_wrong_call_is_not_taken_for_a_silent_store(tracking: Tracking) -> None:
    with pytest.raises(MlflowException, match="not found"):
        tracking.points("0" * 32, [Progress(0, 1, 2, {"train_loss": 1.0})])


def server(home: Path, port: int) -> str:
    return (
        "from hpsearch.serving import mlflow_process; "
        f"mlflow_process.serve(['server', '--artifacts-destination', r'{home}/served'], {port}, "
        f"{{'MLFLOW_BACKEND_STORE_URI': r'sqlite:///{home}/mlflow.db'}})"
    )


def test_a_signal_ends_a_server_with_all_its_processes(home: Path) -> None:
    port = tracked.free_port()
    with tracked.process(server(home, port), f"http://127.0.0.1:{port}/health", home / "server.log") as pid:
        started = psutil.Process(pid).children(recursive=True)
        assert len(started) > 1
        os.kill(pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(started, timeout=20)
        assert alive == []


def test_a_real_server_takes_all_of_it_and_its_loss_is_told(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = tracked.free_port()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with (
        tracked.process(server(home, port), f"http://127.0.0.1:{port}/health", home / "server.log") as pid,
        gate_server.gate(f"http://127.0.0.1:{port}") as before,
    ):
        remote = compose_settings(f"tracking.uri='{before.address}'")
        tracking = Tracking(remote, home / "client")
        parent = tracking.open_study(remote.study, "id", remote, data_ref(home), tracked.FACTS)
        trial = tracked.run_trial(tracking, parent, 0, remote)
        assert trial.run_id is not None
        assert max(tracking.steps(trial.run_id)["train_loss"]) == 5
        result = tracked.summary(remote, parent, trial, 0.9)
        tracked.finish(tracking, result, tracked.save_study(home / "client", remote, [trial], result))
        assert list((home / "served").glob("**/confusion_matrix.png"))
        assert tracking.kept(remote.study) is not None
        for before.answer in gate_server.REFUSALS:
            for call in (lambda: tracking.points(trial.run_id, curve(0)), lambda: tracking.files.names(parent)):
                with pytest.raises(OutOfReachError, match=r"tracking\.uri=http://127") as caught:
                    call()
                named = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
                assert named in str(caught.value) or before.answer not in gate_server.DENIALS
        before.answer = None
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # the server goes in its own time
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                break
            time.sleep(0.1)
        start = time.monotonic()
        with pytest.raises(OutOfReachError, match="does not answer"):
            tracking.points(trial.run_id, curve(0))
        assert time.monotonic() - start < 15


@pytest.mark.parametrize("answer", gate_server.REFUSALS, ids=lambda answer: f"{answer.status} {answer.body[:9]}")
def test_a_server_that_refuses_is_told_at_once_with_what_to_set(
    answer: gate_server.Answer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret-token")
    with gate_server.gate(answer=answer) as server:
        start = time.monotonic()
        with pytest.raises(OutOfReachError) as caught:
            Tracking(compose_settings(f"tracking.uri='{server.address}'"), home)
    said = str(caught.value)
    assert said.startswith(f"tracking.uri={server.address}: ")
    assert ("MLFLOW_TRACKING_TOKEN" in said) == (answer in gate_server.DENIALS or gate_server.PAGE in answer.body)
    assert ("not let you in" in said) == (answer in gate_server.DENIALS)
    assert not {"s3cret", "YW5uOnMzY3JldA"} & set(re.split(r"[^\w]", said))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        pytest.param(
            "s3://bucket/x",
            RequestError,
            r"tracking\.uri=.*needs the Python package boto3, which is not installed; install it, or start the server",
            marks=pytest.mark.skipif(importlib.util.find_spec("boto3") is not None, reason="boto3 is installed"),
        ),
        (
            "ftp://127.0.0.1:1/x",
            OutOfReachError,
            r"tracking\.uri=.*does not take or give them \(ConnectionRefusedError",
        ),
    ],
)
def test_a_place_for_files_that_takes_none_is_told_before_the_first_trial(
    place: str, error: type[Exception], message: str, tracking: Tracking, settings: Settings, home: Path
) -> None:
    experiment = tracked.client(tracking).create_experiment(tracking.experiment_name, artifact_location=place)
    for _ in range(2):  # a study is begun, and gone on with
        with pytest.raises(error, match=message):
            tracking.open_study(settings.study, "id", settings, data_ref(home), tracked.FACTS)
        [run] = tracked.client(tracking).search_runs([experiment])
        assert run.info.status == "KILLED"


def test_the_ui_names_a_taken_port(home: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RequestError, match=r"port \d+ of 127.0.0.1 can't be used"):
            ui(settings, home, taken.getsockname()[1])


def test_mlflow_is_imported_quietly_without_telemetry_pickle_and_jobs() -> None:
    code = """
from hpsearch.serving import mlflow_process
import mlflow
from mlflow.telemetry import client
assert client._MLFLOW_TELEMETRY_CLIENT is None
assert not mlflow.environment_variables.MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get()
assert not mlflow.environment_variables.MLFLOW_SERVER_ENABLE_JOB_EXECUTION.get()
assert mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 7
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYTEST"))}
    environment = clean | {"PYTHONPATH": str(tracked.SOURCE), "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}  # the user's wins
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    # A module that has MLflow imported by itself, before ours.
    command = [
        sys.executable,
        "-c",
        code.replace("from hpsearch.serving import mlflow_process", "import hpsearch.tracking.stores"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_confusion_matrix_that_nobody_can_read_is_not_drawn(tmp_path: Path) -> None:
    settings, labels = compose_settings(), tuple(f"class {i}" for i in range(26))
    tracking = Tracking(settings, tracked.new_home(tmp_path))
    parent = tracking.open_study(settings.study, "id", settings, data_ref(tmp_path), tracked.FACTS)
    for number, count in enumerate((25, 26)):
        done = replace(record(number), status=Status.COMPLETE, confusion=((1,) * count,) * count)
        done = replace(done, run_id=tracking.open_trial(parent, done, settings, TAG))
        assert done.run_id is not None
        tracking.finish_trial(done, settings, labels[:count], curve(number), None)
        drawn = {file.path for file in tracked.client(tracking).list_artifacts(done.run_id)}
        assert ("confusion_matrix.png" in drawn) == (count == 25)


def test_pictures_hold_the_figures() -> None:
    matrix = pictures.confusion_matrix(((1234, 0), (3, 4)), ("no", "yes"))
    assert {text.get_text() for text in matrix.axes[0].texts} == {"1,234", "0", "3", "4"}
    assert [label.get_text() for label in matrix.axes[0].get_yticklabels()] == ["no", "yes"]
    prices = pictures.confusion_matrix(((1, 0), (0, 1)), ("$", "$5 #1 $$10"))  # no formulas
    prices.savefig(io.BytesIO())
    curves = pictures.learning_curves(curve(0))
    assert curves is not None
    assert [panel.get_title() for panel in curves.axes] == ["loss", "scores"]
    assert pictures.learning_curves([]) is None


def test_what_is_too_long_for_mlflow_is_cut_without_its_warning(
    tracking: Tracking, settings: Settings, parent: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`settings.yaml` and the state folder have the whole."""
    longest = settings.model.model_copy(update={"license": "x" * 9000})
    failed = record(1, Status.FAILED, reason="y" * 9000)
    run_id = tracking.open_trial(parent, failed, settings.model_copy(update={"model": longest}), TAG)
    tracking.finish_trial(replace(failed, run_id=run_id), settings, LABELS, [], None)
    run = tracked.client(tracking).get_run(run_id)
    assert run.data.params["model.license"] == "x" * 6000
    assert run.data.tags["hpsearch.reason"] == "y" * 8000
    assert "truncated" not in caplog.text
