"""Locks that allow one coordinator a study: of the operating system and, on a shared PostgreSQL, of the database."""

import contextlib
import fcntl
import hashlib
import os
import time
from typing import TextIO

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.errors import OutOfReachError, RequestError
from hpsearch.state.folder import StudyFolder

# The server ends the session of a vanished machine after about a minute, and that of a dead process at once.
KEEPALIVE = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
CONNECT_SECONDS = 5
TRIES, TRY_SECONDS = 3, 0.05


class Lock:
    """Lock on the study's folder. The operating system holds it, so it ends with the process."""

    def __init__(self, folder: StudyFolder) -> None:
        """Take the lock. Raises RequestError if another process has it."""
        folder.path.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = open(folder.lock, "a+", encoding="utf-8")  # noqa: SIM115  # held until close()
        if not self._taken():
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise RequestError(
                f"study {folder.name} is being run by process {holder}; wait for it, or give STUDY=<another name>"
            )
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _taken(self) -> bool:
        """Try to take the lock, and return whether that succeeded.

        `holder` has the lock for a moment, so one refusal says nothing.
        """
        for _ in range(TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            time.sleep(TRY_SECONDS)
        return False

    def close(self) -> None:
        """Release the lock."""
        self._file.close()


def holder(folder: StudyFolder) -> int | None:
    """Return the process id of the study's coordinator on this machine; None if there is none."""
    try:
        file = open(folder.lock, encoding="utf-8")  # noqa: SIM115  # closed below
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read().strip() or 0) or None
    return None


class DatabaseLock:
    """Lock on the study in PostgreSQL. A session holds it, so it ends with the process, on any machine."""

    def __init__(self, url: str, study: str) -> None:
        """Take the lock.

        Raises:
            RequestError: another session has the lock.
            SQLAlchemyError: the database does not answer.
        """
        self._study = study
        self._key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], "big", signed=True)
        self._engine = sqlalchemy.create_engine(
            url,
            poolclass=sqlalchemy.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": CONNECT_SECONDS},
        )
        self._session: sqlalchemy.Connection | None = None
        if not self._take():
            raise RequestError(
                f"study {study} is being run by another coordinator on the same database; wait for it, "
                "or give STUDY=<another name>"
            )

    def check(self) -> bool:
        """Check that the lock is still held, and take it again if the database has dropped the session.

        Returns:
            Whether it was taken again.

        Raises:
            OutOfReachError: another coordinator has the lock by now.
            SQLAlchemyError: the database does not answer.
        """
        if self._session is not None:
            try:
                self._session.execute(sqlalchemy.text("SELECT 1"))
                return False
            except SQLAlchemyError:
                self.close()
        if not self._take():
            raise OutOfReachError(
                f"storage.uri: the database has dropped the session of this coordinator, and another one runs study "
                f"{self._study} now; this one stops"
            )
        return True

    def close(self) -> None:
        """Release the lock."""
        if self._session is not None:
            with contextlib.suppress(SQLAlchemyError):  # the session is broken, so the lock is gone
                self._session.close()
            self._session = None

    def _take(self) -> bool:
        session = self._engine.connect()
        for name, value in KEEPALIVE.items():
            session.execute(sqlalchemy.text(f"SET {name} = {value}"))
        taken = session.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}).scalar()
        if taken:
            self._session = session
        else:
            session.close()
        return bool(taken)
