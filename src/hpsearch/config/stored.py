"""Settings that a study has stored, in the words of this version, which may have more of them, or fewer.

A user gives every setting, or is told which is missing. A study was begun when there were others: what it stored is
read for ever, and means what the study did.
"""

import copy
from collections.abc import Iterator
from typing import Any

from hpsearch.config.dimensions import Choice, Interval

CAME_LATER: dict[str, Any] = {
    "task.quoting": "double",
    "model.pooling": "first",
    "model.prior.rdrop": [0.0],
    "train.epochs_factor": 1.0,
    "train.examples": None,
    "train.fold": None,
    "train.retimed": [],
    "train.rdrop": 0.0,
    "budget.hours": None,
    "budget.search_examples": None,
    "budget.final": False,
    "budget.final_seeds": 1,
    "budget.floors": False,
    "budget.blend": False,
    "budget.confirmation.examples": None,
}
"""Dotted path of a setting that came after format 4: the value that means what studies did before, as JSON has it.
Of a new section that is all of it."""

GONE: dict[str, Any] = {
    "budget.max_hours": None,
    "budget.confirmation.train_factor": 1.0,
    "budget.confirmation.reserve": 0.4,
}
"""Dotted path of a setting that was taken away after format 4: the value that means what every study does now. What a
study stored for it is no longer read; where it was another value, the study can't go on."""

Plain = dict[str, Any]  # JSON of Settings, or of a part of them


def readable(stored: Plain) -> Plain:
    """Stored settings as `Settings` takes them: with what came later, and without anything that is gone."""
    found = _with_later(stored)
    for path in GONE:
        for section, name in _place(found, path):
            section.pop(name, None)
    return found


def completed(kept: Plain) -> Plain:
    """What a study's identity has kept of its settings, as this version would have kept it.

    A setting that is gone stays where it has another value than every study now: then the study was another one.
    """
    found = _without(_with_later(kept), GONE)
    for dimension in found["search"]["space"].values():  # what it need not say has its default in code
        fields = (Choice if "choices" in dimension else Interval).model_fields
        unsaid = {name: field.get_default() for name, field in fields.items() if not field.is_required()}
        dimension |= unsaid | dimension
    return found


def as_before(plain: Plain) -> Plain:
    """Settings without those that came later and mean what studies did before: a digest of them stays the same."""
    return _without(plain, CAME_LATER)


def _with_later(stored: Plain) -> Plain:
    found = copy.deepcopy(stored)
    for path, value in CAME_LATER.items():
        for section, name in _place(found, path):
            section.setdefault(name, copy.deepcopy(value))
    return found


def _without(plain: Plain, values: Plain) -> Plain:
    """A copy without the settings at the paths in `values` that have just these values."""
    found = copy.deepcopy(plain)
    for path, value in values.items():
        for section, name in _place(found, path):
            if name in section and section[name] == value:
                del section[name]
    return found


def _place(plain: Plain, path: str) -> Iterator[tuple[Plain, str]]:
    """The section that holds a setting, and its name there; nothing where there is no such section, or it is null."""
    *parents, name = path.split(".")
    section: Any = plain
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if isinstance(section, dict):
        yield section, name
