"""Files of MLflow's runs.

They lie where MLflow's server says. That place may need a client of its own, which may raise any exception.
"""

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
from mlflow.exceptions import MlflowException

from hpsearch.errors import HpsearchError, OutOfReachError, RequestError, first_line, redact
from hpsearch.state import codec
from hpsearch.tracking.stores import UNANSWERED, knock, out_of_reach, served, wrong_call

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


class Artifacts:
    """The files of a store's runs, to write and to read.

    Raises:
        OutOfReachError: The place of the files does not take or give them.
        RequestError: The Python package that reaches the place is missing.
    """

    def __init__(self, client: mlflow.MlflowClient, uri: str) -> None:
        """Take the client of the store at `uri`."""
        self._client, self._uri = client, uri

    def write(self, run_id: str, name: str, text: str) -> None:
        """Write a file with this text."""
        with reached(self._uri):
            self._client.log_text(run_id, text, name)

    def write_json(self, run_id: str, name: str, value: Any) -> None:
        """Write a JSON file with this value."""
        with reached(self._uri):
            self._client.log_dict(run_id, value, name)

    def draw(self, run_id: str, name: str, figure: "Figure") -> None:
        """Write a picture of a figure."""
        with reached(self._uri):
            self._client.log_figure(run_id, figure, name)

    def copy(self, run_id: str, path: Path) -> None:
        """Copy a file, or a folder with its contents, to a run under its own name."""
        with reached(self._uri):
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), path.name)
            else:
                self._client.log_artifact(run_id, str(path))

    def names(self, run_id: str) -> set[str]:
        """Return the names of a run's files and folders at the top level."""
        with reached(self._uri):
            return {file.path for file in self._client.list_artifacts(run_id)}

    def read(self, address: str) -> str:
        """Return the text of a file."""
        with reached(self._uri):
            return str(mlflow.artifacts.load_text(address))

    def read_json(self, address: str) -> Any:
        """Return the value in a JSON file."""
        return json.loads(self.read(address))

    def result(self, kind: type[T], address: str) -> T:
        """Return a result of this type from a file. Raises RequestError if the file is damaged."""
        return codec.read(kind, self.read(address), address, "bring MLflow's file back")

    def download(self, address: str, folder: Path) -> Path | None:
        """Copy a model's files under `folder` and return their path; None if some are missing."""
        try:
            with reached(self._uri):
                return Path(mlflow.artifacts.download_artifacts(address, dst_path=str(folder)))
        except (MlflowException, OutOfReachError):
            if served(self._uri):
                knock(self._uri)
            return None


@contextmanager
def reached(uri: str) -> Iterator[None]:
    """Wrap code that reads or writes files of runs. Faults of this program pass unchanged.

    Raises:
        OutOfReachError: The place of the files does not take or give them.
        RequestError: The Python package that reaches the place is missing.
    """
    setting = f"tracking.uri={redact(uri)}"
    try:
        yield
    except HpsearchError:
        raise
    except UNANSWERED as error:
        if wrong_call(uri, error):
            raise
        raise out_of_reach(uri, error) from None
    except ModuleNotFoundError as error:
        raise RequestError(
            f"{setting}: MLflow keeps the files of its runs at a place that needs the Python package {error.name}, "
            "which is not installed; install it, or start the server with --serve-artifacts"
        ) from None
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or (type(error).__module__ == "builtins" and not isinstance(error, OSError)):
            raise
        raise OutOfReachError(
            f"{setting}: the place where MLflow keeps the files of its runs does not take or give them "
            f"({type(error).__name__}: {redact(first_line(error))}); repair it, or set the variables that let you in, "
            "and give the same command"
        ) from None


def digest(weights: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(weights, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
