"""The commands that a finished study proposes: changes of the command that made it."""

import shlex
from collections.abc import Mapping, Sequence

from hpsearch.config.composition import default_choices, hours_named, hours_of
from hpsearch.config.settings import Settings
from hpsearch.config.shipped import ADDRESSES, has_make
from hpsearch.errors import redact
from hpsearch.report import beside
from hpsearch.state.outcome import Summary

CHOICES = ("task", "model", "search", "budget", "study")  # these have a make variable of their own
TIMED = ("quick", "standard")  # budgets that state nothing but a time


def commands(settings: Settings, summary: Summary) -> list[tuple[str, str]]:
    """Return what to do next, as (purpose, command), from a study's settings and summary."""
    budget, given = settings.budget, summary.given
    steps = [
        ("see every run in the MLflow UI", _command("ui", {}, [])),
        ("register the winner and make it the champion", _of_study("promote", settings, given)),
        ("serve the champion on this machine", _of_study("serve", settings, given)),
    ]
    if beside.ahead(summary) is not None:
        command = _of_study("promote", settings, given, "--floor")
        steps.insert(2, ("make the best simple model the champion instead", command))
    if _verb(settings) == "train":
        return steps
    if budget.hours is None:
        assert budget.max_trials is not None, "the settings see to it"
        more = [f"budget.max_trials={2 * budget.max_trials}"]
    else:
        more = [_with_hours(_chosen(given)["budget"], 2 * budget.hours)]
    steps.append(("continue this study with twice the budget", _anew("sweep", settings, given, *more)))
    return steps


def again(settings: Settings, given: Sequence[str]) -> str:
    """Return the command that made the study, with its choices written out."""
    return _anew(_verb(settings), settings, given)


def _of_study(verb: str, settings: Settings, given: Sequence[str], *options: str) -> str:
    """Return the command that runs `verb` with the study's own settings.

    Addresses with a password are repeated, because the study does not keep the password.
    """
    secret = [word for word in given if word.startswith(ADDRESSES) and "***" in redact(word)]
    return _command(verb, {"study": settings.study}, [*secret, *options])


def _anew(verb: str, settings: Settings, given: Sequence[str], *overrides: str) -> str:
    """Return the command that runs `verb` (sweep, train) with what was given, changed by `overrides`.

    It names all choices, defaults included, so that it stays right when a default changes.
    """
    own, chosen = _own(given), _chosen([*given, *overrides])
    if "budget" in _own(overrides):  # the chosen budget sets the hours
        given = [word for word in given if _key(word) != "budget.hours"]
    overrides = tuple(word for word in overrides if _key(word) not in CHOICES)
    choices = {"task": chosen["task"], "model": chosen["model"]}
    if "search" in own or verb == "sweep":
        choices["search"] = chosen["search"]
    # The default is that of conf/config.yaml; `train` names its study itself.
    default = f"{settings.task.name}-{settings.model.name}-{settings.search.name}"
    if verb == "sweep" and settings.study != default:
        choices["study"] = settings.study
    choices["budget"] = chosen["budget"]
    replaced = {*CHOICES, *map(_key, overrides)}
    return _command(verb, choices, [*(word for word in given if _key(word) not in replaced), *overrides])


def _command(verb: str, choices: Mapping[str, str], words: Sequence[str]) -> str:
    """Return a command with these choices and further words: with make in a checkout, without it elsewhere."""
    if not has_make():
        return shlex.join(["hpsearch", verb, *(f"{name}={value}" for name, value in choices.items()), *words])
    variables = [f"{name.upper()}={value}" for name, value in choices.items()]
    if words:
        quoted = shlex.quote(shlex.join(words)).replace("$", "$$")  # make reads a single $ as the start of a variable
        variables.append(f"ARGS={quoted}")
    return " ".join(["make", verb, *variables])


def _with_hours(choice: str, hours: float) -> str:
    """Return the override that sets a budget's hours: `budget=2h` if the budget is only a time, else `budget.hours`."""
    named = hours_named(hours)
    if hours_of(choice) is not None or (choice in TIMED and hours_of(named) is not None):
        return f"budget={named}"
    return f"budget.hours={hours!r}"


def _own(given: Sequence[str]) -> dict[str, str]:
    """Return the given values by setting."""
    return {_key(word): word.partition("=")[2] for word in given}


def _chosen(given: Sequence[str]) -> dict[str, str]:
    """Return the choices of a command, defaults included."""
    return default_choices() | _own(given)


def _key(word: str) -> str:
    """Return the setting that an override changes."""
    return word.lstrip("+~").partition("=")[0]


def _verb(settings: Settings) -> str:
    """Return the command that made the study: `train` if nothing was searched, else `sweep`."""
    return "sweep" if settings.search.space else "train"
