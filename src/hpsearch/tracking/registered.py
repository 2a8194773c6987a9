"""The registered model of a task: its versions, its aliases, and the tags of model and versions."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpsearch.serving import mlflow_process  # noqa: F401  # first, for MLflow's warnings

# isort: split
import mlflow
from mlflow.exceptions import MlflowException

from hpsearch.tracking.artifacts import digest
from hpsearch.tracking.runs import Tracking
from hpsearch.tracking.stores import answered


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    number: int
    run_id: str | None
    """Id of the run that logged its model; None if the model was registered from elsewhere."""
    tags: dict[str, str]
    address: str
    """Address of its model, for MLflow."""


class RegisteredModel:
    """A task's registered model. Raises OutOfReachError if the store does not answer.

    The first `register` creates it in MLflow; until then it has no versions and no tags.
    """

    def __init__(self, tracking: Tracking) -> None:
        """Take the model of the study's task. It has the same name as the task's experiment."""
        self.name, self.uri = tracking.experiment_name, tracking.uri
        self._tracking, self._client = tracking, mlflow.MlflowClient(tracking.uri)

    def address(self, alias: str) -> str:
        """Return the address, for MLflow, of the version that an alias names."""
        return f"models:/{self.name}@{alias}"

    @answered
    def version_of(self, alias: str) -> Version | None:
        """Return the version that an alias names; None if there is no such version."""
        try:
            return self._version(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model or alias
                return None
            raise

    @answered
    def set_alias(self, alias: str, number: int) -> None:
        """Let an alias name this version and no other."""
        self._client.set_registered_model_alias(self.name, alias, str(number))

    @answered
    def tags(self) -> dict[str, str]:
        """Return the tags of the registered model itself, not of a version."""
        try:
            return dict(self._client.get_registered_model(self.name).tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}

    @answered
    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the registered model itself."""
        self._client.set_registered_model_tag(self.name, key, value)

    @answered
    def delete_tag(self, key: str) -> None:
        """Delete a tag of the registered model itself."""
        self._client.delete_registered_model_tag(self.name, key)

    @answered
    def register(self, run_id: str, evidence: dict[str, str]) -> tuple[Version, bool]:
        """Register a run's model as a version with its evidence as tags, unless it is registered already.

        Returns:
            The version, and whether it was created now.

        Raises:
            RequestError: The run holds no model.
        """
        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = self._client.search_model_versions(f"name = '{self.name}' and run_id = '{run_id}'")
        if known:
            version = self._version(known[0])
            for key, value in evidence.items():
                self._client.set_model_version_tag(self.name, str(version.number), key, value)
            return replace(version, tags=version.tags | evidence), False
        model_id = self._tracking.model_of(run_id)
        source = f"models:/{model_id}"
        made = self._client.create_model_version(self.name, source, run_id, evidence, model_id=model_id)
        return self._version(made), True

    @answered
    def describe(self, version: Version, text: str) -> None:
        """Set a version's description, in Markdown."""
        self._client.update_model_version(self.name, str(version.number), text)

    @answered
    def delete(self, version: Version) -> None:
        """Delete a version; its run keeps the model."""
        self._client.delete_model_version(self.name, str(version.number))

    def weights(self, alias: str, part: str = "model") -> str | None:
        """Return the SHA-256 of the stored weights of the version that an alias names; None if they can't be read.

        `Tracking.weights` returns the SHA-256 of the weights when they were logged.
        """
        with tempfile.TemporaryDirectory() as scratch:
            where = self._tracking.files.download(self.address(alias), Path(scratch))
            weights = where / "artifacts" / part / "model.safetensors" if where is not None else None
            return digest(weights) if weights is not None and weights.exists() else None

    def _version(self, found: Any) -> Version:
        number = int(found.version)
        return Version(number, found.run_id or None, dict(found.tags), f"models:/{self.name}/{number}")
