import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

import tiny
import tracked
from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError
from hpsearch.serving import loading, packaging
from hpsearch.serving.appending import SUFFIXES
from hpsearch.serving.inference import Inference
from hpsearch.tasks.kinds import KINDS
from hpsearch.tracking.runs import Tracking
from make import compose_settings
from tracked import LABELS, data_ref

# isort: split
import mlflow

from hpsearch.serving import served_classifier, served_reader

TEXTS = [text for text, _ in tiny.sentences(5, seed=1)] + ["a good<br />film &amp; plot", "", "the " * 60 + "bad"]
ASKED = pd.DataFrame(tiny.questions(24, seed=3, longest=14))[["question", "context"]]  # each is one window
LONG = pd.DataFrame(tiny.questions(12, seed=4, longest=90))[["question", "context"]]
TOPICS = ("blame", "metal", "praise")
LABELLED = [row["text"] for row in tiny.labelled(40, seed=2)]
CARD = "# hpsearch-toy\n\nA card.\n"
KIND_OF = {"text": "text_classification", "topics": "multilabel_classification", "reader": "question_answering"}
TEXT = ("text_classification", {"text": "text"}, "auto")  # of predict_file
Models = Callable[[str], Path]


def reading(*overrides: str) -> Settings:
    files = ("task=qa_files", "task.name=toy", "task.files.train=none.json")
    return compose_settings(*files, "task.max_length=32", "task.stride=8", "task.longest_answer=3", *overrides)


SETTINGS = {
    "text": compose_settings("task.max_length=24"),
    "topics": compose_settings("task=multilabel", "task.name=toy", "task.files.train=none.csv", "task.max_length=24"),
    "reader": reading(),
}


@dataclass(frozen=True)
class Logged:
    """A winner in the store."""

    home: Path
    tracking: Tracking
    run_id: str
    uri: str
    folder: Path
    """That the model was made from."""

    def load(self) -> Any:
        mlflow.set_tracking_uri(self.tracking.uri)
        return mlflow.pyfunc.load_model(self.uri)


def halving_thresholds(folder: Path) -> dict[str, Any]:
    """Thresholds that give each label to half of the toy texts."""
    found = served(folder, SETTINGS["topics"], TOPICS, {"thresholds": [0.5] * 3}).predict(None, texts_of(LABELLED))
    return {"thresholds": [float(np.median([row[topic] for row in found["probabilities"]])) for topic in TOPICS]}


def halving_threshold(folder: Path) -> dict[str, Any]:
    """The threshold that leaves half of the short questions unanswered."""
    return {"no_answer_threshold": float(np.median([null - best for null, best, _ in by_hand(folder, ASKED)]))}


FITTED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "text": lambda _: {},
    "topics": halving_thresholds,
    "reader": halving_threshold,
}


def texts_of(texts: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"text": texts})


@pytest.fixture(scope="module")
def winners(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Logged]:
    """A home with a winner of each task kind."""
    home = tracked.new_home(tmp_path_factory.mktemp("home"))
    examples = {"text": {"text": TEXTS[:2]}, "topics": {"text": TEXTS[:2]}, "reader": ASKED[:2].to_dict("list")}
    found = {}
    for number, (name, settings) in enumerate(SETTINGS.items()):
        labels: tuple[str, ...] = {"text": LABELS, "topics": TOPICS, "reader": ()}[name]
        folder = sharpened("bert", tiny_model, tmp_path_factory.mktemp(name), KIND_OF[name], len(labels))
        tracking = Tracking(settings, home)
        ref = replace(data_ref(home), labels=labels)
        trial = tracked.run_trial(
            tracking, tracking.open_study(name, "id", settings, ref, tracked.FACTS), number, settings
        )
        assert trial.run_id is not None
        winner = replace(trial, fitted=FITTED[name](folder))
        uri = tracking.log_winner(winner, folder, settings, ref, examples[name], CARD)
        found[name] = Logged(home, tracking, trial.run_id, uri, folder)
    return found


@pytest.fixture(scope="module")
def logged(winners: dict[str, Logged]) -> Logged:
    return winners["text"]


@pytest.fixture
def model(logged: Logged) -> Any:
    return logged.load()


@pytest.fixture
def topics(winners: dict[str, Logged]) -> Any:
    return winners["topics"].load()


@pytest.fixture
def reader(winners: dict[str, Logged]) -> Any:
    return winners["reader"].load()


def sharpened(
    family: str, tiny_model: Models, folder: Path, kind: str = "text_classification", classes: int = 2
) -> Path:
    """A saved model as training leaves it, with weights large enough that inputs differ in their scores."""
    source = tiny_model(family)
    tokenizer = AutoTokenizer.from_pretrained(source)
    head = AutoModelForQuestionAnswering if kind == "question_answering" else AutoModelForSequenceClassification
    net = head.from_pretrained(source, num_labels=classes or 2, ignore_mismatched_sizes=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    net.config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def served(folder: Path, settings: Settings, labels: tuple[str, ...], fitted: dict[str, Any]) -> Any:
    """The model that MLflow would load, without MLflow."""
    reads = settings.task.kind == "question_answering"
    model = served_reader.Reader() if reads else served_classifier.TextClassifier()
    config = packaging.describe(settings, labels, fitted)
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
    found = served(folder, settings, LABELS, {}).predict(
        None, pd.DataFrame({"text": [f" {text}<br />" for text in texts]})
    )
    expected = one_by_one(folder, texts, 24)
    assert expected.std(axis=0).min() > 1e-3, "the model gives all texts the same score, so this test sees nothing"
    np.testing.assert_allclose([list(row.values()) for row in found["probabilities"]], expected, atol=1e-5)
    assert found["label"].tolist() == [LABELS[index] for index in expected.argmax(axis=1)]
    np.testing.assert_allclose(found["score"], expected.max(axis=1), atol=1e-5)


def test_labels_are_those_whose_threshold_is_reached(winners: dict[str, Logged], topics: Any) -> None:
    folder = winners["topics"].folder
    thresholds = dict(zip(TOPICS, halving_thresholds(folder)["thresholds"], strict=True))
    found = topics.predict(LABELLED)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for text, row in zip(LABELLED, found.to_dict("records"), strict=True):
        with torch.no_grad():
            logits = net(**tokenizer(text, truncation=True, max_length=24, return_tensors="pt")).logits[0].double()
        expected = dict(zip(TOPICS, torch.sigmoid(logits).tolist(), strict=True))
        assert row["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert row["labels"] == [topic for topic in TOPICS if row["probabilities"][topic] >= thresholds[topic]]
        assert row["scores"] == [row["probabilities"][topic] for topic in row["labels"]]
    for topic in TOPICS:
        assert sum(topic in labels for labels in found["labels"]) == len(LABELLED) / 2
    assert [] in found["labels"].tolist()


def spans_by_hand(folder: Path, question: str, context: str, longest: int) -> tuple[float, float, str]:
    """Score of "no answer", score and text of the best answer, by looking at every span of a context that fits."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    pair = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
    offsets, part = pair.pop("offset_mapping")[0].tolist(), pair.sequence_ids(0)
    null = 0
    if all(which is not None for which in part):  # GPT-2: an end-of-text token stands between and at the end
        end = tokenizer.eos_token_id
        asked = [i for i, which in zip(pair["input_ids"][0].tolist(), part, strict=True) if which == 0]
        read = [i for i, which in zip(pair["input_ids"][0].tolist(), part, strict=True) if which == 1]
        ids = [*asked, end, *read, end]
        pair = {"input_ids": torch.tensor([ids])}
        offsets = [*offsets[: len(asked)], (0, 0), *offsets[len(asked) :], (0, 0)]
        part, null = [*[0] * len(asked), None, *[1] * len(read), None], len(ids) - 1
    with torch.no_grad():
        output = net(**pair)
    start, end_logits = output.start_logits[0].double().tolist(), output.end_logits[0].double().tolist()
    spans = [
        (start[i] + end_logits[j], context[offsets[i][0] : offsets[j][1]].strip())
        for i in range(len(part))
        for j in range(i, min(len(part), i + longest))
        if part[i] == part[j] == 1
    ]
    return start[null] + end_logits[null], *max(spans)


def by_hand(folder: Path, asked: pd.DataFrame, longest: int = 3) -> list[tuple[float, float, str]]:
    pairs = zip(asked["question"], asked["context"], strict=True)
    return [spans_by_hand(folder, question, context, longest) for question, context in pairs]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_answers_are_those_of_the_model_alone(family: str, tiny_model: Models, tmp_path: Path) -> None:
    folder = sharpened(family, tiny_model, tmp_path, "question_answering")
    expected = by_hand(folder, ASKED)
    margins = [null - score for null, score, _ in expected]
    fitted = halving_threshold(folder)
    found = served(folder, reading(f"model.family={family}"), (), fitted).predict(None, ASKED)
    assert found["best_answer"].tolist() == [answer for _, _, answer in expected]
    assert found["no_answer"].tolist() == [margin > fitted["no_answer_threshold"] for margin in margins]
    assert found["no_answer"].sum() == 12
    assert len(set(found["answer"])) > 3, "the model says the same of all contexts, so this test sees nothing"


@pytest.mark.parametrize(("threshold", "silent"), [(None, 0), (1e6, 0), (-1e6, len(ASKED))])
def test_the_threshold_decides_what_is_not_answered(
    threshold: float | None, silent: int, winners: dict[str, Logged]
) -> None:
    found = served(winners["reader"].folder, reading(), (), {"no_answer_threshold": threshold}).predict(None, ASKED)
    assert found["no_answer"].sum() == silent
    assert (found["answer"] == "").sum() == silent
    assert all(found["best_answer"] != "")


def check_places(found: pd.DataFrame, contexts: list[str]) -> None:
    assert found.dtypes[["score", "begin", "end", "no_answer"]].astype(str).tolist() == [
        "float64",
        "int64",
        "int64",
        "bool",
    ]
    for row, context in zip(found.to_dict("records"), contexts, strict=True):
        assert 0 < row["score"] <= 1
        if row["no_answer"]:
            assert (row["answer"], row["begin"], row["end"]) == ("", -1, -1)
            assert row["best_answer"] in context
        else:
            assert row["answer"] == row["best_answer"] == context[row["begin"] : row["end"]]
            assert row["answer"].strip() == row["answer"] != ""


def test_answers_stand_at_their_places_in_long_contexts_too(reader: Any) -> None:
    check_places(reader.predict(ASKED), ASKED["context"].tolist())
    assert set(reader.predict(ASKED)["no_answer"]) == {True, False}, "both are seen"
    found = reader.predict(LONG)
    check_places(found, LONG["context"].tolist())
    tokens = reader.unwrap_python_model().inference.tokenizer(LONG["context"].tolist())["input_ids"]
    assert max(map(len, tokens)) > 64
    assert found["begin"].max() > 200, "an answer stands where the first window does not reach"


CONTEXTS = (st.text(max_size=200) | st.sampled_from(LONG["context"].tolist())).filter(str.strip)


@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(tiny.ASKED)), CONTEXTS),
        min_size=1,
        max_size=20,
    ),
    st.randoms(),
)
def test_a_question_is_answered_alike_in_any_company(reader: Any, pairs: list[tuple[str, str]], rng: Any) -> None:
    asked = pd.DataFrame(pairs, columns=["question", "context"])
    places = list(range(len(pairs)))
    rng.shuffle(places)
    together, shuffled = reader.predict(asked), reader.predict(asked.iloc[places])
    assert shuffled.index.tolist() == places
    check_places(together, asked["context"].tolist())
    np.testing.assert_allclose(shuffled["score"], together["score"].iloc[places], atol=1e-5)


@pytest.mark.parametrize(
    ("given_input", "message"),
    [
        (pd.DataFrame({"question": ["which?"]}), "missing inputs \\['context'\\]"),
        (pd.DataFrame({"query": ["which?"], "context": ["a film"]}), "missing inputs \\['question'\\]"),
        (pd.DataFrame({"question": ["which?", " "], "context": ["a film"] * 2}), "row 1 of question is ' '"),
        (pd.DataFrame({"question": ["which?"], "context": [None]}, dtype=object), "row 0 of context is None"),
        (pd.DataFrame({"question": ["which?"], "context": [3]}), "string"),
    ],
)
def test_a_wrong_question_is_named(given_input: pd.DataFrame, message: str, reader: Any) -> None:
    with pytest.raises(mlflow.MlflowException, match=message):
        reader.predict(given_input)


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


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("text", ["label", "score", "probabilities"]),
        ("topics", ["labels", "scores", "probabilities"]),
        ("reader", ["answer", "score", "begin", "end", "no_answer", "best_answer"]),
    ],
)
def test_the_logged_model_is_code_and_safetensors(name: str, columns: list[str], winners: dict[str, Logged]) -> None:
    logged = winners[name]
    folder = Path(mlflow.artifacts.download_artifacts(logged.uri, tracking_uri=logged.tracking.uri))
    assert logged.home in folder.parents, "the model lies outside the state folder"
    suffixes = {path.suffix for path in folder.rglob("*")}
    assert not suffixes & {".pkl", ".pickle", ".bin", ".pt", ".pth"}
    assert ".safetensors" in suffixes
    assert (folder / "artifacts" / "README.md").read_text(encoding="utf-8") == CARD
    info = mlflow.models.get_model_info(str(folder))
    assert info.signature is not None
    assert [column.name for column in info.signature.outputs] == columns
    example = json.loads((folder / "input_example.json").read_text())
    assert example == (ASKED[:2].to_dict("records") if name == "reader" else TEXTS[:2])
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", line) for line in requirements), requirements
    model = tracked.client(logged.tracking).get_logged_model(logged.uri.removeprefix("models:/"))
    assert model.experiment_id == logged.tracking.experiment_id
    assert model.source_run_id == logged.run_id
    assert logged.tracking.model_of(logged.run_id) == model.model_id


@pytest.mark.parametrize("name", ["text", "reader"])
def test_it_runs_with_its_own_code_where_hpsearch_is_imported(name: str, winners: dict[str, Logged]) -> None:
    path, ours = list(sys.path), {key: module for key, module in sys.modules.items() if key.startswith("hpsearch")}
    assert len(ours) > 20
    mlflow.set_tracking_uri(winners[name].tracking.uri)
    model = loading.load(winners[name].uri)
    assert model.predict(ASKED if name == "reader" else TEXTS)["score"].between(0, 1).all()
    used = vars(sys.modules[type(model.unwrap_python_model()).__module__])
    sent = [value for value in used.values() if getattr(value, "__module__", "").startswith("hpsearch.")]
    assert len(sent) >= 2
    for thing in sent:
        method = thing.__init__ if isinstance(thing, type) else thing
        assert method.__code__.co_filename.startswith(str(winners[name].home)), thing
    assert {key: module for key, module in sys.modules.items() if key.startswith("hpsearch")} == ours
    assert sys.path == path


@pytest.mark.parametrize("name", ["text", "reader"])
def test_it_loads_where_hpsearch_is_not_installed(name: str, winners: dict[str, Logged], tmp_path: Path) -> None:
    logged = winners[name]
    given_input = ASKED if name == "reader" else pd.DataFrame({"text": TEXTS})
    code = f"""
import importlib.util, json, os, sys
sys.path = [entry for entry in sys.path if not os.path.isdir(os.path.join(entry, "hpsearch"))]  # of `pip install -e`
assert importlib.util.find_spec("hpsearch") is None
import mlflow
model = mlflow.pyfunc.load_model({logged.uri!r})
import hpsearch
assert hpsearch.__file__.startswith({str(logged.home)!r}), hpsearch.__file__
for module in ("optuna", "hydra", "datasets"):
    assert module not in sys.modules, module
import pandas
print(json.dumps(model.predict(pandas.DataFrame({given_input.to_dict("list")!r}))["score"].tolist()))
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
    np.testing.assert_allclose(json.loads(done.stdout), logged.load().predict(given_input)["score"], atol=1e-6)


@pytest.mark.slow
def test_it_is_served_over_http(logged: Logged, model: Any, tmp_path: Path) -> None:
    port = tracked.free_port()
    code = (
        "from hpsearch.serving import packaging; import mlflow; "
        f"mlflow.set_tracking_uri({logged.tracking.uri!r}); packaging.serve({logged.uri!r}, {port}, {TEXT[0]!r})"
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


@pytest.mark.slow
def test_a_reader_is_served_over_http(winners: dict[str, Logged], reader: Any, tmp_path: Path) -> None:
    logged, port = winners["reader"], tracked.free_port()
    code = (
        "from hpsearch.serving import packaging; import mlflow; "
        f"mlflow.set_tracking_uri({logged.tracking.uri!r}); "
        f"packaging.serve({logged.uri!r}, {port}, 'question_answering')"
    )
    address, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    folder = Path(mlflow.artifacts.download_artifacts(logged.uri, tracking_uri=logged.tracking.uri))
    bodies = {
        "records": {"dataframe_records": LONG.to_dict("records")},
        "inputs": {"inputs": LONG.to_dict("list")},
        "the example shown": KINDS["question_answering"].product.example,
        "the example logged": json.loads((folder / "serving_input_example.json").read_text()),
        "no context": {"dataframe_records": [{"question": "which?"}]},
    }
    with tracked.process(code, f"{address}/ping", log):
        answers = {
            name: requests.post(f"{address}/invocations", json=body, timeout=30) for name, body in bodies.items()
        }
    wrong = answers.pop("no context")
    assert wrong.status_code == 400
    assert "'context'" in wrong.text
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 200)
    expected = reader.predict(LONG).to_dict("records")
    for name in ("records", "inputs"):
        for row, there in zip(answers[name].json()["predictions"], expected, strict=True):
            assert row.pop("score") == pytest.approx(there["score"], abs=1e-6)
            assert row == {key: value for key, value in there.items() if key != "score"}
    logged_example = [row["answer"] for row in answers["the example logged"].json()["predictions"]]
    assert logged_example == reader.predict(ASKED[:2])["answer"].tolist()
    assert json.dumps(bodies["the example shown"]) in log.read_text()


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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_labelled_row_for_row(
    suffix: str, logged: Logged, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "ROWS", 4)  # so that the file takes several chunks
    source, destination = write(tmp_path / f"in{suffix}", ROWS), tmp_path / f"out{suffix}"
    assert packaging.predict_file(logged.uri, source, destination, *TEXT) == len(ROWS)
    expected = model.predict([row["text"] for row in ROWS])
    found = read(destination)
    assert [{"id": row["id"], "text": row["text"]} for row in found] == ROWS
    assert [row["label"] for row in found] == expected["label"].tolist()
    np.testing.assert_allclose([float(row["score"]) for row in found], expected["score"], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"in{suffix}", f"out{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_questions_of_a_file_are_answered_row_for_row(
    suffix: str, winners: dict[str, Logged], reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = pd.concat([ASKED, LONG], ignore_index=True)
    rows = [{"q": row["question"], "id": str(i), "passage": row["context"]} for i, row in both.iterrows()]
    source, destination = write(tmp_path / f"in{suffix}", rows), tmp_path / f"out{suffix}"
    columns = {"question": "q", "context": "passage"}
    uri, kind = winners["reader"].uri, "question_answering"
    assert packaging.predict_file(uri, source, destination, kind, columns, "auto") == len(rows)
    at_once = read(destination)
    monkeypatch.setattr(packaging, "ROWS", 5)
    packaging.predict_file(uri, source, destination, kind, columns, "auto")
    expected = reader.predict(both)
    for found in (at_once, read(destination)):
        assert list(found[0]) == ["q", "id", "passage", "answer", "score", "begin", "end", "no_answer"]
        assert [{name: row[name] for name in rows[0]} for row in found] == rows
        for name in ("answer", "begin", "end", "no_answer"):
            values = expected[name].tolist()
            assert [row[name] for row in found] == (values if suffix in TYPED else [str(value) for value in values])
        np.testing.assert_allclose([float(row["score"]) for row in found], expected["score"], atol=1e-5)


# Names that repeat, numbers as they are written, halves of characters, bytes that are no UTF-8: nobody reads them.
AS_THEY_STAND: dict[str, bytes] = {
    "csv": b'id,note,text,note\r\n01,"a\nb, ""c""",a good film,caf\xe9\r\n2,,a film,\r\n',
    "tsv": b"id\tnote\ttext\tnote\r\n01\t1e0\ta good film\tcaf\xe9\r\n2\t\ta film\t\r\n",
    "jsonl": b'{"id": 1.0, "note": "\\ud83d", "text": "a good film", "note": 1E400}\n'
    b'{"id":1e2,"text":"a film","x":"caf\xe9 \xe2\x80\xa8 \\u00e9"}\n',
}


@pytest.mark.parametrize("suffix", AS_THEY_STAND)
def test_what_a_file_has_comes_out_as_it_went_in(
    suffix: str, logged: Logged, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "ROWS", 1)
    source, destination = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    source.write_bytes(AS_THEY_STAND[suffix])
    assert packaging.predict_file(logged.uri, source, destination, *TEXT) == 2
    labels = model.predict(["a good film", "a film"])["label"].tolist()
    before, after = source.read_text("latin-1"), destination.read_text("latin-1")
    if suffix == "jsonl":
        for old, new, label in zip(before.splitlines(), after.splitlines(), labels, strict=True):
            assert new.startswith(f'{old[:-1]}, "label": "{label}", "score": ')
        return
    tables = [list(csv.reader(text.splitlines(True), delimiter=DELIMITER[suffix])) for text in (before, after)]
    assert [row[:-2] for row in tables[1]] == tables[0]
    assert [row[-2] for row in tables[1]] == ["label", *labels]


DELIMITER = {"csv": ",", "tsv": "\t"}


def test_columns_of_parquet_that_are_not_read_keep_their_types_and_bytes(
    logged: Logged, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "ROWS", 1)
    arrays = [
        pa.array([b"x", b"caf\xe9"]).view(pa.string()),
        pa.array(["a good film", "a film"]),
        pa.array([1, None], pa.timestamp("ns", "UTC")),
        pa.array(["m", "n"]).dictionary_encode(),
        pa.array([[("k", 1), ("k", 2)], None], pa.map_(pa.string(), pa.int8())),
    ]
    table = pa.Table.from_arrays(arrays, names=["note", "text", "note", "kind", "map"]).replace_schema_metadata(
        {"a": "b"}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    packaging.predict_file(logged.uri, tmp_path / "in.parquet", tmp_path / "out.parquet", *TEXT)
    before, found = (pq.ParquetFile(tmp_path / f"{name}.parquet").read() for name in ("in", "out"))
    assert found.schema.names == ["note", "text", "note", "kind", "map", "label", "score"]
    assert found.schema.metadata == before.schema.metadata
    for i in range(5):
        assert found.schema.field(i) == before.schema.field(i)
        assert found.column(i).combine_chunks().cast(before.column(i).type) == before.column(i).combine_chunks()
    assert found.column("label").to_pylist() == model.predict(["a good film", "a film"])["label"].tolist()


QUOTES = ["text\tnote", '"good start\t1', "plain film\t2", 'ends here"\t3']


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_that_quotes_may_swallow_is_refused_until_it_is_said_what_they_are(
    end: str, logged: Logged, model: Any, tmp_path: Path
) -> None:
    source, destination = tmp_path / "in.tsv", tmp_path / "out.tsv"
    source.write_bytes("".join(line + end for line in QUOTES).encode())
    with pytest.raises(RequestError, match=r"in\.tsv, line 2: .*task\.quoting=none"):
        packaging.predict_file(logged.uri, source, destination, *TEXT)
    assert not destination.exists()
    assert packaging.predict_file(logged.uri, source, destination, TEXT[0], TEXT[1], "none") == 3
    lines = destination.read_bytes().decode().split(end)
    assert [line.rsplit("\t", 2)[0] for line in lines[:-1]] == QUOTES
    assert packaging.predict_file(logged.uri, source, destination, TEXT[0], TEXT[1], "double") == 1


def test_a_list_that_cannot_be_written_without_quotes_is_told(
    winners: dict[str, Logged], topics: Any, tmp_path: Path
) -> None:
    source, kind = write(tmp_path / "in.csv", [{"id": "1", "text": LABELLED[0]}]), "multilabel_classification"
    with pytest.raises(
        RequestError, match=r"in\.csv, row 1: .* can't be written with task\.quoting=none; give the rows"
    ):
        packaging.predict_file(winners["topics"].uri, source, tmp_path / "out.csv", kind, TEXT[1], "none")
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


TYPED = (".jsonl", ".parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_of_a_file_may_get_several_labels(
    suffix: str, winners: dict[str, Logged], topics: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "ROWS", 3)
    rows = [{"text": text} for text in LABELLED]
    source, destination = write(tmp_path / f"in{suffix}", rows), tmp_path / f"out{suffix}"
    packaging.predict_file(
        winners["topics"].uri, source, destination, "multilabel_classification", {"text": "text"}, "auto"
    )
    found, expected = read(destination), topics.predict(LABELLED)
    if suffix not in TYPED:
        found = [row | {name: json.loads(row[name]) for name in ("labels", "scores")} for row in found]
    assert [list(row) for row in found] == [["text", "labels", "scores"]] * len(rows)
    assert [row["labels"] for row in found] == expected["labels"].tolist()
    assert [] in [row["labels"] for row in found]
    for row, scores in zip(found, expected["scores"], strict=True):
        np.testing.assert_allclose(row["scores"], scores, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            "q,c\nwhich?,a film\n",
            {"question": "q"},
            r"no column context; it has q, c; name it with task.co",
        ),
        ("q,c\nwhich?,a film\n", {"context": "c"}, r"no column question; .* task.columns.question"),
        ("question,context\nwhich?,\n", {}, r"row 0 of context is ''"),
    ],
)
def test_a_file_without_questions_is_named_and_nothing_is_left(
    content: str, columns: dict[str, str], message: str, winners: dict[str, Logged], reader: Any, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text(content)
    named = {"question": "question", "context": "context"} | columns
    with pytest.raises(RequestError, match=message):
        packaging.predict_file(
            winners["reader"].uri, tmp_path / "in.csv", tmp_path / "out.csv", "question_answering", named, "auto"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_tokenizer_that_knows_more_than_its_model_is_named(tiny_model: Models, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("bert"), tmp_path / "model")
    Inference(folder, "AutoModelForSequenceClassification")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["greatest"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"tokens with numbers up to 93, and its embedding has 93 rows"):
        Inference(folder, "AutoModelForSequenceClassification")


def test_a_model_of_another_kind_is_named(winners: dict[str, Logged], reader: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", ROWS)
    with pytest.raises(RequestError, match="the model can't predict these rows"):
        packaging.predict_file(winners["topics"].uri, source, tmp_path / "out.csv", *TEXT)
    with pytest.raises(RequestError, match="the model can't predict these rows"):
        packaging.predict_file(winners["reader"].uri, source, tmp_path / "out.csv", *TEXT)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_that_a_file_has_are_not_covered_up(suffix: str, logged: Logged, model: Any, tmp_path: Path) -> None:
    source = write(tmp_path / f"in{suffix}", [{"review": "a good film", "label": "mine"}])
    packaging.predict_file(logged.uri, source, tmp_path / f"out{suffix}", TEXT[0], {"text": "review"}, "auto")
    (row,) = read(tmp_path / f"out{suffix}")
    assert row["label"] == "mine"
    assert row["predicted_label"] in LABELS
    assert "score" not in row
    write(source, [row])
    with pytest.raises(RequestError, match="has a column predicted_"):
        packaging.predict_file(logged.uri, source, tmp_path / f"out{suffix}", TEXT[0], {"text": "review"}, "auto")


def test_labels_of_some_rows_are_not_covered_up(
    logged: Logged, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "ROWS", 1)
    source = write(tmp_path / "in.jsonl", [{"text": "a film"}, {"text": "a good film", "label": "mine"}])
    packaging.predict_file(logged.uri, source, tmp_path / "out.jsonl", *TEXT)
    first, second = read(tmp_path / "out.jsonl")
    assert second["label"] == "mine"
    assert first.keys() == {"text", "predicted_label", "predicted_score"}
    assert second.keys() == {"text", "label", "predicted_label", "predicted_score"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_without_rows_gets_its_columns(suffix: str, logged: Logged, model: Any, tmp_path: Path) -> None:
    source = write(tmp_path / f"in{suffix}", ROWS[:1])
    if suffix == ".csv":
        source.write_text("id,text\n")
    else:
        pq.write_table(pq.read_table(source)[:0], source)
    assert packaging.predict_file(logged.uri, source, tmp_path / f"out{suffix}", *TEXT) == 0
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
        ("in.jsonl", b'{"text": "good", "text": "bad"}\n', r"in\.jsonl, row 1: there are 2 columns text; rename all"),
        ("in.csv", b"text,text\ngood,bad\n", r"in\.csv: there are 2 columns text; rename all but one"),
        ("in.jsonl", b'{"text": "good"}\n{"text": "\\ud83d"}\n', r"in\.jsonl, row 2: .*half a surrogate pair"),
        ("in.jsonl", '{"text": "good"}'.encode("utf-16"), r"line 1: is not UTF-8"),
        ("in.csv", "text,id\ngood,1".encode("utf-16"), r"in\.csv: is not UTF-8"),
        ("in.csv", b'id,text\n1,"good\n', r"in\.csv, line 2: .*task\.quoting=none"),
        ("in.jsonl", b'{"text": "good"}\n{"review": "good"}\n', r"row 2: there is no column text; it has review"),
        ("in.jsonl", b'{"review": "good"}\n', r"in\.jsonl: there is no column text; it has review"),
        ("in.jsonl", b'{"text": "good"}\n{"text": null}\n', r"in\.jsonl, row 2: None in column text is not a text"),
        ("in.parquet", b"no parquet", r"can't be read as parquet"),
        ("in.xlsx", b"", r"its name must end in one of \.csv, \.tsv, \.jsonl, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_labelled_is_named_and_nothing_is_left(
    name: str, content: bytes, message: str, logged: Logged, model: Any, tmp_path: Path
) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    destination = tmp_path / f"out{source.suffix}"
    destination.write_text("what was there before")
    with pytest.raises(RequestError, match=message):
        packaging.predict_file(logged.uri, source, destination, *TEXT)
    assert destination.read_text() == "what was there before"
    assert {path.name for path in tmp_path.iterdir()} == {name, destination.name}


def test_places_that_cannot_be_are_named(logged: Logged, model: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", ROWS)
    with pytest.raises(RequestError, match="no such file"):
        packaging.predict_file(logged.uri, tmp_path / "absent.csv", tmp_path / "out.csv", *TEXT)
    with pytest.raises(RequestError, match="is the file to label"):
        packaging.predict_file(logged.uri, source, source, *TEXT)
    with pytest.raises(RequestError, match="there is no folder"):
        packaging.predict_file(logged.uri, source, tmp_path / "absent" / "out.csv", *TEXT)
    with pytest.raises(RequestError, match=r"let its name end in \.csv"):
        packaging.predict_file(logged.uri, source, tmp_path / "out.jsonl", *TEXT)
    for address in ("models:/nothing/1", "http://x/y", "runs:x", "ftp-y://x"):
        with pytest.raises(RequestError, match=f"{address}: no model can be loaded"):
            packaging.predict_file(address, source, tmp_path / "out.csv", *TEXT)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
