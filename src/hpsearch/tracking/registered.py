"""The registered model of a task: its versions, their aliases, and the tags of both."""

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
    """Of the run that logged its model; None where somebody has registered another model."""
    tags: dict[str, str]
    address: str
    """Of its model, for MLflow."""


class RegisteredModel:
    """A task's registered model. Raises OutOfReachError where the store does not answer.

    Nothing is made before the first version is registered; until then it has no versions and no tags.
    """

    def __init__(self, tracking: Tracking) -> None:
        """That of the task of a study; it is called as the task's experiment."""
        self.name, self.uri = tracking.experiment_name, tracking.uri
        self._tracking, self._client = tracking, mlflow.MlflowClient(tracking.uri)

    def address(self, alias: str) -> str:
        """Of the version that an alias names, for MLflow."""
        return f"models:/{self.name}@{alias}"

    @answered
    def version_of(self, alias: str) -> Version | None:
        """The version that an alias names, or None."""
        try:
            return self._version(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
                return None
            raise

    @answered
    def set_alias(self, alias: str, number: int) -> None:
        """Let an alias name a version, and no other."""
        self._client.set_registered_model_alias(self.name, alias, str(number))

    @answered
    def tags(self) -> dict[str, str]:
        """Of the model itself, not of a version."""
        try:
            return dict(self._client.get_registered_model(self.name).tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}

    @answered
    def set_tag(self, key: str, value: str) -> None:
        """Of the model itself."""
        self._client.set_registered_model_tag(self.name, key, value)

    @answered
    def delete_tag(self, key: str) -> None:
        """Of the model itself."""
        self._client.delete_registered_model_tag(self.name, key)

    @answered
    def register(self, run_id: str, evidence: dict[str, str]) -> tuple[Version, bool]:
        """Have a version that holds a run's model, with its evidence as tags; whether it had to be made now.

        Raises RequestError if the run holds no model.
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
        """Set a version's description, Markdown."""
        self._client.update_model_version(self.name, str(version.number), text)

    @answered
    def delete(self, version: Version) -> None:
        """Take a version away; its run keeps the model."""
        self._client.delete_model_version(self.name, str(version.number))

    def weights(self, alias: str, part: str = "model") -> str | None:
        """SHA-256 of the weights of the version that an alias names, as they are stored; None where they can't be read.

        `Tracking.weights` says what they were when they were logged.
        """
        with tempfile.TemporaryDirectory() as scratch:
            where = self._tracking.files.download(self.address(alias), Path(scratch))
            weights = where / "artifacts" / part / "model.safetensors" if where is not None else None
            return digest(weights) if weights is not None and weights.exists() else None

    def _version(self, found: Any) -> Version:
        number = int(found.version)
        return Version(number, found.run_id or None, dict(found.tags), f"models:/{self.name}/{number}")
