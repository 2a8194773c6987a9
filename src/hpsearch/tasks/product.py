"""What a kind's model is for its users, in plain data: `serving` makes MLflow's and Arrow's types of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STRING, DOUBLE, LONG, BOOLEAN = "string", "double", "long", "boolean"  # as MLflow calls them


@dataclass(frozen=True)
class ListOf:
    """Any number of values of one type."""

    of: "Type"


@dataclass(frozen=True)
class MapOf:
    """Any names, each with a value of one type."""

    of: "Type"


@dataclass(frozen=True)
class Record:
    """These names, each with a value of its type."""

    fields: Mapping[str, "Type"]


Type = str | ListOf | MapOf | Record


@dataclass(frozen=True)
class Product:
    """A served model. It takes a text for each of `Kind.inputs`."""

    script: str
    """File in `serving/` that MLflow runs."""
    outputs: Mapping[str, Type]
    """Columns of the answer, in their order."""
    example: Any
    """What a client may send, JSON-able."""
    added: tuple[str, ...]
    """Those of `outputs` that a file gets as columns."""
