"""Floors in MLflow: a child run of the study for each floor, and the best floor as a model."""

from pathlib import Path

from hpsearch.serving import mlflow_process  # noqa: F401  # first, for MLflow's warnings

# isort: split
import mlflow

from hpsearch.config.settings import Settings
from hpsearch.state.floors import FloorRecord
from hpsearch.state.records import DataRef
from hpsearch.tracking.artifacts import digest, reached
from hpsearch.tracking.client import Runs
from hpsearch.tracking.parts import SHA256
from hpsearch.tracking.runs import CARD, PARENT, Tracking
from hpsearch.tracking.stores import answered

FLOOR = "hpsearch.floor"  # tag of a floor's run that holds the floor's name


class FloorRuns:
    """The runs of a study's floors. Raises OutOfReachError if the store does not answer."""

    def __init__(self, tracking: Tracking, parent: str) -> None:
        """Take the study's store; `parent` is the id of the study's run."""
        self.uri = tracking.uri
        self._tracking, self._parent, self._client = tracking, parent, mlflow.MlflowClient(tracking.uri)
        self._runs = Runs(self._client, tracking.files)

    @answered
    def log(self, floor: FloorRecord, figures: dict[str, float]) -> str:
        """Log a floor as a finished run and return its run id. Harmless when repeated.

        Args:
            floor: A floor that was fitted.
            figures: Further figures of the floor, like `test_accuracy`.
        """
        run = self._runs.get(floor.run_id) if floor.run_id else None
        if run is None or run.data.tags.get(PARENT) != self._parent:
            experiment = self._client.get_run(self._parent).info.experiment_id
            wanted = f"tags.`{PARENT}` = '{self._parent}' and tags.`{FLOOR}` = '{floor.name}'"
            tags = {PARENT: self._parent, FLOOR: floor.name}
            run = self._runs.find(experiment, wanted) or self._client.create_run(
                experiment, run_name=f"floor-{floor.name}", tags=tags
            )
        run_id: str = run.info.run_id
        self._runs.log(run, {"floor": floor.name, "examples": floor.examples, **floor.chosen}, {})
        self._runs.last(run_id, floor.metrics | {"seconds_fit": floor.seconds} | figures, 0)
        self._client.set_terminated(run_id, "FINISHED")
        return run_id

    @answered
    def log_model(
        self,
        floor: FloorRecord,
        folder: Path,
        settings: Settings,
        ref: DataRef,
        examples: dict[str, list[str]],
        card: str,
    ) -> str:
        """Log a floor as a model of its run and return the model's URI.

        The model has the same inputs and outputs as a winner's.

        Args:
            floor: A floor that `log` has logged.
            folder: Folder of its model.
            settings: Settings of the study.
            ref: The data.
            examples: Some values of each input role.
            card: The floor's model card, in Markdown.
        """
        from hpsearch.serving import packaging  # these import torch, which no other call to MLflow needs
        from hpsearch.tasks.kinds import KINDS
        from hpsearch.tracking.logged import log_model

        assert floor.run_id is not None, "it has been logged"
        kind = KINDS[settings.task.kind]
        own = next(one.script for one in kind.floors if one.name == floor.name)
        described = packaging.describe(settings, ref.labels, floor.fitted)
        with reached(self.uri):
            uri = log_model(floor.run_id, {"model": folder}, own or kind.product.script, described, examples, card)
        self._runs.tag(floor.run_id, {"hpsearch.model": uri, SHA256: digest(folder / "model.safetensors")})
        self._tracking.files.write(floor.run_id, CARD, card)
        return uri
