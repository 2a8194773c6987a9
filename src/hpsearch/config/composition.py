"""Composition with Hydra: choices and settings turn the shipped folder and the user's own into one configuration."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpsearch.config.shipped import groups, options, shipped_conf
from hpsearch.errors import RequestError


def default_choices() -> dict[str, str]:
    """Return the default choice of each group."""
    written = OmegaConf.load(shipped_conf() / "config.yaml").defaults
    return {str(group): choice for entry in written if isinstance(entry, DictConfig) for group, choice in entry.items()}


TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")
HOURS = {"s": 1 / 3600, "m": 1 / 60, "h": 1.0}


def hours_named(hours: float) -> str:
    """Return the budget choice that stands for a number of hours: `15m`, `2h`."""
    return f"{hours:g}h" if hours >= 1 else f"{60 * hours:g}m"


def hours_of(choice: str) -> float | None:
    """Return the hours of a budget choice that is a time, else None."""
    found = TIME.fullmatch(choice)
    return float(found[1]) * HOURS[found[2]] if found is not None else None


def _with_times(overrides: Sequence[str]) -> list[str]:
    """Replace a budget choice that is a time by the budget quick with other hours; other overrides stay."""
    found: list[str] = []
    last = next((text for text in reversed(overrides) if text.startswith("budget=")), None)
    for text in overrides:
        choice = text.removeprefix("budget=")
        hours = hours_of(choice) if text.startswith("budget=") else None
        if hours is None:
            found.append(text)
        elif text == last:  # the last of several choices counts, as in Hydra
            found += ["budget=quick", f"budget.name={choice}", f"budget.hours={hours!r}"]
    own = [text for text in overrides if text.startswith("budget.hours=")]
    return [text for text in found if not own or not text.startswith("budget.hours=")] + own


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """Return the configuration composed from the shipped folder, the user's folder and the overrides.

    Raises:
        RequestError: The overrides or the folder are wrong. The message names the nearest valid names.
    """
    overrides = _with_times(overrides)
    folders = [shipped_conf()]
    if config_dir is not None:
        folders.append(_checked_folder(Path(os.path.expanduser(config_dir)).absolute()))
    parsed = [_parse_override(text, folders) for text in overrides]
    for override in parsed:
        _check_choice(override, folders)
    try:
        config = _compose(overrides, folders)
    except HydraException as error:
        raise RequestError(_explanation(error, overrides, parsed, folders)) from None
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"a configuration file cannot be read: {_one_line(error)}") from None
    if missing := [path for path, value in _nodes(OmegaConf.to_container(config)) if value == "???"]:
        raise RequestError(f"{', '.join(missing)}: required; add {' '.join(f'{path}=...' for path in missing)}")
    return config


def _compose(overrides: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    shipped, *own = folders
    search = [f"hydra.searchpath=[{quoted(f'file://{folder}')}]" for folder in own]
    with initialize_config_dir(str(shipped), version_base="1.3"):
        return hydra_compose("config", overrides=[*search, *overrides])


def quoted(value: str) -> str:
    """Return a value as a quoted string of Hydra, which may contain commas and brackets.

    Only backslashes before a quote are special in such a string.
    """
    return '"' + re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + (r"\"" if found[2] else ""), value) + '"'


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise RequestError(f"--config-dir {folder}: there is no such folder")
    for group in groups(shipped_conf()):
        # Hydra would take the shipped file without a message.
        if both := set(options(group, [folder])) & set(options(group, [shipped_conf()])):
            name = min(both)
            raise RequestError(
                f"--config-dir {folder}: {group}/{name}.yaml has the name of a shipped one; give it another, "
                f"for example {group}/my-{name}.yaml"
            )
    return folder


def _parse_override(text: str, folders: Sequence[Path]) -> Override:
    name, equals, value = text.partition("=")
    if not equals and not text.startswith("~"):
        groups_with = [group for group in groups(folders[0]) if text in options(group, folders)]
        hint = f"did you mean {groups_with[0]}={text}?" if groups_with else "quote a value that has spaces: 'name=a b'"
        raise RequestError(f"{text!r} is no setting=value; {hint}")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        if not re.fullmatch(r"[\w@.:/$~+-]+", name):
            raise RequestError(
                f"{text!r}: {name!r} is no name of a setting; write setting=value without spaces"
            ) from None
        remedy = f"quote it for the shell and for hpsearch: '{name}={quoted(value)}'"
        if value[:1] in "[{'\"":
            remedy = "close every quote and bracket"
        elif value.startswith("~"):
            remedy = "write $HOME for ~"
        raise RequestError(f"{name}: cannot read the value {value}; {remedy}") from None
    if not override.key_or_group:
        raise RequestError(f"{text!r} names no setting; write setting=value")
    if override.is_sweep_override():
        raise RequestError(
            f"{text}: takes one value; a list is written {name}=[...], and what a sweep tries stands under search.space"
        )
    if re.match(r"hydra\b", override.key_or_group):
        raise RequestError(f"{text}: Hydra's own settings have no use here; --config-dir adds a folder")
    return override


def _check_choice(override: Override, folders: Sequence[Path]) -> None:
    """Raise RequestError for an option that its group does not have.

    Groups that only the user's folder has are added with a plus sign, as in Hydra.
    """
    group = override.key_or_group
    shipped, *own = folders
    added = group not in groups(shipped)
    if added and not any(group in groups(folder) for folder in own):
        return
    valid = options(group, folders)
    if override.package is not None or override.type != (OverrideType.ADD if added else OverrideType.CHANGE):
        form = f"+{group}=NAME" if added else f"{group}=NAME"
        raise RequestError(f"{override.input_line}: write {form}; {_valid(valid)}")
    if override.value() not in valid:
        shown = override.get_value_element_as_str()
        longer = [name for name in valid if shown and name.startswith(shown)]
        near = longer or difflib.get_close_matches(shown, valid, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        times = ", and times as 90s, 15m, 2h" if group == "budget" else ""
        raise RequestError(f"{group}={shown}: no such {group}; {meant}{_valid(valid)}{times}")


def _explanation(
    error: HydraException, overrides: Sequence[str], parsed: Sequence[Override], folders: Sequence[Path]
) -> str:
    """Return a message that names every unknown setting with a suggestion, or Hydra's own message.

    Hydra names only the first unknown setting, without a suggestion.
    """
    every_group = {group for folder in folders for group in groups(folder)}
    choices = [text for text, o in zip(overrides, parsed, strict=True) if o.key_or_group in every_group]
    try:
        known = [path for path, _ in _nodes(OmegaConf.to_container(_compose(choices, folders)))]
    except HydraException as choice_error:
        return _one_line(choice_error)
    added = [o.key_or_group for o in parsed if o.is_add() or o.is_force_add()]
    changed = [o.key_or_group for o in parsed if o.type == OverrideType.CHANGE]
    faults = [_unknown_setting(key, known) for key in changed if key not in (*known, *added)]
    return "\n".join(faults) or _one_line(error)


def _unknown_setting(key: str, known: Sequence[str]) -> str:
    if elsewhere := _choices_describing(key):
        return f"{key}: no such setting in this composition; it comes with {' or '.join(elsewhere)}"
    parent, _, leaf = key.rpartition(".")
    siblings = {path.rpartition(".")[2]: path for path in known if path.rpartition(".")[0] == parent}
    same_leaf = sorted((path for path in known if path.rpartition(".")[2] == leaf), key=lambda path: path.count("."))
    near = [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1)]
    near = near or same_leaf or ([] if siblings else difflib.get_close_matches(key, known, n=1))
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{key}: no such setting; {meant}{_valid(list(siblings.values()))}"


def _choices_describing(key: str) -> list[str]:
    """Return the shipped choices whose file has a setting that the composition lacks.

    For example `task=csv` for `task.files.train`.
    """
    group, _, inside = key.partition(".")
    files = sorted((shipped_conf() / group).glob("*.yaml"))
    described = {
        path.stem: [name for name, _ in _nodes(OmegaConf.to_container(OmegaConf.load(path)))] for path in files
    }
    return [f"{group}={name}" for name, known in described.items() if inside in known]


def _valid(names: Sequence[str]) -> str:
    return f"valid: {', '.join(names)}" if names else "`hpsearch config` prints what there is"


def _nodes(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every section and setting with its dotted path."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"{prefix}{key}", child
            yield from _nodes(child, f"{prefix}{key}.")


def _one_line(error: Exception) -> str:
    """Return a library's message without line breaks and without Hydra's search path."""
    lines = [line.strip() for line in str(error).partition("Config search path:")[0].splitlines()]
    return " ".join(line for line in lines if line)
