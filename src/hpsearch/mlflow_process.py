"""How MLflow behaves here and in the servers that hpsearch becomes. Import it before `mlflow`, which reads it once."""

import os
import socket
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from hpsearch.errors import RequestError

HOST = "127.0.0.1"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # a model may not run code that its files hide
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # on by default, and nothing here needs it
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # the terminal shows the sweep's progress
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password of an address in it
    # A server that is down costs seconds, not the minutes of MLflow's own defaults (7 retries of 120 s).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)  # what the user has set wins

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # these modules warn of their own type hints and of their own use of SQLAlchemy
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def become(arguments: list[str], port: int, variables: dict[str, str]) -> NoReturn:
    """Replace this process by `mlflow <arguments>` on loopback, so that signals and exit code are MLflow's own.

    Args:
        arguments: command and options, without host and port.
        port: to listen on.
        variables: put into its environment; addresses that hold passwords go here, as everyone can read arguments.

    Raises:
        RequestError: the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RequestError(f"port {port} of {HOST} can't be used ({error.strerror}); choose another") from None
    # PATH because MLflow starts `uvicorn` by its bare name; flushed because exec drops what is buffered.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", HOST, "--port", str(port), "--workers", "1"]
    os.execve(sys.executable, command, os.environ | variables | {"PATH": path})
