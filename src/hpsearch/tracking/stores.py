"""The addresses of MLflow's stores: reached within seconds or not at all, and shown without their secrets."""

import contextlib
import functools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import requests
import sqlalchemy
from mlflow.exceptions import MlflowException

from hpsearch.errors import OutOfReachError, RequestError, first_line, redact
from hpsearch.state import addresses

DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
KNOCK_SECONDS = 5.0
# MLflow's codes for "it did not work"; the others say that the call was wrong, which is a fault of this program.
SILENT = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ENDPOINT_NOT_FOUND")


class Store(Protocol):
    """What has an address."""

    uri: str


P = ParamSpec("P")
S = TypeVar("S", bound=Store)
T = TypeVar("T")


def answered(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A store that does not answer ends in OutOfReachError."""

    @functools.wraps(method)
    def call(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(store, *args, **kwargs)
        except (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException) as error:
            if isinstance(error, MlflowException) and error.error_code not in SILENT:
                raise
            raise out_of_reach(store.uri, error) from None

    return call


def out_of_reach(uri: str, error: Exception) -> OutOfReachError:
    """The error for a store that does not answer, in words for the user."""
    reason = first_line(error).replace(uri, redact(uri))
    return OutOfReachError(
        f"tracking.uri={redact(uri)}: MLflow's store does not answer ({redact(reason)}); "
        "start or mend it, or leave tracking.uri out to use SQLite in the state folder"
    )


def knock(uri: str) -> None:
    """Ask an MLflow server whether it is there. Raises OutOfReachError within seconds if not."""
    try:
        answer = requests.get(uri.rstrip("/") + "/health", timeout=KNOCK_SECONDS)
    except requests.RequestException as error:
        raise out_of_reach(uri, error) from None
    if answer.status_code >= 500:
        raise out_of_reach(uri, RuntimeError(f"it answers {answer.status_code} {answer.reason}"))


def open_database(uri: str) -> str:
    """Connect once, where MLflow would try ten times over minutes; returns the URI with an absolute path.

    Raises:
        RequestError: the address is of another kind, needs a driver that is not installed, or lies in no usable folder.
        OutOfReachError: the database does not answer, or is none.
    """
    try:
        url = addresses.read("tracking.uri", uri)
    except sqlalchemy.exc.ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", *DEFAULT_PORTS):
        raise RequestError(
            f"tracking.uri={redact(uri)}: give the address of an MLflow server (http://host:port) "
            f"or of a database (sqlite:///file, {', '.join(f'{name}://...' for name in DEFAULT_PORTS)})"
        )
    try:
        if url.get_backend_name() == "sqlite":
            path = Path(url.database or "").resolve()
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
            addresses.check_folder(f"tracking.uri={uri}", path)
            url = _for_mlflow(url.set(database=str(path)))
        else:
            port = url.port or DEFAULT_PORTS[url.get_backend_name()]
            socket.create_connection((url.host or "localhost", port), timeout=KNOCK_SECONDS).close()
        engine = sqlalchemy.create_engine(url)
        sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
    except ModuleNotFoundError as error:
        raise RequestError(f"tracking.uri={redact(uri)}: needs the package {error.name}; install it") from None
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise out_of_reach(uri, error) from None
    return url.render_as_string(hide_password=False)


def _for_mlflow(url: sqlalchemy.URL) -> sqlalchemy.URL:
    """MLflow makes a folder of what follows `sqlite:///`, as it is written; where it is written otherwise than the path
    is, the driver is named, and it makes none.
    """
    assert url.database is not None
    return url if url.render_as_string().endswith(f"/{url.database}") else url.set(drivername="sqlite+pysqlite")
