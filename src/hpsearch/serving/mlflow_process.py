"""MLflow, imported without its warnings, and its servers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hpsearch.errors import RequestError

HOST = "127.0.0.1"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # these modules warn about their own type hints and their own use of SQLAlchemy
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def serve(arguments: list[str], port: int, variables: dict[str, str]) -> NoReturn:
    """Run `mlflow <arguments>` on loopback, and end this process as it ends.

    MLflow starts further processes, and not all of them end with it. So they are one group, and a signal that ends this
    process goes to all of them.

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
    # PATH is set because MLflow starts `uvicorn` by its bare name. Output is flushed so that ours comes first.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", HOST, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, env=os.environ | variables | {"PATH": path}, start_new_session=True)

    def pass_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)

    for sign in ENDING:
        signal.signal(sign, pass_on)
    code = server.wait()
    sys.exit(code if code >= 0 else 128 - code)
