"""Checks that turn a composed configuration into settings, with one message for all faults."""

from collections.abc import Iterator
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from hpsearch.config import stored
from hpsearch.config.section import Section
from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError, first_line, nearest


def load(config: DictConfig) -> Settings:
    """Check a whole composed configuration and return its settings.

    Raises:
        RequestError: The settings are wrong. One message names every fault with dotted path, value and rule.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise RequestError(_omegaconf_message(error)) from None
    if targets := list(_targets(plain, "")):
        raise RequestError(f"_target_ is not allowed in a configuration (found at {', '.join(targets)}); remove it")
    try:
        return Settings.model_validate(tuples(plain))
    except ValidationError as error:
        faults = "\n".join(f"  - {fault}" for fault in _faults(error))
        raise RequestError(f"the settings are wrong:\n{faults}") from None


def from_plain(value: object) -> Settings:
    """Return the settings from plain values, as this version or a former one stored them.

    The plain values are those of `Settings.model_dump` in its mode for JSON.

    Raises:
        RequestError: The values are damaged, or a newer version stored them.
    """
    try:
        return Settings.model_validate(tuples(stored.readable(value) if isinstance(value, dict) else value))
    except ValidationError as error:
        faults = "; ".join(_faults(error))
        raise RequestError(f"these settings are of another version of hpsearch; use that one ({faults})") from None


def from_yaml(text: str) -> Settings:
    """Return the settings from a study's `settings.yaml`, as this version or a former one wrote it.

    Raises:
        RequestError: The file is damaged, or a newer version wrote it.
    """
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"the study's settings.yaml is damaged ({first_line(error)}); restore it") from None
    return from_plain(plain)


def tuples(value: object) -> object:
    """Return a value with its lists as tuples: frozen settings contain no list, and strict validation refuses one."""
    if isinstance(value, dict):
        return {key: tuples(child) for key, child in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def _targets(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            if key == "_target_":
                yield f"{path}{key}"
            yield from _targets(child, f"{path}{key}.")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _targets(child, f"{path}{index}.")


def _omegaconf_message(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", None) or "the configuration"
    return f"{key}: {first_line(error)}"


def _faults(error: ValidationError) -> list[str]:
    """Return the faults in words for the user, one per setting.

    Pydantic reports a wrong value once for each member of a union.
    """
    by_path: dict[str, list[str]] = {}
    for fault in error.errors():
        location = [str(part) for part in fault["loc"] if part not in _BRANCHES]
        by_path.setdefault(".".join(location) or "settings", []).append(_fault(fault, location))
    return ["; or ".join(dict.fromkeys(messages)) for messages in by_path.values()]


# Parts of an error's location that are not settings: they say which member of a union was tried.
_BRANCHES = ("interval", "choice", "bool", "int", "float", "str", "constrained-int", "literal['auto']")


def _fault(error: Any, location: list[str]) -> str:
    path = ".".join(location) or "settings"
    if error["type"] == "extra_forbidden":
        return f"{path}: there is no such setting{nearest(location[-1], _siblings(location))}"
    if error["type"] == "missing":
        return f"{path}: is required"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return message if path == "settings" else f"{path}: {message}"
    return f"{path}={error['input']!r}: {message}"


def _siblings(location: list[str]) -> list[str]:
    """Return the names of the settings in the same section as the one at `location`."""
    section: Any = Settings
    for part in location[:-1]:
        field = section.model_fields.get(part)
        candidates = (
            [
                a
                for a in (getattr(field, "annotation", None), *getattr(field.annotation, "__args__", ()))
                if isinstance(a, type) and issubclass(a, Section)
            ]
            if field
            else []
        )
        if not candidates:
            return []
        section = candidates[0]
    return list(section.model_fields)
