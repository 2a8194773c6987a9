"""What a shell proposes after TAB: choices and names of studies. `register-python-argcomplete hpsearch` turns it on."""

import argparse
import os
from pathlib import Path

from hpsearch.config.composition import groups, options, shipped_conf
from hpsearch.state.folder import StudyFolder

ASKED = "_ARGCOMPLETE"  # in the environment, where a shell asks


def of_choice(prefix: str, **_: object) -> list[str]:
    """Choices of groups: `task=imdb`; `prefix` is what is typed so far."""
    folder = shipped_conf()
    return [f"{group}={name}" for group in groups(folder) for name in options(group, [folder])]


def of_study(prefix: str, **_: object) -> list[str]:
    """Names of the studies here."""
    home = Path(os.environ.get("HPSEARCH_HOME") or "runs").expanduser()
    return [folder.name for folder in StudyFolder.all(home)]


def answer(parser: argparse.ArgumentParser) -> None:
    """Propose, and end the process, where a shell asks."""
    if ASKED in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
