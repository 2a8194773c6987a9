"""The shipped folder of configurations, listed without slow imports."""

from collections.abc import Sequence
from pathlib import Path

ADDRESSES = ("tracking.", "storage.")  # overrides that start so name a server or a database


def shipped_conf() -> Path:
    """Return the folder of the shipped configurations: inside an installed wheel, or at the top of a checkout."""
    installed = Path(__file__).parents[1] / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "conf"


def groups(folder: Path) -> list[str]:
    """Return the names of the groups in a folder of configurations."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def options(group: str, folders: Sequence[Path]) -> list[str]:
    """Return the names that can be chosen for a group."""
    return sorted(
        {
            path.relative_to(folder / group).with_suffix("").as_posix()
            for folder in folders
            for path in (folder / group).rglob("*.yaml")
        }
    )
