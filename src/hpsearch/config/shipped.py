"""The shipped folder of configurations, listed without slow imports."""

import re
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


def as_typed(text: str) -> str:
    """Return a text for people with its commands as they are typed here: with make in a checkout, else with hpsearch.

    In the text they are as with make: `make sweep`, STUDY=..., ARGS=--force, ARGS='--force "why"'.
    """
    if has_make():
        return text
    text = re.sub(r"\bARGS=(?:'([^']*)'|(\S+))", lambda found: found[1] or found[2], text)
    text = re.sub(r"\b(?:TASK|MODEL|SEARCH|BUDGET|STUDY)=", lambda found: found[0].lower(), text)
    return re.sub(r"`make (?=sweep|train|promote)", "`hpsearch ", text)


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
