"""Frozen dataclasses to JSON and back, for every result that is kept: in a study's folder, in MLflow, in the registry.

A key that came later than a file has a default in its class, which means what was done before there was the key. A
key that only a newer version knows is passed over.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hpsearch.errors import RequestError

T = TypeVar("T")

_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # made once: each takes milliseconds


def write(result: object, indent: int | None = None) -> str:
    """A dataclass as JSON, keys in the order of its fields. A loss may be inf, and stays it."""
    return json.dumps(_adapter(type(result)).dump_python(result), indent=indent)


def plain(result: object) -> Any:
    """What JSON makes of a dataclass: dictionaries, lists, strings, numbers."""
    return json.loads(write(result))


def parse(kind: type[T], text: str) -> T:
    """A dataclass from JSON. Raises ValueError if it is no JSON, lacks a key, or has a value of another type."""
    adapter: TypeAdapter[T] = _adapter(kind)
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{path}: {fault['msg']}" if path else fault["msg"]) from None


def read(kind: type[T], text: str, where: str, remedy: str) -> T:
    """A dataclass from JSON that people can bring back.

    Args:
        kind: of result.
        text: the JSON.
        where: it stands, for people.
        remedy: for a damaged one.

    Raises:
        RequestError: it is damaged, as `parse` says.
    """
    try:
        return parse(kind, text)
    except ValueError as error:
        raise RequestError(f"{where}: is damaged ({error}); {remedy}") from None


def read_file(kind: type[T], path: Path, remedy: str) -> T | None:
    """A dataclass from a JSON file, None where there is no file. Raises RequestError as `read` does."""
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise RequestError(f"{path}: is damaged ({error}); {remedy}") from None
    return read(kind, text, str(path), remedy)


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
