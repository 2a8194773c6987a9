"""The outputs of a kind's served model in plain data, from which types of MLflow and Arrow are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STRING, DOUBLE, LONG, BOOLEAN = "string", "double", "long", "boolean"  # as MLflow calls them


@dataclass(frozen=True)
class ListOf:
    """A list of any number of values of one type."""

    of: "Type"


@dataclass(frozen=True)
class MapOf:
    """A map from any names to values of one type."""

    of: "Type"


@dataclass(frozen=True)
class Record:
    """A record of fixed names, each with a value of its own type."""

    fields: Mapping[str, "Type"]


Type = str | ListOf | MapOf | Record


@dataclass(frozen=True)
class Product:
    """Interface of a served model. It takes a text for each of `Kind.inputs`."""

    script: str
    """File in `serving/` that MLflow runs."""
    outputs: Mapping[str, Type]
    """Columns of the answer with their types, in order."""
    example: Any
    """Example of a request that a client may send, JSON-able."""
    added: tuple[str, ...]
    """Names of the `outputs` that a predicted file gets as columns."""
