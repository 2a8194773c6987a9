"""Studies in a real MLflow store, without training anything."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import requests

from hpsearch.config.settings import Settings
from hpsearch.serving import mlflow_process  # noqa: F401  # before mlflow
from hpsearch.state import codec
from hpsearch.state.facts import Facts
from hpsearch.state.folder import StudyFolder
from hpsearch.state.identity import FORMAT
from hpsearch.state.measured import Answers
from hpsearch.state.messages import Progress
from hpsearch.state.outcome import Summary
from hpsearch.state.records import DataRef, Status, StudyHardware, TrialRecord, read_points
from hpsearch.tracking.runs import Tracking
from make import compose_settings

SOURCE = Path(__file__).parents[1] / "src"
LABELS = ("negative", "positive")
TAG = "hpsearch.trial"


@functools.cache
def _empty_store() -> bytes:
    """MLflow takes seconds to make a database; a copy of one costs nothing."""
    with tempfile.TemporaryDirectory() as folder:
        Tracking(compose_settings(), Path(folder))
        return Path(folder, "mlflow.db").read_bytes()


def new_home(folder: Path) -> Path:
    """A state folder with an empty MLflow store."""
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.db").write_bytes(_empty_store())
    return folder


def client(tracking: Tracking) -> mlflow.MlflowClient:
    """To look at a store, and to put faults into it."""
    return mlflow.MlflowClient(tracking.uri)


def data_ref(folder: Path, test: str = "c" * 16) -> DataRef:
    digests = {"train": "a" * 16, "validation": "b" * 16, "test": test}
    return DataRef(folder, LABELS, digests, {"train": 60, "validation": 20, "test": 20})


def record(number: int, status: Status = Status.RUNNING, **fields: Any) -> TrialRecord:
    return TrialRecord(number, {"train.learning_rate": 1e-4 * (number + 1), "train.batch_size": 16}, status, **fields)


def curve(number: int, steps: int = 5) -> list[Progress]:
    points = [Progress(number, step, steps, {"train_loss": 1 / step}) for step in range(1, steps + 1)]
    return [*points, Progress(number, steps, steps, {"validation_accuracy": 0.8 + number / 100})]


def run_trial(tracking: Tracking, parent: str, number: int, settings: Settings) -> TrialRecord:
    """A complete trial: opened, with curves, finished."""
    opened = record(number)
    opened = replace(opened, run_id=tracking.open_trial(parent, opened, settings, TAG))
    points = curve(number)
    assert opened.run_id is not None
    tracking.points(opened.run_id, points)
    done = replace(
        opened,
        status=Status.COMPLETE,
        step=5,
        total_steps=5,
        score=points[-1].metrics["validation_accuracy"],
        metrics=points[-1].metrics,
        confusion=((8, 2), (1, 9)),
        seconds={"training": 2.0, "evaluation": 0.5},
    )
    tracking.finish_trial(done, settings, LABELS, points, None)
    return done


FACTS = Facts(
    source="files: toy.csv",
    note=None,
    rows={"train": 103},
    empty_texts={"train": 0},
    dropped={"train": {"duplicates": 3, "conflicting_labels": 0, "in_another_split": 0}},
    examples={"train": 60, "validation": 20, "test": 20},
    overlap={},
    groups={"train": 0, "validation": 0, "test": 0},
    split_by={"train": "source", "validation": "hpsearch", "test": "hpsearch"},
    labels={label: i for i, label in enumerate(LABELS)},
    classes={"train": dict.fromkeys(LABELS, 30), "validation": dict.fromkeys(LABELS, 10)},
    digests={"train": "a" * 16, "validation": "b" * 16, "test": "c" * 16},
)


def answers(truths: Sequence[Any], said: Sequence[Any]) -> Answers:
    """Of the examples test-0, test-1, ..."""
    return Answers(data=tuple((f"test-{i}", *row) for i, row in enumerate(zip(truths, said, strict=True))))


def summary(
    settings: Settings, parent: str, best: TrialRecord, value: float, examples: int = 20, test: str = "c" * 16
) -> Summary:
    """Of a study of one trial that was not confirmed."""
    found = {
        "format": FORMAT,
        "study": settings.study,
        "given": [],
        "finished": "2026-11-01T00:00:00+00:00",
        "task": settings.task.name,
        "model": settings.model.name,
        "metric": "accuracy",
        "direction": "maximize",
        "trials": {"complete": 1, "pruned": 0, "failed": 0},
        "best": {"trial": best.number, "params": best.params, "validation": best.score},
        "winner": {
            "entrant": f"trial {best.number}",
            "params": best.params,
            "seed": 0,
            "run_id": best.run_id,
            "fitted": {},
            "folder": f"trials/{best.number}",
            "validation": best.metrics,
            "corrected": None,
            "digests": {"train": "d" * 16, "validation": "b" * 16, "test": test},  # trained on more than the search had
        },
        "optimism": None,
        "expected": [best.score],
        "importance": {},
        "reference": None,
        "steps": {"trained": 5, "all_to_the_end": 5, "confirmation": 0},
        "data": codec.plain(FACTS)
        | {"source": "files", "digest": "0" * 16, "train": 60, "validation": 20, "test": examples}
        | {"confirmation": None},
        "test": {
            "metric": "accuracy",
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
            "n": examples,
            "all": {"accuracy": value, "f1": value},
            "intervals": {"accuracy": (value - 0.1, value + 0.1), "f1": (value - 0.1, value + 0.1)},
            "readings": 1,
            "classes": {},
            "confusion": None,
            "mistakes": [],
            "digest": test,
            "split_digest": test,
            "megabytes": 91.0,
            "seconds_per_example": 0.01,
        },
        "labels": list(LABELS),
        "hardware": codec.plain(StudyHardware("cpu", "float32", "blocked", 1, 2, "a processor")),
        "seconds": {"total": 3.0},
        "confirmation": [],
        "licenses": {"weights": "MIT", "data": None},
        "lineage": {"hpsearch.settings": "0123456789abcdef", "hpsearch.version.torch": "2.13.0"},
        "mlflow": {"experiment_id": None, "run_id": parent},
    }
    return codec.read(Summary, json.dumps(found), "a made-up summary", "repair it")


def save_study(home: Path, settings: Settings, trials: list[TrialRecord], result: Summary) -> Path:
    """The study's folder as a sweep leaves it."""
    folder = home / "studies" / settings.study
    for trial in trials:
        trial.save(folder / "trials" / str(trial.number))
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "plots" / "history.html").write_text("<p>history</p>")
    (folder / "report.html").write_text("<p>report</p>")
    (folder / "summary.json").write_text(codec.write(result))
    (folder / "published.json").write_text("{}")
    return folder


def finish(tracking: Tracking, result: Summary, folder: Path) -> None:
    """Log what `save_study` left."""
    study = StudyFolder(folder)
    trials = [(TrialRecord.load(trial.path), read_points(trial.path)) for trial in study.trials("trials")]
    tracking.finish_study(result, study, trials)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(code: str, ready: str, log: Path) -> Iterator[int]:
    """Run Python code that serves, until `ready` (an address) answers; yields its pid."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    with open(log, "wb") as output:
        server = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 90
        while True:
            assert server.poll() is None, f"the server ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"the server does not answer: {log.read_text()}"
            try:
                if requests.get(ready, timeout=2).ok:
                    break
            except requests.RequestException:
                time.sleep(0.2)
        yield server.pid
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(20)
