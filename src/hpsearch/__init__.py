"""hpsearch: hyperparameter search for fine-tuning BERT-class models."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.api import Study, sweep
    from hpsearch.api import open_study as open

__all__ = ["Study", "__version__", "open", "sweep"]
__version__ = "0.1.0"

# Settings of MLflow in this process and in the servers that it turns into. MLflow reads some of them when it is first
# imported, by any module, so they are set before all other imports.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # a model must not run code hidden in its files
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # on by default, and nothing here needs it
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # the terminal shows the sweep's progress
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the URL may contain a password
    # A server that is down costs seconds, not minutes as with MLflow's own defaults (7 retries of 120 s).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)  # a value that the user has set stays


def __getattr__(name: str) -> Any:
    """Import `hpsearch.sweep`, `hpsearch.open` or `hpsearch.Study` when it is first used."""
    from_api = {"sweep": "sweep", "open": "open_study", "Study": "Study"}
    if name not in from_api:
        raise AttributeError(f"module 'hpsearch' has no attribute {name!r}")
    from hpsearch import api

    return getattr(api, from_api[name])
