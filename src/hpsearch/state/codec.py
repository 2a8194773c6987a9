"""Frozen dataclasses to JSON and back, for every stored result: in a study's folder, in MLflow, in the registry.

A key that is newer than a file has a default in its class. The default stands for what was done before the key existed.
A key that only a newer version knows is ignored.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hpsearch.errors import RequestError

T = TypeVar("T")

_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # kept, because making one takes milliseconds


def write(result: object, indent: int | None = None) -> str:
    """Return a dataclass as JSON, with keys in the order of its fields. An infinite loss stays infinite."""
    return json.dumps(_adapter(type(result)).dump_python(result), indent=indent)


def plain(result: object) -> Any:
    """Return a dataclass as the values that JSON has: dictionaries, lists, strings, numbers."""
    return json.loads(write(result))


def parse(kind: type[T], text: str) -> T:
    """Read a dataclass from JSON.

    Raises:
        ValueError: the text is no JSON, lacks a key, or has a value of another type.
    """
    adapter: TypeAdapter[T] = _adapter(kind)
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{path}: {fault['msg']}" if path else fault["msg"]) from None


def read(kind: type[T], text: str, where: str, remedy: str) -> T:
    """Read a dataclass from JSON that users can restore.

    Args:
        kind: class of the result.
        text: the JSON.
        where: place of the JSON, for the message.
        remedy: what to do if it is damaged, for the message.

    Raises:
        RequestError: the JSON is damaged, as `parse` says.
    """
    try:
        return parse(kind, text)
    except ValueError as error:
        raise RequestError(f"{where}: is damaged ({error}); {remedy}") from None


def read_file(kind: type[T], path: Path, remedy: str) -> T | None:
    """Read a dataclass from a JSON file; None if there is no file. Raises RequestError as `read` does."""
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
