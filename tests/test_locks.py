"""One coordinator a study, on one machine and on a shared PostgreSQL; whoever is gone holds nothing."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy

import make
import postgres
from hpsearch.config.settings import Settings
from hpsearch.coordinator.study import Study
from hpsearch.errors import OutOfReachError, RequestError
from hpsearch.state.folder import StudyFolder
from hpsearch.state.locks import DatabaseLock, Lock
from hpsearch.state.records import Status

HOLDER = """
import sys, time
from pathlib import Path
from hpsearch.state.folder import StudyFolder
from hpsearch.state.locks import DatabaseLock, Lock
held = Lock(StudyFolder(Path(sys.argv[2]))) if sys.argv[1] == "folder" else DatabaseLock(sys.argv[2], "a study")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.server() as server:
        yield server.address


@contextmanager
def holder(kind: str, where: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, str(where)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def taken(kind: str, where: object, tmp_path: Path) -> Lock | DatabaseLock:
    return Lock(StudyFolder(tmp_path / "study")) if kind == "folder" else DatabaseLock(str(where), "a study")


@pytest.mark.parametrize("kind", ["folder", "database"])
def test_a_paused_holder_is_respected_and_a_dead_one_is_not(kind: str, tmp_path: Path, database: str) -> None:
    where = tmp_path / "study" if kind == "folder" else database
    with holder(kind, where) as process:
        with pytest.raises(RequestError, match="is being run by"):
            taken(kind, where, tmp_path)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(RequestError, match="is being run by"):
            taken(kind, where, tmp_path)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10  # the database sees the closed socket in its own time
        while True:
            try:
                taken(kind, where, tmp_path).close()
                return
            except RequestError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def drop_sessions(database: str) -> None:
    """As a restart of the database does."""
    engine = sqlalchemy.create_engine(database)
    with engine.connect() as connection:
        connection.execute(
            sqlalchemy.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        )
    engine.dispose()


def test_a_lock_that_the_database_dropped_is_taken_again(database: str) -> None:
    lock = DatabaseLock(database, "dropped")
    lock.check()
    drop_sessions(database)
    lock.check()
    with pytest.raises(RequestError, match="another coordinator"):
        DatabaseLock(database, "dropped")
    lock.close()
    DatabaseLock(database, "dropped").close()


def test_a_coordinator_that_lost_its_study_writes_no_more(database: str, tmp_path: Path) -> None:
    settings = make.compose_settings(f"storage.uri='{database}'", "study=lost")
    with closing(Study(settings, tmp_path)) as first:
        lose(first, settings, database, tmp_path)


def lose(first: Study, settings: Settings, database: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="study lost is being run by another coordinator"):
        Study(settings, tmp_path)
    trial = first.ask(0, [])
    drop_sessions(database)
    with closing(Study(settings, tmp_path)) as second:
        with pytest.raises(OutOfReachError, match="another one runs study lost now; this one stops"):
            first.ask([trial])
        assert first.away
        assert [known.status for known in second.known()] == [Status.RUNNING]
