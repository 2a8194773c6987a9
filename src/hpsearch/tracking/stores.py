"""Addresses of MLflow's stores. They are reached within seconds or not at all, and shown without their secrets."""

import contextlib
import functools
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

from hpsearch.errors import OutOfReachError, RequestError, first_line, redact
from hpsearch.state import addresses

DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
KNOCK_SECONDS = 5.0
# Exceptions that MLflow's client raises if a store does not do what it is asked.
UNANSWERED = (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException)
# MLflow's codes for a store that did not work. Without a server in between, other codes say that the call was wrong,
# which is a fault of this program.
SILENT = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ENDPOINT_NOT_FOUND")
KNOCK = "/api/2.0/mlflow/runs/search"  # checks the account, which /health does not; a login page takes no POST
# Servers, and proxies before them, deny access by a number or in words.
DENIED = re.compile(r"\b(401|403)\b|unauthori[sz]ed|unauthenticated|forbidden|permission.denied", re.IGNORECASE)
FAILED = re.compile(r"\b[45]\d\d\b|[A-Z]+_[A-Z_]+: ")  # a status, or MLflow's own code
PAGE = re.compile(r"<!doctype|<html", re.IGNORECASE)
ACCOUNT = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
LONGEST = 300  # characters of a server's message that are shown


class Store(Protocol):
    """An object that uses the MLflow store at `uri`."""

    uri: str


P = ParamSpec("P")
S = TypeVar("S", bound=Store)
T = TypeVar("T")


def answered(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Wrap a method so that it raises OutOfReachError if the store does not answer or its server answers an error."""

    @functools.wraps(method)
    def call(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(store, *args, **kwargs)
        except UNANSWERED as error:
            if wrong_call(store.uri, error):
                raise
            raise out_of_reach(store.uri, error) from None

    return call


def wrong_call(uri: str, error: Exception) -> bool:
    """Return whether an error says that the call was wrong, which is a fault of this program."""
    return isinstance(error, MlflowException) and error.error_code not in SILENT and not served(uri)


def served(uri: str) -> bool:
    """Return whether the address is that of a server, not of a database."""
    return urlsplit(uri).scheme in ("http", "https")


def out_of_reach(uri: str, error: Exception) -> OutOfReachError:
    """Return the error, worded for the user, for a store that does not answer or whose server answers an error."""
    setting, said = f"tracking.uri={redact(uri)}", str(error)
    reason = redact(first_line(error).replace(uri, redact(uri)))[:LONGEST]
    if served(uri) and DENIED.search(said):
        return OutOfReachError(
            f"{setting}: MLflow's server does not let you in, or not to this ({reason}); set {ACCOUNT}, for an account "
            "that may write there, and give the same command"
        )
    if served(uri) and PAGE.search(said):
        return OutOfReachError(
            f"{setting}: a web page answers there, not MLflow ({reason}); correct the address, or, where it is a page "
            f"to log in, set {ACCOUNT}"
        )
    how = "answers with an error" if FAILED.search(reason) else "does not answer"
    return OutOfReachError(
        f"{setting}: MLflow's store {how} ({reason}); "
        "start or repair it, or leave tracking.uri out to use SQLite in the state folder"
    )


def knock(uri: str) -> None:
    """Check that MLflow answers at an address and grants access.

    Raises:
        OutOfReachError: MLflow does not answer within seconds, denies access, or something else answers.
    """
    try:
        answer = http_request(
            get_default_host_creds(uri),
            KNOCK,
            "POST",
            max_retries=0,
            timeout=KNOCK_SECONDS,
            raise_on_status=False,
            json={"experiment_ids": [], "max_results": 1},
        )
        where = [f"it leads to {step.headers.get('Location')}" for step in answer.history]
        if answer.status_code != requests.codes.ok:
            said = f"it answers {answer.status_code} {answer.reason}"
            raise out_of_reach(uri, RuntimeError(", ".join([*where, said]) + f"\n{answer.text}"))
        verify_rest_response(answer, KNOCK)
    except UNANSWERED as error:
        raise out_of_reach(uri, error) from None


def open_database(uri: str) -> str:
    """Connect to a database once and return its URI with an absolute path.

    MLflow itself would try ten times over minutes.

    Raises:
        RequestError: The address names no known kind of database, its driver is not installed, or its folder can't be
            used.
        OutOfReachError: The database does not answer, or the file is no database.
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
    """Return the address in a form for which MLflow creates no wrong folder.

    MLflow creates a folder from the text after `sqlite:///`, without decoding it. If that text differs from the path,
    the address names the driver, for which MLflow creates no folder.
    """
    assert url.database is not None
    return url if url.render_as_string().endswith(f"/{url.database}") else url.set(drivername="sqlite+pysqlite")
