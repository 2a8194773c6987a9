"""Errors that a user can meet: each has one message and one documented exit code, no traceback and no secret."""

import difflib
import os
import re
from collections.abc import Iterable

SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SHORTEST = 4  # shorter secrets are not searched for in texts


class HpsearchError(Exception):
    """An error that ends the command with `exit_code`. Its text names setting, value, rule and remedy."""

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
    """`fsck` has found faults that it did not repair, or a trial could not be reproduced."""


class Interrupted(HpsearchError):
    """A signal stopped the command; the same command continues from here."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def redact(text: str) -> str:
    """Return `text` without user names, passwords and keys in addresses, and without the credentials of MLflow.

    An error message may contain them, because a server may repeat what it was sent.
    """
    for name in SECRETS:
        if len(secret := os.environ.get(name, "")) >= SHORTEST:
            text = text.replace(secret, "***")
    text = re.sub(
        r"(?i)\b(authorization\W+(?:basic|bearer)) [\w.~+/=-]+", r"\1 ***", text
    )  # headers that a server repeats
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"(?i)([?&][^=\s&]*(?:password|passwd|pwd|token|secret|key)[^=\s&]*=)[^&\s]+", r"\1***", text)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'X'?" with the most similar name, or nothing if no name is similar."""
    lower = {candidate.strip().lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.strip().lower(), list(lower), n=1)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""
