"""The shipped folder of configurations, listed without slow imports."""

from collections.abc import Sequence
from pathlib import Path

ADDRESSES = ("tracking.", "storage.")  # overrides that start so name a server or a database


INSTALLED = Path(__file__).parents[1] / "conf"  # in an installed wheel


def shipped_conf() -> Path:
    """Return the folder of the shipped configurations: inside an installed wheel, or at the top of a checkout."""
    return INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[3] / "conf"


def has_make() -> bool:
    """Return whether this is a checkout, with its Makefile."""
    return not INSTALLED.is_dir()


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
