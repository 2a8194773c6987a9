"""Shell completion of choices and study names. `register-python-argcomplete hpsearch` turns it on."""

import argparse
import contextlib
import os

from hpsearch.config.shipped import groups, options, shipped_conf
from hpsearch.errors import RequestError
from hpsearch.state.folder import StudyFolder

ASKED = "_ARGCOMPLETE"  # environment variable that a shell sets to ask for completions


def of_choice(prefix: str, **_: object) -> list[str]:
    """Return the choices of all groups, such as `task=imdb`; `prefix` is the text typed so far."""
    folder = shipped_conf()
    return [f"{group}={name}" for group in groups(folder) for name in options(group, [folder])]


def of_study(prefix: str, **_: object) -> list[str]:
    """Return the names of the studies in the state folder."""
    from hpsearch.cli import home  # not above: it imports this module

    with contextlib.suppress(RequestError):
        return [folder.name for folder in StudyFolder.all(home())]
    return []


def answer(parser: argparse.ArgumentParser) -> None:
    """Print completions and end the process, if a shell asks for them."""
    if ASKED in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
