"""Commands to a study from another terminal: one file for each command, and one for the coordinator's reply.

A command waits in the study's folder until it is answered. So it needs no running coordinator, and is never lost.
Any user who may write to that folder may steer the study.
"""

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hpsearch import formats
from hpsearch.errors import RequestError
from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import write_durably

REMEDY = "delete it, and give the command again"
SKIPPED = "skipped on request"  # `reason` of a skipped trial


@dataclass(frozen=True)
class Command:
    """A command to a study."""

    verb: Literal["finish", "skip", "try", "extend"]
    time: str
    """UTC, ISO 8601, to the second."""
    trial: int | None = None
    """Number of the trial to skip."""
    params: dict[str, Any] | None = None
    """The point to try."""
    hours: float | None = None
    """Hours that the study is to take in all."""

    @staticmethod
    def now(
        verb: Literal["finish", "skip", "try", "extend"],
        trial: int | None = None,
        params: dict[str, Any] | None = None,
        hours: float | None = None,
    ) -> "Command":
        """Return a command with the present time."""
        return Command(verb, datetime.now(UTC).isoformat(timespec="seconds"), trial, params, hours)

    @property
    def whole(self) -> bool:
        """Whether it has what its verb needs."""
        needed = {"skip": self.trial, "try": self.params, "extend": self.hours, "finish": self.verb}
        return needed[self.verb] is not None

    def __str__(self) -> str:
        if self.trial is not None:
            return f"skip trial {self.trial}"
        if self.params is not None:
            return f"try {formats.parameters(self.params)}"
        return f"extend to {formats.duration(self.hours * 3600)}" if self.hours is not None else self.verb


@dataclass(frozen=True)
class Reply:
    """The coordinator's reply to a command."""

    time: str
    """UTC, ISO 8601, to the second."""
    accepted: bool
    said: str
    """Text of the reply, for people."""


@dataclass(frozen=True)
class Asked:
    """A stored command, with its reply."""

    name: str
    """Name of the command's file; names sort by time."""
    command: Command
    reply: Reply | None
    """Reply to the command; None while it waits."""

    def __str__(self) -> str:
        return f"{self.command.time} {self.command}"


class Steering:
    """The commands of one study."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder

    def ask(self, command: Command) -> str:
        """Write a command, and return its name."""
        name = f"{time.time_ns()}-{secrets.token_hex(4)}"
        write_durably(self._folder.command(name), codec.write(command))
        return name

    def answer(self, asked: Asked, accepted: bool, said: str) -> None:
        """Reply to a command. Only the study's coordinator calls this."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_durably(self._folder.reply(asked.name), codec.write(Reply(now, accepted, said)))

    def reply(self, name: str) -> Reply | None:
        """Return the reply to a command; None if there is none yet. Raises RequestError if its file is damaged."""
        return codec.read_file(Reply, self._folder.reply(name), REMEDY)

    def waiting(self) -> list[str]:
        """Return the names of the commands without a reply, in their order."""
        return [name for name in self._folder.commands() if not self._folder.reply(name).exists()]

    def read(self, name: str) -> Asked:
        """Return a command. Raises RequestError if its file is missing, damaged or incomplete."""
        path = self._folder.command(name)
        command = codec.read_file(Command, path, REMEDY)
        if command is None or not command.whole:
            raise RequestError(f"{path}: is no command; {REMEDY}")
        return Asked(name, command, self.reply(name))

    def accepted(self) -> list[Asked]:
        """Return the accepted commands, in their order. Damaged ones are left out."""
        found = []
        for name in self._folder.commands():
            with contextlib.suppress(RequestError, OSError):
                found.append(self.read(name))
        return [asked for asked in found if asked.reply is not None and asked.reply.accepted]

    def faults(self) -> Iterator[tuple[Path, str]]:
        """Yield the files that cannot be read, each with the reason."""
        for name in self._folder.commands():
            try:
                self.read(name)
            except (RequestError, OSError) as error:
                yield self._folder.command(name), str(error)


def hours(given: float | None, commands: Sequence[Asked]) -> float | None:
    """Return the hours that a study takes in all; None if none were given.

    They are those given when it was started, or those that it was extended to if these are more.
    """
    asked = [one.command.hours for one in commands if one.command.hours is not None]
    return None if given is None else max([given, *asked])


def finishing(commands: Sequence[Asked], done: Sequence[str]) -> bool:
    """Return whether a study is to finish.

    It is if it was asked to finish since its last result and has not been extended after that.

    Args:
        commands: accepted commands, in their order.
        done: names of the commands that the study's result has carried out.
    """
    decisive = [one for one in commands if one.command.verb in ("finish", "extend")]
    return bool(decisive) and decisive[-1].command.verb == "finish" and decisive[-1].name not in done
