"""A logged model in this process.

It runs with the code that was logged with it, which may be that of an older version.
"""

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

LOADING = (MlflowException, OSError, ValueError, ImportError)  # the last two for addresses that MLflow can't read


def load(model_uri: str) -> Any:
    """Return the model at an address. Raises RequestError if no model can be loaded from there."""
    try:
        with ours_aside():
            return mlflow.pyfunc.load_model(fetched(model_uri))
    except LOADING as error:
        raise _not_loaded(model_uri, error) from None


def fetched(model_uri: str) -> str:
    """Return a path from which MLflow can load the model's files.

    MLflow decodes a path as if it were an address, in which `%41` is a letter. If that would change the path, the
    returned path leads through a link.

    Raises:
        RequestError: There is no such model.
    """
    try:
        local = os.path.abspath(model_uri) if os.path.exists(model_uri) else None
        path = Path(local or mlflow.artifacts.download_artifacts(model_uri))
    except LOADING as error:
        raise _not_loaded(model_uri, error) from None
    if url2pathname(str(path)) == str(path):
        return str(path)
    scratch = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, scratch)  # at exit, because a model may read its files until then
    link = Path(scratch) / "link"
    link.symlink_to(path.parent)  # not to the model itself: MLflow refuses a link that leads out of its folder
    return str(link / path.name)


def _not_loaded(model_uri: str, error: Exception) -> RequestError:
    return RequestError(f"{model_uri}: no model can be loaded from there ({first_line(error)}); give another")


@contextmanager
def ours_aside() -> Iterator[None]:
    """Set this package's modules aside, so that a model imports its own modules of the same names.

    The model keeps what it has imported. Afterwards the names belong to our modules again.
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
        sys.path = path  # MLflow has put the model's folder first


def _modules() -> dict[str, ModuleType]:
    package = __name__.partition(".")[0]
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
