"""A logged model in this process. It runs with the code that travels with it, which a former version may have sent."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from hpsearch.serving import mlflow_process  # noqa: F401  # first, for MLflow's warnings

# isort: split
import mlflow
from mlflow.exceptions import MlflowException

from hpsearch.errors import RequestError, first_line


def load(model_uri: str) -> Any:
    """The model. Raises RequestError if none can be loaded from there."""
    try:
        with ours_aside():
            return mlflow.pyfunc.load_model(model_uri)
    except (MlflowException, OSError, ValueError, ImportError) as error:  # the last two of addresses it can't read
        reason = first_line(error)
        raise RequestError(f"{model_uri}: no model can be loaded from there ({reason}); give another") from None


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
