import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tiny
import tracked
from hpsearch import serving
from hpsearch.errors import RequestError
from hpsearch.settings import Settings
from hpsearch.tracking import Tracking
from make import compose_settings
from tracked import LABELS, data_ref

# isort: split
import mlflow

from hpsearch import served_model

TEXTS = [text for text, _ in tiny.sentences(5, seed=1)] + ["a good<br />film &amp; plot", "", "the " * 60 + "bad"]
Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return compose_settings("task.max_length=24")


@pytest.fixture(scope="module")
def logged(settings: Settings, tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home with a study whose winner is logged, the model's address, and the folder that it was made from."""
    home = tracked.new_home(tmp_path_factory.mktemp("home"))
    folder = sharpened("bert", tiny_model, tmp_path_factory.mktemp("winner"))
    tracking = Tracking(settings, home)
    ref = data_ref(home)
    parent = tracking.open_study(settings.study, settings, ref, {})
    trial = tracked.run_trial(tracking, parent, 0, settings)
    assert trial.run_id is not None
    uri = tracking.log_winner(trial.run_id, folder, settings, ref, TEXTS[:2])
    return SimpleNamespace(home=home, uri=uri, folder=folder, tracking=tracking, run_id=trial.run_id)


@pytest.fixture
def model(logged: Any) -> Any:
    mlflow.set_tracking_uri(logged.tracking.uri)
    return mlflow.pyfunc.load_model(logged.uri)


def sharpened(family: str, tiny_model: Models, folder: Path) -> Path:
    """A saved model as training leaves it, with weights large enough that texts differ in their scores."""
    source = tiny_model(family)
    tokenizer = AutoTokenizer.from_pretrained(source)
    net = AutoModelForSequenceClassification.from_pretrained(source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    net.config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def served(folder: Path, settings: Settings) -> served_model.TextClassifier:
    model = served_model.TextClassifier()
    config = serving.describe(settings, LABELS)
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}, model_config=config))
    return model


def one_by_one(folder: Path, texts: list[str], max_length: int) -> np.ndarray:
    """Probabilities without padding, by the tokenizer's own truncation, of texts that are clean already."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            rows.append(torch.softmax(net(input_ids=ids).logits[0].double(), dim=-1).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_predictions_are_those_of_the_model_alone(family: str, tiny_model: Models, tmp_path: Path) -> None:
    settings = compose_settings("task.max_length=24", "task.truncation=head", f"model.family={family}")
    folder = sharpened(family, tiny_model, tmp_path)
    texts = [text for text, _ in tiny.sentences(40, seed=2, longest=40)]
    found = served(folder, settings).predict(None, pd.DataFrame({"text": [f" {text}<br />" for text in texts]}))
    expected = one_by_one(folder, texts, 24)
    assert expected.std(axis=0).min() > 1e-3, "the model gives all texts the same score, so this test sees nothing"
    np.testing.assert_allclose([list(row.values()) for row in found["probabilities"]], expected, atol=1e-5)
    assert found["label"].tolist() == [LABELS[index] for index in expected.argmax(axis=1)]
    np.testing.assert_allclose(found["score"], expected.max(axis=1), atol=1e-5)


@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=60) | st.sampled_from(TEXTS), min_size=1, max_size=40), st.randoms())
def test_a_text_is_judged_alike_in_any_company(model: Any, texts: list[str], rng: Any) -> None:
    places = list(range(len(texts)))
    rng.shuffle(places)
    together = model.predict(texts)["score"].to_numpy()
    shuffled = model.predict([texts[place] for place in places])["score"].to_numpy()
    np.testing.assert_allclose(shuffled, together[places], atol=1e-5)


def test_a_list_and_a_column_give_the_same(model: Any) -> None:
    from_list = model.predict(TEXTS)
    from_frame = model.predict(pd.DataFrame({"text": TEXTS, "id": range(len(TEXTS))}))
    pd.testing.assert_frame_equal(from_list, from_frame)
    assert list(from_list.columns) == ["label", "score", "probabilities"]
    assert set(from_list["probabilities"][0]) == set(LABELS)
    assert model.predict(pd.DataFrame({"text": TEXTS[:2]}, index=[7, 9])).index.tolist() == [7, 9]


@pytest.mark.parametrize(
    ("given_input", "message"),
    [
        (pd.DataFrame({"id": ["1"], "text": ["good"]}), "first column is 'id'"),
        (pd.DataFrame({"review": ["good"]}), "first column is 'review'"),
        (pd.DataFrame({"text": [None, "good"]}, dtype=object), "row 0 is None"),
        (pd.DataFrame({"text": [3]}), "string"),
    ],
)
def test_a_wrong_input_is_named(given_input: pd.DataFrame, message: str, model: Any) -> None:
    with pytest.raises(mlflow.MlflowException, match=message):
        model.predict(given_input)


def test_the_logged_model_is_code_and_safetensors(logged: Any) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(logged.uri, tracking_uri=logged.tracking.uri))
    assert logged.home in folder.parents, "the model lies outside the state folder"
    suffixes = {path.suffix for path in folder.rglob("*")}
    assert not suffixes & {".pkl", ".pickle", ".bin", ".pt", ".pth"}
    assert ".safetensors" in suffixes
    info = mlflow.models.get_model_info(str(folder))
    assert info.signature is not None
    assert [column.name for column in info.signature.outputs] == ["label", "score", "probabilities"]
    assert json.loads((folder / "input_example.json").read_text()) == TEXTS[:2]
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", line) for line in requirements), requirements
    model = logged.tracking.client.get_logged_model(logged.uri.removeprefix("models:/"))
    assert model.experiment_id == logged.tracking.experiment_id
    assert model.source_run_id == logged.run_id
    assert logged.tracking.model_of(logged.run_id) == model.model_id


def test_it_loads_where_hpsearch_is_not_installed(logged: Any, model: Any, tmp_path: Path) -> None:
    code = f"""
import importlib.util, json, os, sys
sys.path = [entry for entry in sys.path if not os.path.isdir(os.path.join(entry, "hpsearch"))]  # of `pip install -e`
assert importlib.util.find_spec("hpsearch") is None
import mlflow
model = mlflow.pyfunc.load_model({logged.uri!r})
import hpsearch
assert hpsearch.__file__.startswith({str(logged.home)!r}), hpsearch.__file__
for module in ("optuna", "hydra"):
    assert module not in sys.modules, module
print(json.dumps(model.predict({TEXTS!r})["score"].tolist()))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {
        "MLFLOW_TRACKING_URI": logged.tracking.uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), model.predict(TEXTS)["score"], atol=1e-6)


def test_it_is_served_over_http(logged: Any, model: Any, tmp_path: Path) -> None:
    port = tracked.free_port()
    code = (
        "from hpsearch import serving; import mlflow; "
        f"mlflow.set_tracking_uri({logged.tracking.uri!r}); serving.serve({logged.uri!r}, {port})"
    )
    address = f"http://127.0.0.1:{port}"
    log = tmp_path / "log"
    with tracked.process(code, f"{address}/ping", log):
        answer = requests.post(f"{address}/invocations", json={"inputs": TEXTS}, timeout=30)
        records = requests.post(
            f"{address}/invocations", json={"dataframe_records": [{"text": text} for text in TEXTS]}, timeout=30
        )
        wrong = requests.post(f"{address}/invocations", json={"dataframe_records": [{"review": "x"}]}, timeout=30)
    assert answer.status_code == 200, answer.text
    expected = model.predict(TEXTS)
    predictions = answer.json()["predictions"]
    assert [row["label"] for row in predictions] == expected["label"].tolist()
    np.testing.assert_allclose([row["score"] for row in predictions], expected["score"], atol=1e-6)
    assert predictions[0]["probabilities"] == pytest.approx(expected["probabilities"][0])
    assert records.json() == answer.json()
    assert wrong.status_code == 400
    assert "'review'" in wrong.text
    assert f"curl {address}/invocations" in log.read_text()


ROWS = [{"id": str(number), "text": text} for number, text in enumerate([*TEXTS, "NA", "null", 'a,\n"good" film\t!'])]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("suffix", serving.FORMATS)
def test_a_file_is_labelled_row_for_row(
    suffix: str, logged: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ROWS", 4)  # so that the file takes several chunks
    source, destination = write(tmp_path / f"in{suffix}", ROWS), tmp_path / f"out{suffix}"
    assert serving.predict_file(logged.uri, source, destination, "text") == len(ROWS)
    expected = model.predict([row["text"] for row in ROWS])
    found = read(destination)
    assert [{"id": row["id"], "text": row["text"]} for row in found] == ROWS
    assert [row["label"] for row in found] == expected["label"].tolist()
    np.testing.assert_allclose([float(row["score"]) for row in found], expected["score"], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"in{suffix}", f"out{suffix}"]


@pytest.mark.parametrize("suffix", serving.FORMATS)
def test_labels_that_a_file_has_are_not_covered_up(suffix: str, logged: Any, model: Any, tmp_path: Path) -> None:
    source = write(tmp_path / f"in{suffix}", [{"review": "a good film", "label": "mine"}])
    serving.predict_file(logged.uri, source, tmp_path / f"out{suffix}", "review")
    (row,) = read(tmp_path / f"out{suffix}")
    assert row["label"] == "mine"
    assert row["predicted_label"] in LABELS
    assert "score" not in row
    write(source, [row])
    with pytest.raises(RequestError, match="has a column predicted_"):
        serving.predict_file(logged.uri, source, tmp_path / f"out{suffix}", "review")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_without_rows_gets_its_columns(suffix: str, logged: Any, model: Any, tmp_path: Path) -> None:
    source = write(tmp_path / f"in{suffix}", ROWS[:1])
    if suffix == ".csv":
        source.write_text("id,text\n")
    else:
        pq.write_table(pq.read_table(source)[:0], source)
    assert serving.predict_file(logged.uri, source, tmp_path / f"out{suffix}", "text") == 0
    if suffix == ".csv":
        assert (tmp_path / "out.csv").read_text().strip() == "id,text,label,score"
    else:
        assert pq.read_schema(tmp_path / "out.parquet").names == ["id", "text", "label", "score"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"id,review\n1,good\n", r"there is no column text; it has id, review"),
        ("in.csv", b"id,text\n1,good\n2,good,bad\n", r"in\.csv, line 3: 3 fields, but the header has 2"),
        ("in.csv", b"id,text\n1,good\n2\n", r"line 3: 1 fields, but the header has 2"),
        ("in.csv", b"text\n\xe9t\xe9\n", r"is not UTF-8"),
        ("in.csv", b"", r"there is no column text"),
        ("in.jsonl", b'{"text": "good"}\n{"text": \n', r"in\.jsonl, line 2: is not JSON"),
        ("in.jsonl", b'["good"]\n', r"line 1: is not an object"),
        ("in.jsonl", b'{"text": "good"}\n{"review": "good"}\n', r"there is no column text; it has review"),
        ("in.jsonl", b'{"text": null}\n', r"None in column text is not a text"),
        ("in.parquet", b"no parquet", r"can't be read as parquet"),
        ("in.xlsx", b"", r"its name must end in one of \.csv, \.tsv, \.jsonl, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_labelled_is_named_and_nothing_is_left(
    name: str, content: bytes, message: str, logged: Any, model: Any, tmp_path: Path
) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    destination = tmp_path / f"out{source.suffix}"
    destination.write_text("what was there before")
    with pytest.raises(RequestError, match=message):
        serving.predict_file(logged.uri, source, destination, "text")
    assert destination.read_text() == "what was there before"
    assert {path.name for path in tmp_path.iterdir()} == {name, destination.name}


def test_places_that_cannot_be_are_named(logged: Any, model: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", ROWS)
    with pytest.raises(RequestError, match="no such file"):
        serving.predict_file(logged.uri, tmp_path / "absent.csv", tmp_path / "out.csv", "text")
    with pytest.raises(RequestError, match="is the file to label"):
        serving.predict_file(logged.uri, source, source, "text")
    with pytest.raises(RequestError, match="there is no folder"):
        serving.predict_file(logged.uri, source, tmp_path / "absent" / "out.csv", "text")
    with pytest.raises(RequestError, match=r"let its name end in \.csv"):
        serving.predict_file(logged.uri, source, tmp_path / "out.jsonl", "text")
    with pytest.raises(RequestError, match=r"models:/nothing/1: no model can be loaded"):
        serving.predict_file("models:/nothing/1", source, tmp_path / "out.csv", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
