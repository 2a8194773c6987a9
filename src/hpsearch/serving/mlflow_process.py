"""MLflow, imported without its warnings, and the MLflow servers that hpsearch becomes."""

import os
import socket
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from hpsearch.errors import RequestError

HOST = "127.0.0.1"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # these modules warn about their own type hints and their own use of SQLAlchemy
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def become(arguments: list[str], port: int, variables: dict[str, str]) -> NoReturn:
    """Replace this process with `mlflow <arguments>` on loopback, so that signals and exit code are MLflow's own.

    Args:
        arguments: Command and options, without host and port.
        port: Port to listen on.
        variables: Added to the environment. Addresses with passwords belong here, as every user can read arguments.

    Raises:
        RequestError: The port can't be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RequestError(f"port {port} of {HOST} can't be used ({error.strerror}); choose another") from None
    # PATH is set because MLflow starts `uvicorn` by its bare name. Output is flushed because exec drops the buffer.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", HOST, "--port", str(port), "--workers", "1"]
    os.execve(sys.executable, command, os.environ | variables | {"PATH": path})
