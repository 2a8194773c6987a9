"""The search space: its points, and the settings that sampled parameters give."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hpsearch import formats
from hpsearch.config.dimensions import SEARCHABLE, Dimension, Interval
from hpsearch.config.section import replace
from hpsearch.config.settings import Settings, possible
from hpsearch.errors import RequestError, nearest

Params = dict[str, Any]
RATE, RDROP = "train.learning_rate", "train.rdrop"
OTHER_RATES = (2.0, 0.5)  # multiples of the reference recipe's learning rate: experiments/2026-11-table
RECIPE = (RATE, "train.batch_size", "train.epochs", "train.warmup")


def apply(settings: Settings, params: Mapping[str, Any]) -> Settings:
    """Return the settings of a trial. Raises RequestError if a parameter is not a valid value of its setting."""
    by_section: dict[str, Params] = {}
    for path, value in params.items():
        section, field = path.split(".")
        by_section.setdefault(section, {})[field] = value
    try:
        changed = {name: replace(getattr(settings, name), values) for name, values in by_section.items()}
    except ValidationError as error:
        raise RequestError(f"the parameters {dict(params)} do not fit the settings: {error}") from None
    return settings.model_copy(update=changed)


def reference(settings: Settings) -> Params:
    """Return the reference recipe: the settings' own values of all searched settings, inside the space or not."""
    return _completed(settings, {})


def reference_point(settings: Settings) -> Params | None:
    """Return the reference recipe as a point of the space, or None if one of its values lies outside the space."""
    return _inside(settings, reference(settings))


def moved(settings: Settings, params: Params, path: str, value: Any) -> Params | None:
    """Return the point with another value of one setting; None if that lies outside the space.

    A setting that exists only at the other point has the reference recipe's value.
    """
    return _inside(settings, _completed(settings, params | {path: value}))


def point(settings: Settings, given: Mapping[str, Any]) -> Params:
    """Return the point of the space with the given values. All other values are those of the reference recipe.

    Raises:
        RequestError: A value lies outside the space, or belongs to a setting that is not searched.
    """
    space = settings.search.space
    for name in given:
        if name not in space:
            raise RequestError(f"{name}: is not searched in study {settings.study}{nearest(name, space)}")
        if not _fits(name, given[name]) or not _holds(space[name], given[name]):
            raise RequestError(f"{name}={given[name]}: lies outside of the space, which has {_extent(space[name])}")
    params = _completed(settings, given)
    for path, value in params.items():
        if not _holds(space[path], value):
            raise RequestError(
                f"{path}: the reference recipe's {formats.value(value)} lies outside of the space, which has "
                f"{_extent(space[path])}; give {path} too"
            )
    if beside := sorted(given.keys() - params.keys()):
        raise RequestError(
            f"{beside[0]}: does not exist at this point; search.space.{beside[0]}.when says where it does"
        )
    return params


def to_try(settings: Settings) -> list[Params]:
    """Return the few points to try if the hours are too few for a search.

    The first point is the reference recipe, the second the same with R-Drop. The others have other learning rates. With
    `budget.max_trials=1` there is only the reference recipe. The list is empty if the recipe lies outside the space.
    """
    point = reference_point(settings)
    if point is None:
        return []
    found, rate = [point], point.get(RATE)
    if settings.budget.max_trials == 1:
        return found
    if point.get(RDROP) == 0:
        dropped = [moved(settings, point, RDROP, weight) for weight in possible(settings, RDROP) if weight]
        found += [one for one in dropped[:1] if one is not None]
    others = [] if rate is None else [moved(settings, found[-1], RATE, times * rate) for times in OTHER_RATES]
    return found + [one for one in others if one is not None]


def recipe(settings: Settings, params: Mapping[str, Any]) -> Params:
    """Return what a reader wants to know about a point: learning rate, batch size, epochs, warm-up and its parameters.

    Args:
        settings: Settings of the study.
        params: Parameters of the point.
    """
    return {path: _value(settings, path) for path in RECIPE} | dict(params)


def _completed(settings: Settings, given: Mapping[str, Any]) -> Params:
    """Return all parameters that exist together, with the reference recipe's values where none is given."""
    params: Params = {}
    for path in parents_first(settings.search.space):
        dimension = settings.search.space[path]
        if exists(dimension, params):
            value, choices = given.get(path, _value(settings, path)), getattr(dimension, "choices", ())
            params[path] = next((choice for choice in choices if choice == value), value)  # the choice 2, not 2.0
    return params


def _inside(settings: Settings, params: Params) -> Params | None:
    """Return the parameters if they are a point of the space, else None."""
    return params if all(_holds(settings.search.space[path], value) for path, value in params.items()) else None


def _value(settings: Settings, path: str) -> Any:
    section, field = path.split(".")
    return getattr(getattr(settings, section), field)


def _holds(dimension: Dimension, value: Any) -> bool:
    """Return whether a dimension contains a value. An interval never contains None, which follows from the data."""
    if not isinstance(dimension, Interval):
        return value in dimension.choices
    if value is None:
        return False
    steps = (value - dimension.low) / dimension.step if dimension.step is not None else 0.0
    return bool(dimension.low <= value <= dimension.high and abs(steps - round(steps)) < 1e-8)  # as in Optuna


def _fits(path: str, value: Any) -> bool:
    """Return whether a value has the setting's type or is None."""
    kind = SEARCHABLE[path]
    return value is None or (isinstance(value, kind | int if kind is float else kind) and not isinstance(value, bool))


def _extent(dimension: Dimension) -> str:
    """Return the range or the choices of a dimension in words."""
    if not isinstance(dimension, Interval):
        return ", ".join(map(formats.value, dimension.choices))
    steps = f" in steps of {formats.value(dimension.step)}" if dimension.step is not None else ""
    return f"{formats.value(dimension.low)} to {formats.value(dimension.high)}{steps}"


def exists(dimension: Dimension, params: Mapping[str, Any]) -> bool:
    """Return whether a point with these parameters so far has this dimension."""
    return all(parent in params and params[parent] in values for parent, values in dimension.when.items())


def grid(space: Mapping[str, Dimension]) -> dict[str, list[Any]]:
    """Return every value of every dimension, for a grid search.

    Raises:
        RequestError: An interval has no step, or a dimension is conditional.
    """
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


def parents_first(space: Mapping[str, Dimension]) -> list[str]:
    """Return the paths of the space, each after the paths in its `when`. Raises RequestError if they form a circle."""
    order: list[str] = []
    left = list(space)
    while left:
        free = [path for path in left if all(parent in order for parent in space[path].when)]
        if not free:
            raise RequestError(f"search.space: the conditions of {', '.join(left)} refer to each other in a circle")
        order += free
        left = [path for path in left if path not in order]
    return order
