"""Dimensions of a search space: which settings can be searched, how ranges are written, and their checks."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from hpsearch.config.section import Scalar, Section, replace
from hpsearch.errors import nearest

# Settings that a trial may vary. The seed is not one of them: the best of many seeds is luck, not a better recipe.
SEARCHABLE: dict[str, type] = {
    "train.learning_rate": float,
    "train.batch_size": int,
    "train.epochs": float,
    "train.epochs_factor": float,
    "train.scheduler": str,
    "train.warmup": float,
    "train.weight_decay": float,
    "train.label_smoothing": float,
    "train.rdrop": float,
    "train.class_weights": str,
    "train.max_grad_norm": float,
    "model.dropout": float,
    "model.attention_dropout": float,
    "task.max_length": int,
    "task.truncation": str,
}


class Interval(Section):
    """Lowest and highest value, both included; sampled values have the type of the setting."""

    low: int | float
    """Lowest value, included."""
    high: int | float
    """Highest value, included."""
    log: bool = False
    """true: values are sampled evenly on a logarithmic scale; false: evenly on a linear scale."""
    step: int | float | None = None
    """Distance between two neighbouring values, counted from low; null: any value between low and high."""
    when: dict[str, tuple[Scalar, ...]] = Field(default={})
    """Conditions: path of another searched setting, and its values for which this setting is searched. All conditions
    must hold. Empty: always searched."""

    @property
    def highest(self) -> int | float:
        """Largest value: `high`, or the last value below it if no step from `low` meets it."""
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        found = (high - low) // step * step + low  # as Optuna computes it
        return self.high if found == high else float(found)

    @model_validator(mode="after")
    def _bounds(self) -> "Interval":
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log: true needs low above 0, and low is {self.low}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, and it is {self.step}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other; remove one")
        return self


class Choice(Section):
    """One value from a list."""

    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]
    """Values to choose from."""
    when: dict[str, tuple[Scalar, ...]] = Field(default={})
    """Conditions: path of another searched setting, and its values for which this setting is searched. All conditions
    must hold. Empty: always searched."""


def _kind_of_dimension(value: object) -> str:
    return "choice" if isinstance(value, Choice) or (isinstance(value, dict) and "choices" in value) else "interval"


Dimension = Annotated[
    Annotated[Interval, Tag("interval")] | Annotated[Choice, Tag("choice")], Discriminator(_kind_of_dimension)
]


def faults(path: str, dimension: Dimension, space: Mapping[str, Dimension], settings: Section) -> Iterator[str]:
    """Yield what is wrong with a dimension, each as the end of a sentence that begins with its path.

    Args:
        path: Path of the setting.
        dimension: Range or choices of the setting.
        space: The whole search space.
        settings: All settings, in which the path names a setting.
    """
    if path not in SEARCHABLE:
        yield f"there is no such setting to search{nearest(path, SEARCHABLE)}; these can be: {', '.join(SEARCHABLE)}"
        return
    for parent in dimension.when:
        if parent not in space:
            yield f"when names {parent}, which is not searched{nearest(parent, space)}"
        elif isinstance(of := space[parent], Choice):
            for value in set(dimension.when[parent]) - set(of.choices):
                near = nearest(str(value), map(str, of.choices))
                yield f"when has {parent}: {value!r}, which is none of its choices{near}"
    values = dimension.choices if isinstance(dimension, Choice) else (dimension.low, dimension.high)
    if isinstance(dimension, Interval) and SEARCHABLE[path] is str:
        yield "takes choices, not low and high"
        return
    if isinstance(dimension, Interval) and SEARCHABLE[path] is int and (dimension.step or 1) % 1:
        yield f"takes whole numbers, so step must be one, and it is {dimension.step}"
    for value in values:
        section, field = path.split(".")
        try:
            replace(getattr(settings, section), {field: value})
        except ValidationError as error:
            yield f"{value!r} is no value for {path}: {error.errors()[0]['msg']}"


def flatten(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the dimensions of a nested space as pairs of dotted path and dimension."""
    for key, child in value.items():
        path = f"{prefix}{key}"
        if isinstance(child, dict) and not child.keys() & {"low", "high", "choices"}:
            yield from flatten(child, f"{path}.")
        else:
            yield path, child
