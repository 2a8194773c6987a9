"""Addresses of databases. A path may contain any character, and an address gives some of them a meaning."""

import os
from pathlib import Path

import sqlalchemy

from hpsearch.errors import RequestError, first_line, redact


def of_file(path: Path) -> str:
    """Return the address of an SQLite file."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()


def read(setting: str, address: str) -> sqlalchemy.URL:
    """Split a setting's address into its parts.

    Raises:
        RequestError: the address names a file with a question mark, after which an address has options.
        sqlalchemy.exc.ArgumentError: the text is no address.
    """
    url = sqlalchemy.make_url(address)
    _, mark, options = address.partition("?")
    if url.get_backend_name() == "sqlite" and mark and not all("=" in option for option in options.split("&")):
        raise RequestError(
            f"{setting}={redact(address)}: what follows a question mark are options, name=value; write %3F for one "
            "that is part of a file's name"
        )
    return url


def check_folder(setting: str, file: Path) -> None:
    """Check that a file can be created or changed in its folder. Raises RequestError if not."""
    folder = file.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(
            f"{setting}: {folder} is not a folder that can be written to; make it one, or give a file in another"
        )


def check_storage(uri: str) -> None:
    """Check that `storage.uri` names a database whose driver is installed.

    The folder of an SQLite file must exist and be writable.

    Raises:
        RequestError: the address fails one of these checks.
    """
    try:
        url = read("storage.uri", uri)
        url.get_dialect().import_dbapi()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise RequestError(
            f"storage.uri={redact(uri)}: {redact(first_line(error))}; give sqlite:///<file> or "
            "postgresql+psycopg://<user>:<password>@<host>/<database>, which needs `pip install 'psycopg[binary]'`"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database:
        check_folder(f"storage.uri={uri}", Path(url.database).absolute())
