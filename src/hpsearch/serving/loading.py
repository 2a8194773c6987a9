"""A logged model in this process. It runs with the code that travels with it, which a former version may have sent."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import url2pathname

from hpsearch.serving import mlflow_process  # noqa: F401  # first, for MLflow's warnings

# isort: split
import mlflow
from mlflow.exceptions import MlflowException

from hpsearch.errors import RequestError, first_line

LOADING = (MlflowException, OSError, ValueError, ImportError)  # the last two of addresses that MLflow can't read


def load(model_uri: str) -> Any:
    """The model. Raises RequestError if none can be loaded from there."""
    try:
        with ours_aside():
            return mlflow.pyfunc.load_model(fetched(model_uri))
    except LOADING as error:
        raise _not_loaded(model_uri, error) from None


def fetched(model_uri: str) -> str:
    """A path of the model's files that MLflow can load them from.

    It takes a path for an address once more, in which `%41` is a letter: then it is given the path over a link.

    Raises:
        RequestError: there is no such model.
    """
    try:
        local = os.path.abspath(model_uri) if os.path.exists(model_uri) else None
        path = Path(local or mlflow.artifacts.download_artifacts(model_uri))
    except LOADING as error:
        raise _not_loaded(model_uri, error) from None
    if url2pathname(str(path)) == str(path):
        return str(path)
    scratch = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, scratch)  # a model may read its files as late as that
    link = Path(scratch) / "link"
    link.symlink_to(path.parent)  # not to the model: MLflow refuses what a link leads out of its folder
    return str(link / path.name)


def _not_loaded(model_uri: str, error: Exception) -> RequestError:
    return RequestError(f"{model_uri}: no model can be loaded from there ({first_line(error)}); give another")


@contextmanager
def ours_aside() -> Iterator[None]:
    """Put the modules of this package away, so that a model imports those of its own folder by the same names.

    It keeps what it has imported; afterwards these names are our modules' again.
    """
    path, ours = sys.path, _modules()
    for name in ours:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in _modules():
            del sys.modules[name]
        sys.modules.update(ours)
        sys.path = path  # MLflow has put the model's folder in front


def _modules() -> dict[str, ModuleType]:
    package = __name__.partition(".")[0]
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
