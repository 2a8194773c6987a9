"""Which version of a task's registered model is the champion: look it up, change it, roll back.

Every change is one tag of the registered model, which `history` reads. It is written before the aliases move, so a
change that was cut off is completed by the next command, and two that cross see each other.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from mlflow.exceptions import MlflowException
from rich.table import Table
from rich.text import Text

from hpsearch import formats
from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError
from hpsearch.registry.evidence import SHORT, Version
from hpsearch.state import codec
from hpsearch.tracking.runs import Tracking, name_of
from hpsearch.tracking.stores import answered

CHAMPION, PREVIOUS = "champion", "previous"  # aliases
EVENT = "hpsearch.history."  # and the time in nanoseconds: a tag of the registered model for each change of champion
ROLLBACK = "rollback"


@dataclass(frozen=True)
class Change:
    """A change of champion, as a tag of the registered model keeps it."""

    time: str
    """UTC, ISO 8601, to the second."""
    version: int
    """The champion from then on."""
    previous: int | None
    """The champion until then; None where there was none."""
    study: str
    """That `version` is of."""
    how: str
    """It came to this, for people."""
    why: str
    """The same."""
    pending: bool = False
    """Whether it is announced only: the aliases do not follow yet."""


Events = dict[str, Change]  # tag: a change of champion; oldest first


def announced(version: Version, former: Version | None, how: str, why: str) -> Change:
    """`version` is to be the champion in place of `former`, which becomes `previous`; None if there is none."""
    return Change(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version.number,
        previous=former.number if former is not None else None,
        study=version.study or formats.NONE,
        how=how,
        why=why[:SHORT],
        pending=True,
    )


def champion_uri(settings: Settings, home: Path) -> str:
    """The address of the task's champion. Raises RequestError if there is none."""
    if champion_version(Tracking(settings, home), settings) is None:
        raise RequestError(
            f"task {settings.task.name} has no champion; promote a finished study of it (`make promote`, with what its "
            "sweep was given)"
        )
    return f"models:/{name_of(settings)}@{CHAMPION}"


def champion_version(tracking: Tracking, settings: Settings) -> Version | None:
    """The version of the task's registered model that is the champion, or None."""
    return answered(version_of)(tracking, name_of(settings), CHAMPION)


def history(settings: Settings, home: Path) -> Table | str:
    """Which version was champion when, and why, newest first."""
    tracking = Tracking(settings, home)
    changes = answered(events)(tracking, name_of(settings))
    if not changes:
        return f"task {settings.task.name} has had no champion"
    table = Table(title=name_of(settings), box=None, pad_edge=False, header_style="bold", title_justify="left")
    for heading in ("since", "version", "study", "how"):
        table.add_column(heading, no_wrap=heading in ("since", "version"), overflow="fold")
    table.add_column("why", overflow="fold")
    for event in reversed(changes.values()):
        how = f"{event.how}, cut off" if event.pending else event.how
        row = (event.time, str(event.version), event.study, how, event.why)
        table.add_row(*map(Text, row))
    return table


def rollback(settings: Settings, home: Path) -> str:
    """Make `previous` the champion again, and the champion `previous`; returns what was done, for the user."""
    tracking = Tracking(settings, home)
    with one_at_a_time(home):
        return answered(_rollback)(tracking, settings)


@contextlib.contextmanager
def one_at_a_time(home: Path) -> Iterator[None]:
    """On one machine, the second of two that are given at once waits, and sees what the first has done."""
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "promotion.lock"):
        yield


def change(tracking: Tracking, name: str, seen: Events, event: Change) -> bool:
    """Make another version the champion.

    It is announced first: of two commands that cross, at least one sees the other's announcement and withdraws.

    Args:
        tracking: where.
        name: of the registered model.
        seen: its history, as it was before the champion until now was looked at.
        event: what is to be done, by `announced`.

    Returns:
        False if somebody else has changed the champion since; then nothing is changed.
    """
    key = f"{EVENT}{time.time_ns()}"
    _tag(tracking, name, key, event)
    if events(tracking, name).keys() - {key} != seen.keys():
        return not _withdrawn(tracking, name, key, event)
    _move(tracking, name, key, event)
    return True


def _withdrawn(tracking: Tracking, name: str, key: str, event: Change) -> bool:
    """Take an announcement back; False where another command took it for one that was cut off, and completed it."""
    if not events(tracking, name).get(key, event).pending:
        return False
    tracking.client.delete_registered_model_tag(name, key)
    champion = version_of(tracking, name, CHAMPION)
    if champion is None or champion.number != event.version:
        return True
    _tag(tracking, name, key, replace(event, pending=False))
    return False


def _move(tracking: Tracking, name: str, key: str, event: Change) -> None:
    """Let the aliases follow an announced change. Harmless when repeated.

    Another command may have made a later change meanwhile, and the aliases are those of the newest. One that has only
    been announced is its maker's to make or to take back.
    """
    while True:
        if event.previous is not None:
            tracking.client.set_registered_model_alias(name, PREVIOUS, str(event.previous))
        tracking.client.set_registered_model_alias(name, CHAMPION, str(event.version))
        _tag(tracking, name, key, replace(event, pending=False))
        newest, last = list(events(tracking, name).items())[-1]
        champion = version_of(tracking, name, CHAMPION)
        if last.pending or (champion is not None and champion.number == last.version):
            return
        key, event = newest, last


def _tag(tracking: Tracking, name: str, key: str, event: Change) -> None:
    tracking.client.set_registered_model_tag(name, key, codec.write(event))


def complete(tracking: Tracking, name: str) -> Change | None:
    """Complete the last change if it was cut off, and return it."""
    for key, event in list(events(tracking, name).items())[-1:]:
        if event.pending:
            _move(tracking, name, key, event)
            return event
    return None


def events(tracking: Tracking, name: str) -> Events:
    """Changes of champion. Raises RequestError if a tag is damaged."""
    try:
        tags = tracking.client.get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    keys = sorted((key for key in tags if key.startswith(EVENT)), key=lambda key: int(key.removeprefix(EVENT)))
    return {key: codec.read(Change, tags[key], f"{name}: its tag {key}", "mend it in MLflow") for key in keys}


def _rollback(tracking: Tracking, settings: Settings) -> str:
    name = name_of(settings)
    completed = complete(tracking, name)
    seen = events(tracking, name)
    champion, previous = (version_of(tracking, name, alias) for alias in (CHAMPION, PREVIOUS))
    if champion is None or previous is None or champion.number == previous.number:
        raise RequestError(f"{name} has no previous champion to go back to")
    if completed is not None and completed.how == ROLLBACK:  # it is what this command is to do
        champion, previous = previous, champion
    else:
        event = announced(previous, champion, ROLLBACK, f"in place of version {champion.number}")
        if not change(tracking, name, seen, event):
            return _rollback(tracking, settings)
    return (
        f"{name} version {previous.number} is the champion again (study {previous.study or formats.NONE}); "
        f"version {champion.number} is `previous`"
    )


def version_of(tracking: Tracking, name: str, alias: str) -> Version | None:
    """The version that the alias names, or None."""
    try:
        return Version.of(tracking.client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
            return None
        raise
