"""The champion among the versions of a task's registered model: looking it up, changing it, rolling back.

Every change is one tag of the registered model, which `history` reads. The tag is written before the aliases move. So
the next command completes a change that was cut off, and two commands at the same time see each other.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from rich.table import Table
from rich.text import Text

from hpsearch import formats
from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError
from hpsearch.registry import evidence
from hpsearch.registry.evidence import SHORT
from hpsearch.state import codec
from hpsearch.tracking.registered import RegisteredModel, Version
from hpsearch.tracking.runs import Tracking

CHAMPION, PREVIOUS = "champion", "previous"  # aliases
EVENT = "hpsearch.history."  # followed by the time in nanoseconds: the tag of a change of champion
ROLLBACK = "rollback"


@dataclass(frozen=True)
class Change:
    """A change of champion, as a tag of the registered model holds it."""

    time: str
    """Time of the change: UTC, ISO 8601, to the second."""
    version: int
    """Number of the new champion."""
    previous: int | None
    """Number of the former champion; None if there was none."""
    study: str
    """Name of the study that made `version`."""
    how: str
    """How the change was made, such as by a rule or a rollback, for people."""
    why: str
    """Why the change was made, for people."""
    pending: bool = False
    """Whether the change is only announced: the aliases have not moved yet."""


Events = dict[str, Change]  # tag: change of champion; oldest first


def announced(version: Version, former: Version | None, how: str, why: str) -> Change:
    """Return the announcement that `version` becomes the champion.

    `former` is the champion until then, and becomes `previous`; None if there is no champion.
    """
    return Change(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version.number,
        previous=former.number if former is not None else None,
        study=evidence.of(version).study or formats.NONE,
        how=how,
        why=why[:SHORT],
        pending=True,
    )


def champion_uri(settings: Settings, home: Path) -> str:
    """Return the address of the task's champion. Raises RequestError if there is none."""
    model = RegisteredModel(Tracking(settings, home))
    if model.version_of(CHAMPION) is None:
        raise RequestError(
            f"task {settings.task.name} has no champion; promote a finished study of it (`make promote STUDY=...`)"
        )
    return model.address(CHAMPION)


def history(settings: Settings, home: Path) -> Table | str:
    """Return the table of the task's champions, with times and reasons, newest first."""
    model = RegisteredModel(Tracking(settings, home))
    changes = events(model)
    if not changes:
        return f"task {settings.task.name} has had no champion"
    table = Table(title=model.name, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for heading in ("since", "version", "study", "how"):
        table.add_column(heading, no_wrap=heading in ("since", "version"), overflow="fold")
    table.add_column("why", overflow="fold")
    for event in reversed(changes.values()):
        how = f"{event.how}, cut off" if event.pending else event.how
        row = (event.time, str(event.version), event.study, how, event.why)
        table.add_row(*map(Text, row))
    return table


def rollback(settings: Settings, home: Path) -> str:
    """Make `previous` the champion again and the champion `previous`; return a message for the user."""
    model = RegisteredModel(Tracking(settings, home))
    with one_at_a_time(home):
        return _rollback(model)


@contextlib.contextmanager
def one_at_a_time(home: Path) -> Iterator[None]:
    """Let only one command at a time change the champion on this machine; the next one waits and sees the result."""
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "promotion.lock"):
        yield


def change(model: RegisteredModel, seen: Events, event: Change) -> bool:
    """Make another version the champion.

    The change is announced first. Of two commands at the same time, at least one sees the other's announcement and
    withdraws its own.

    Args:
        model: The registered model.
        seen: The model's history, read before the present champion was looked up.
        event: The change, as `announced` returned it.

    Returns:
        False if another command has changed the champion since `seen`; then nothing is changed.
    """
    key = f"{EVENT}{time.time_ns()}"
    _tag(model, key, event)
    if events(model).keys() - {key} != seen.keys():
        return not _withdrawn(model, key, event)
    _move(model, key, event)
    return True


def _withdrawn(model: RegisteredModel, key: str, event: Change) -> bool:
    """Withdraw an announcement, and return whether that worked.

    Returns:
        False if another command took the change for one that was cut off, and completed it.
    """
    if not events(model).get(key, event).pending:
        return False
    model.delete_tag(key)
    champion = model.version_of(CHAMPION)
    if champion is None or champion.number != event.version:
        return True
    _tag(model, key, replace(event, pending=False))
    return False


def _move(model: RegisteredModel, key: str, event: Change) -> None:
    """Move the aliases for an announced change. Harmless when repeated.

    Another command may have made a later change in the meantime. The aliases must follow the newest change, unless that
    is only announced: then the command that announced it makes or withdraws it.
    """
    while True:
        if event.previous is not None:
            model.set_alias(PREVIOUS, event.previous)
        model.set_alias(CHAMPION, event.version)
        _tag(model, key, replace(event, pending=False))
        newest, last = list(events(model).items())[-1]
        champion = model.version_of(CHAMPION)
        if last.pending or (champion is not None and champion.number == last.version):
            return
        key, event = newest, last


def _tag(model: RegisteredModel, key: str, event: Change) -> None:
    model.set_tag(key, codec.write(event))


def complete(model: RegisteredModel) -> Change | None:
    """Complete the last change if it was cut off, and return it; else return None."""
    for key, event in list(events(model).items())[-1:]:
        if event.pending:
            _move(model, key, event)
            return event
    return None


def events(model: RegisteredModel) -> Events:
    """Return the changes of champion, oldest first. Raises RequestError if a tag is damaged."""
    tags = model.tags()
    keys = sorted((key for key in tags if key.startswith(EVENT)), key=lambda key: int(key.removeprefix(EVENT)))
    return {key: codec.read(Change, tags[key], f"{model.name}: its tag {key}", "correct it in MLflow") for key in keys}


def _rollback(model: RegisteredModel) -> str:
    completed = complete(model)
    seen = events(model)
    champion, previous = (model.version_of(alias) for alias in (CHAMPION, PREVIOUS))
    if champion is None or previous is None or champion.number == previous.number:
        raise RequestError(f"{model.name} has no previous champion to go back to")
    if completed is not None and completed.how == ROLLBACK:  # completing it has done what this command was to do
        champion, previous = previous, champion
    else:
        event = announced(previous, champion, ROLLBACK, f"in place of version {champion.number}")
        if not change(model, seen, event):
            return _rollback(model)
    study = evidence.of(previous).study or formats.NONE
    return (
        f"{model.name} version {previous.number} is the champion again (study {study}); "
        f"version {champion.number} is `previous`"
    )
