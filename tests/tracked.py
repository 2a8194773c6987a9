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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from hpsearch.config.settings import Settings
from hpsearch.serving import mlflow_process  # noqa: F401  # before mlflow
from hpsearch.state.identity import FORMAT
from hpsearch.state.records import DataRef, Progress, Status, TrialRecord
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


def summary(
    settings: Settings, parent: str, best: TrialRecord, value: float, examples: int = 20, test: str = "c" * 16
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "study": settings.study,
        "task": settings.task.name,
        "metric": "accuracy",
        "trials": {"complete": 1, "pruned": 0, "failed": 0},
        "best": {"trial": best.number, "params": best.params, "validation": best.score},
        "winner": {
            "entrant": f"trial {best.number}",
            "params": best.params,
            "seed": 0,
            "run_id": best.run_id,
            "folder": f"trials/{best.number}",
            "digests": {"train": "d" * 16, "validation": "b" * 16, "test": test},  # trained on more than the search had
        },
        "reference": None,
        "test": {
            "metric": "accuracy",
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
            "n": examples,
            "all": {"accuracy": value, "f1": value},
            "intervals": {"accuracy": (value - 0.1, value + 0.1), "f1": (value - 0.1, value + 0.1)},
            "readings": 1,
            "digest": test,
            "split_digest": test,
            "megabytes": 91.0,
            "seconds_per_example": 0.01,
        },
        "labels": list(LABELS),
        "hardware": {"name": "a processor", "threads": 2, "precision": "float32"},
        "seconds": {"total": 3.0},
        "confirmation": [],
        "licenses": {"weights": "MIT", "data": None},
        "lineage": {"hpsearch.settings": "0123456789abcdef", "hpsearch.version.torch": "2.13.0"},
        "mlflow": {"run_id": parent},
    }


def save_study(home: Path, settings: Settings, trials: list[TrialRecord], result: dict[str, Any]) -> Path:
    """The study's folder as a sweep leaves it."""
    folder = home / "studies" / settings.study
    for trial in trials:
        trial.save(folder / "trials" / str(trial.number))
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "plots" / "history.html").write_text("<p>history</p>")
    (folder / "report.html").write_text("<p>report</p>")
    (folder / "summary.json").write_text(json.dumps(result))
    (folder / "published.json").write_text("{}")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(code: str, ready: str, log: Path) -> Iterator[int]:
    """Run Python code that becomes a server, until `ready` (an address) answers; yields its pid."""
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
