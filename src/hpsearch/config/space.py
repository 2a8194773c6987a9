"""The search space: settings to Optuna's distributions, and sampled parameters back to settings."""

from collections.abc import Mapping
from typing import Any

import optuna
from pydantic import ValidationError

from hpsearch.config.dimensions import SEARCHABLE, Dimension, Interval
from hpsearch.config.section import replace
from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError

Params = dict[str, Any]
RECIPE = ("train.learning_rate", "train.batch_size", "train.epochs", "train.warmup")


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension]) -> Params:
    """Ask Optuna for every dimension that exists for this trial, parents of a condition first."""
    params: Params = {}
    for path in _parents_first(space):
        dimension = space[path]
        if all(parent in params and params[parent] in values for parent, values in dimension.when.items()):
            params[path] = _suggest_one(trial, path, dimension)
    return params


def apply(settings: Settings, params: Mapping[str, Any]) -> Settings:
    """The settings of a trial. Raises RequestError where a parameter is no value of its setting."""
    by_section: dict[str, Params] = {}
    for path, value in params.items():
        section, field = path.split(".")
        by_section.setdefault(section, {})[field] = value
    try:
        changed = {name: replace(getattr(settings, name), values) for name, values in by_section.items()}
    except ValidationError as error:
        raise RequestError(f"the parameters {dict(params)} do not fit the settings: {error}") from None
    return settings.model_copy(update=changed)


def own(settings: Settings) -> Params:
    """The settings' own values of what is searched, whether they lie in the space or not: the reference recipe."""
    params: Params = {}
    for path in _parents_first(settings.search.space):
        dimension = settings.search.space[path]
        if all(parent in params and params[parent] in values for parent, values in dimension.when.items()):
            value, choices = _value(settings, path), getattr(dimension, "choices", ())
            params[path] = next((choice for choice in choices if choice == value), value)  # 2 where they say 2, not 2.0
    return params


def reference(settings: Settings) -> Params | None:
    """The settings' own values as a point of the space; None where one of them lies outside it."""
    params = own(settings)
    return params if all(_holds(settings.search.space[path], value) for path, value in params.items()) else None


def recipe(settings: Settings, params: Mapping[str, Any]) -> Params:
    """What a reader wants to know of a point: rate, batch size, epochs and warm-up, and whatever else it sets.

    Args:
        settings: of the study.
        params: of the point.
    """
    return {path: _value(settings, path) for path in RECIPE} | dict(params)


def _value(settings: Settings, path: str) -> Any:
    section, field = path.split(".")
    return getattr(getattr(settings, section), field)


def _holds(dimension: Dimension, value: Any) -> bool:
    """Whether a value is one that the dimension can be sampled at."""
    if not isinstance(dimension, Interval):
        return value in dimension.choices
    steps = (value - dimension.low) / dimension.step if dimension.step is not None else 0.0
    return bool(dimension.low <= value <= dimension.high and abs(steps - round(steps)) < 1e-8)  # as Optuna has it


def grid(space: Mapping[str, Dimension]) -> dict[str, list[Any]]:
    """Every value of every dimension, for exhaustive search. Raises RequestError where an interval has no step."""
    values: dict[str, list[Any]] = {}
    for path, dimension in space.items():
        if dimension.when:
            raise RequestError(f"search.space.{path}: a grid has no conditional dimensions; take another sampler")
        if not isinstance(dimension, Interval):
            values[path] = list(dimension.choices)
        elif dimension.step is None:
            raise RequestError(
                f"search.space.{path}: a grid needs choices, or low and high with a step; give one, "
                "or take another sampler (sampler=tpe)"
            )
        else:
            count = int((dimension.high - dimension.low) / dimension.step + 1e-9) + 1
            values[path] = [SEARCHABLE[path](round(dimension.low + i * dimension.step, 12)) for i in range(count)]
    return values


def _suggest_one(trial: optuna.Trial, path: str, dimension: Dimension) -> Any:
    if not isinstance(dimension, Interval):
        return trial.suggest_categorical(path, dimension.choices)
    if SEARCHABLE[path] is int:
        step = int(dimension.step) if dimension.step is not None else 1
        return trial.suggest_int(path, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(path, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def _parents_first(space: Mapping[str, Dimension]) -> list[str]:
    """The space's paths, each after those that its `when` names. Raises RequestError on a circle."""
    order: list[str] = []
    left = list(space)
    while left:
        free = [path for path in left if all(parent in order for parent in space[path].when)]
        if not free:
            raise RequestError(f"search.space: the conditions of {', '.join(left)} refer to each other in a circle")
        order += free
        left = [path for path in left if path not in order]
    return order
