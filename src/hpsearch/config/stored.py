"""Conversion of the settings that a study has stored to the settings of this version.

A configuration must have every setting, and a missing one is an error. A stored study may lack newer settings or have
removed ones. It stays readable for ever, and its settings keep the meaning that they had for the study.
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
    "cluster": {
        **{"name": "local", "address": None, "workers": None, "cpus": None, "gpus": None, "resources": {}},
        **{"processes_per_trial": 1, "shared": True, "autoscaling": False, "environment": "none"},
    },
    "cluster.processes_per_trial": 1,
    "cluster.resources": {},
    "cluster.autoscaling": False,
    "cluster.environment": "none",
    "budget.hours": None,
    "budget.search_examples": None,
    "budget.final": False,
    "budget.final_seeds": 1,
    "budget.floors": False,
    "budget.blend": False,
    "budget.confirmation.examples": None,
}
"""Maps the dotted path of each setting added after format 4 to its value for older studies, as in JSON.

This value means what studies did before. For a new section it is the whole section."""

GONE: dict[str, Any] = {
    "budget.max_hours": None,
    "budget.confirmation.train_factor": 1.0,
    "budget.confirmation.reserve": 0.4,
}
"""Maps the dotted path of each setting removed after format 4 to the value that means what every study does now.

The stored value is no longer read. A study that stored another value cannot continue."""

Plain = dict[str, Any]  # JSON of Settings, or of a part


def readable(stored: Plain) -> Plain:
    """Return stored settings in the form that `Settings` takes: with later settings and without removed ones."""
    found = _with_later(stored)
    for path in GONE:
        for section, name in _place(found, path):
            section.pop(name, None)
    return found


def completed(kept: Plain) -> Plain:
    """Return the settings in a study's identity as this version would have stored them.

    A removed setting stays if its value differs from what every study does now. Then the study was a different one.
    """
    found = _without(_with_later(kept), GONE)
    for dimension in found["search"]["space"].values():  # its optional fields have their defaults in code
        fields = (Choice if "choices" in dimension else Interval).model_fields
        unsaid = {name: field.get_default() for name, field in fields.items() if not field.is_required()}
        dimension |= unsaid | dimension
    return found


def as_before(plain: Plain) -> Plain:
    """Return settings without later ones that mean what studies did before, so that their digest stays the same."""
    return _without(plain, CAME_LATER)


def _with_later(stored: Plain) -> Plain:
    found = copy.deepcopy(stored)
    for path, value in CAME_LATER.items():
        for section, name in _place(found, path):
            section.setdefault(name, copy.deepcopy(value))
    return found


def _without(plain: Plain, values: Plain) -> Plain:
    """Return a copy without those settings at the paths in `values` that have exactly these values."""
    found = copy.deepcopy(plain)
    for path, value in values.items():
        for section, name in _place(found, path):
            if name in section and section[name] == value:
                del section[name]
    return found


def _place(plain: Plain, path: str) -> Iterator[tuple[Plain, str]]:
    """Yield the section that contains a setting, and the setting's name in it.

    Nothing is yielded if the section is missing or null.
    """
    *parents, name = path.split(".")
    section: Any = plain
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if isinstance(section, dict):
        yield section, name
