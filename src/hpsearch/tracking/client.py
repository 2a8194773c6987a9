"""Finding, reading and writing MLflow's runs: in batches that MLflow takes, without numbers that are not finite."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import mlflow
from mlflow.entities import LoggedModelStatus, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from hpsearch.state.records import TrialRecord
from hpsearch.tracking.artifacts import Artifacts

BATCH = 100  # params or tags that MLflow takes in one call
LONGEST_PARAM, LONGEST_TAG = 6000, 8000  # characters that MLflow keeps

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """The run of a study or of one of its trials, as other packages see it."""

    run_id: str
    status: str
    """MLflow's status: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED."""
    tags: dict[str, str]


def shown(run: Any) -> Run:
    """Return a `Run` for MLflow's run."""
    return Run(run.info.run_id, run.info.status, dict(run.data.tags))


class Runs:
    """The runs of one store."""

    def __init__(self, client: mlflow.MlflowClient, files: Artifacts) -> None:
        self.client, self.files = client, files

    def find(self, experiment: str, condition: str) -> Any:
        """Return the newest run of an experiment that meets a condition; None if no run does."""
        found = self.client.search_runs([experiment], condition, max_results=1, order_by=["attributes.start_time DESC"])
        return found[0] if found else None

    def all(self, experiment: str | None, condition: str) -> Iterator[Any]:
        """Yield the runs of an experiment that meet a condition."""
        token = None
        while token != "":
            page = self.client.search_runs([experiment], condition, page_token=token)
            yield from page
            token = page.token or ""

    def read(self, kind: type[T], run_id: str, name: str) -> T | None:
        """Return a result that a run holds as a file; None if the run or the file does not exist."""
        if self.get(run_id) is None or name not in self.files.names(run_id):
            return None
        return self.files.result(kind, f"runs:/{run_id}/{name}")

    def get(self, run_id: str) -> Any:
        """Return the run; None if it is deleted or belongs to another store."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such run, no run's id
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def log(self, run: Any, params: dict[str, Any], tags: dict[str, Any]) -> None:
        """Log the params that the run lacks (MLflow refuses to change one) and all tags."""
        # MLflow would cut longer values with a warning. settings.yaml and the state folder hold them whole.
        missing = [
            Param(key, str(value)[:LONGEST_PARAM]) for key, value in params.items() if key not in run.data.params
        ]
        for start in range(0, len(missing), BATCH):
            self.client.log_batch(run.info.run_id, params=missing[start : start + BATCH])
        self.tag(run.info.run_id, tags)

    def tag(self, run_id: str, tags: dict[str, Any]) -> None:
        """Set the tags that have a value; None is left out."""
        entities = [RunTag(key, str(value)[:LONGEST_TAG]) for key, value in tags.items() if value is not None]
        for start in range(0, len(entities), BATCH):
            self.client.log_batch(run_id, tags=entities[start : start + BATCH])

    def last(self, run_id: str, values: dict[str, float], step: int) -> None:
        """Log the values that differ from the newest ones of the run."""
        shown = self.client.get_run(run_id).data.metrics
        now = time.time_ns() // 1_000_000
        changed = {key: value for key, value in values.items() if key not in shown or shown[key] != value}
        self.add(run_id, [Metric(key, value, now, step) for key, value in changed.items()])

    def add(self, run_id: str, metrics: list[Metric]) -> None:
        """Log the finite points: MLflow would store inf as 1.8e308, which would win a comparison."""
        finite = [metric for metric in metrics if math.isfinite(metric.value)]
        for start in range(0, len(finite), 10 * BATCH):
            self.client.log_batch(run_id, metrics=finite[start : start + 10 * BATCH])

    def whole_model(self, run: Any) -> str | None:
        """Return the id of the newest model that was logged whole in a run; None if the run holds none."""
        found = self.client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
        whole = [model for model in found if model.status == LoggedModelStatus.READY]
        return str(max(whole, key=lambda model: model.creation_timestamp).model_id) if whole else None


def where(record: TrialRecord) -> dict[str, str]:
    """Return the tags that name the machine, and the processor or GPU, which trained a trial last."""
    places = {"hpsearch.node": record.node, "hpsearch.device": record.device}
    return {name: place for name, place in places.items() if place}
