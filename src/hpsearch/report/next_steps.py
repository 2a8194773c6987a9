"""The commands that a finished study proposes: changes of the command that made it."""

import shlex
from collections.abc import Sequence

from hpsearch.config.composition import default_choices, hours_named, hours_of
from hpsearch.config.settings import Settings
from hpsearch.report import beside
from hpsearch.state.outcome import Summary

CHOICES = ("task", "model", "search", "budget", "study")  # these have a make variable of their own
TIMED = ("quick", "standard")  # budgets that state nothing but a time


def commands(settings: Settings, summary: Summary) -> list[tuple[str, str]]:
    """Return what to do next, as (purpose, command), from a study's settings and summary."""
    budget, given = settings.budget, summary.given
    steps = [
        ("see every run in the MLflow UI", "make ui"),
        ("register the winner and make it the champion", make("promote", settings, given)),
        ("serve the champion on this machine", make("serve", settings, given)),
    ]
    if beside.ahead(summary) is not None:
        command = make("promote", settings, given, "--floor")
        steps.insert(2, ("make the best simple model the champion instead", command))
    if _verb(settings) == "train":
        return steps
    if budget.hours is None:
        assert budget.max_trials is not None, "the settings see to it"
        more = [f"budget.max_trials={2 * budget.max_trials}"]
    else:
        more = [_with_hours(_chosen(given)["budget"], 2 * budget.hours)]
    steps.append(("continue this study with twice the budget", make("sweep", settings, given, *more)))
    return steps


def again(settings: Settings, given: Sequence[str]) -> str:
    """Return the command that made the study, with its choices written out."""
    return make(_verb(settings), settings, given)


def make(verb: str, settings: Settings, given: Sequence[str], *overrides: str) -> str:
    """Return the make command that runs `verb` with what was given, changed by `overrides`.

    It names all choices, defaults included, so that it stays right when a default changes.
    """
    if verb == "serve":  # it takes neither a model nor a search
        given = [word for word in given if _key(word).startswith(("task", "tracking.", "--"))]
    own, chosen = _own(given), _chosen([*given, *overrides])
    if "budget" in _own(overrides):  # the chosen budget sets the hours
        given = [word for word in given if _key(word) != "budget.hours"]
    overrides = tuple(word for word in overrides if _key(word) not in CHOICES)
    words = [f"TASK={chosen['task']}"]
    if verb in ("sweep", "train", "promote"):
        words.append(f"MODEL={chosen['model']}")
    if "search" in own or verb == "sweep" or (verb == "promote" and _verb(settings) == "sweep"):
        words.append(f"SEARCH={chosen['search']}")
    # The default is that of conf/config.yaml; `train` names its study itself.
    default = f"{settings.task.name}-{settings.model.name}-{settings.search.name}"
    if verb in ("sweep", "promote") and settings.study != default:
        words.append(f"STUDY={settings.study}")
    if verb in ("sweep", "train"):
        words.append(f"BUDGET={chosen['budget']}")
    replaced = {*CHOICES, *map(_key, overrides)}
    if arguments := [*(word for word in given if _key(word) not in replaced), *overrides]:
        quoted = shlex.quote(shlex.join(arguments))
        words.append(f"ARGS={quoted.replace('$', '$$')}")  # make reads a single $ as the start of a variable
    return " ".join(["make", verb, *words])


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
