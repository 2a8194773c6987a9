"""What can go wrong for a user: one message, one documented exit code, no traceback, no secret."""

import difflib
import os
import re
from collections.abc import Iterable

SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SHORTEST = 4  # characters of a secret that is looked for in texts


class HpsearchError(Exception):
    """Ends the command with `exit_code`; its text names the setting, the value, the rule and the remedy."""

    exit_code = 1


class RequestError(HpsearchError):
    """The request is wrong: settings, data, model or memory. Nothing was started."""

    exit_code = 2


class NoResultError(HpsearchError):
    """The budget ended before any trial was complete."""

    exit_code = 3


class PromotionRefused(HpsearchError):
    """The gate keeps the champion; nothing in the registry changed."""

    exit_code = 4


class OutOfReachError(HpsearchError):
    """A component (database, tracking server) does not answer."""

    exit_code = 5


class FaultsFound(HpsearchError):
    """`fsck` has found what it did not mend."""


class Interrupted(HpsearchError):
    """Stopped by a signal; the same command goes on from here."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """What an error says first, or what it is where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def redact(text: str) -> str:
    """`text` without user names, passwords and keys of addresses, and without what lets one into MLflow.

    A server may repeat what it was sent.
    """
    for name in SECRETS:
        if len(secret := os.environ.get(name, "")) >= SHORTEST:
            text = text.replace(secret, "***")
    text = re.sub(
        r"(?i)\b(authorization\W+(?:basic|bearer)) [\w.~+/=-]+", r"\1 ***", text
    )  # a server may repeat what it was sent
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"(?i)([?&][^=\s&]*(?:password|passwd|pwd|token|secret|key)[^=\s&]*=)[^&\s]+", r"\1***", text)


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean 'X'?", or nothing where none is near."""
    lower = {candidate.strip().lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.strip().lower(), list(lower), n=1)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""
