"""Checks that a study continues with the question, data, code and libraries that it began with."""

import ast
import functools
import importlib.metadata
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpsearch.config import stored
from hpsearch.config.settings import Settings, digest
from hpsearch.errors import RequestError
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import DataRef, write_durably

# Format of what a study leaves in its folder and in MLflow. It goes up by one with each change that earlier versions
# can't read. Formats from OLDEST on stay readable for ever.
OLDEST, FORMAT = 4, 5  # 5 added likelihoods to answers, and phases to the summary
PACKAGE = Path(__file__).parents[1]
# Packages that a worker runs. Their code decides a trial's result. Libraries do so too, by their arithmetic or their
# order of things. A worker also imports `config`, which is compared as settings and not as code. It imports `state` and
# `errors` too, which only carry, store and report what was computed.
PACKAGES = ("data", "tasks", "training")
SHOWN = 5  # modules that a message names
# Settings that change no result, or whose effect is compared elsewhere.
APART = (
    *("study", "promotion", "hardware", "cluster", "tracking", "storage", "sampler", "model.license", "task.license"),
    "task.quoting",  # it decides what the data are, and their digests are compared
    "model.prior",  # it decides what the space is, and the space is compared
    *("budget.name", "budget.hours", "budget.max_trials", "budget.startup_trials", "budget.floors", "budget.blend"),
    # A trial records its number of training examples, and only trials with the same number are compared.
    *("budget.search_examples", "budget.final", "budget.final_seeds", "budget.confirmation"),
    *("train.examples", "train.fold", "train.retimed"),
)
LIBRARIES = ("accelerate", "numpy", "safetensors", "scikit-learn", "tokenizers", "torch", "transformers")


def comparable(settings: Settings) -> dict[str, Any]:
    """Return the settings that must stay the same for results of one study to be comparable.

    They change a trial's result or the choice among trials. The budget's trials and hours, the hardware, the gate and
    the places of storage are no part of them.
    """
    return _comparable(settings.model_dump(mode="json"))


def _comparable(plain: dict[str, Any]) -> dict[str, Any]:
    """Do the same for settings as JSON: all of them, or those that an identity file keeps."""
    for path in APART:
        section, _, name = path.rpartition(".")
        (plain[section] if section else plain).pop(name, None)
    return plain


def check(folder: StudyFolder, settings: Settings, ref: DataRef, force: bool) -> list[str]:
    """Check that a study continues with the same question, data and code as before.

    Args:
        folder: folder of the study.
        settings: settings of this run of the command.
        ref: data of this run.
        force: continue even if code or libraries have changed; the identity file keeps these changes.

    Returns:
        All changes that were ever forced, for people to read.

    Raises:
        RequestError: something has changed, and the change is not forced or can't be.
    """
    path = folder.identity
    question = json.loads(json.dumps({"settings": comparable(settings), "data": ref.digests}))
    made_now = made_by()
    if not path.exists():
        begun = {"format": FORMAT, "id": uuid.uuid4().hex, **question, **made_now, "forced": []}
        write_durably(path, json.dumps(begun, indent=1))
        return []
    check_folder(folder)
    before = _read(path)
    forced: list[str] = before.pop("forced", [])
    begun_with = {"settings": _comparable(stored.completed(before["settings"])), "data": before["data"]}
    if differing := list(changes(begun_with, question)):
        raise RequestError(
            f"study {settings.study} was begun with other settings or data, so its trials can't be compared:\n"
            + "\n".join(f"  - {change}" for change in differing)
            + "\ngive STUDY=<another name>, or the former values"
        )
    differing = made_otherwise(before, made_now)
    if differing and not force:
        raise RequestError(
            f"study {settings.study} was begun with other code or libraries, which can change a trial's result:\n"
            + "\n".join(f"  - {change}" for change in differing)
            + "\ngive STUDY=<another name>, go back to the former versions, or go on all the same with ARGS=--force"
        )
    today = datetime.now(UTC).date().isoformat()
    forced += [f"{today}: {change}" for change in differing]
    if differing or before["format"] != FORMAT:  # from here on this version writes the study's files
        write_durably(path, json.dumps(before | {"format": FORMAT} | made_now | {"forced": forced}, indent=1))
    return forced


def read_id(folder: StudyFolder) -> str | None:
    """Return the id that tells the study in `folder` from others of its name; None if it has none yet."""
    check_folder(folder)
    path = folder.identity
    return str(_read(path)["id"]) if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    """Read an identity file. Raises RequestError if it is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path}: is damaged ({error}); restore it, or give STUDY=<another name>") from None
    return found


def check_folder(folder: StudyFolder) -> None:
    """Check that this version can read what a study has left in `folder`. Raises RequestError if not."""
    path = folder.identity
    if path.exists():
        check_format(folder.name, _read(path))


def check_format(study: str, written: Mapping[str, Any]) -> None:
    """Check that this version can read a study, by one of its files, `written`. Raises RequestError if not."""
    found = written.get("format", 0)  # the first format had no number
    if not OLDEST <= found <= FORMAT:
        age = "an older" if found < OLDEST else "a newer"
        readable = " to ".join(map(str, dict.fromkeys((OLDEST, FORMAT))))
        raise RequestError(
            f"study {study} was written by {age} version of hpsearch: its files have format {found}, and this version "
            f"reads {readable}; use that version for it, or give STUDY=<another name>"
        )


def made_by() -> dict[str, dict[str, str]]:
    """Return what decides a trial's result besides settings, data and hardware: our code, and libraries."""
    return {"code": _code(), "libraries": _libraries()}


def made_otherwise(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences in code and libraries: one line for each library, and one for the code.

    Args:
        then: what made a result, with keys `code` and `libraries` and perhaps others.
        now: the same for the present, by `made_by`.
    """
    differing = list(changes({"libraries": then["libraries"]}, {"libraries": now["libraries"]}))
    code, ours = then["code"], now["code"]
    names = sorted(name for name in code.keys() | ours.keys() if code.get(name) != ours.get(name))
    if names and not code.keys() & ours.keys():
        differing.append("code: its modules had other names then, so what of it has changed is not known")
    elif names:
        more = f" and {len(names) - SHOWN} more modules" if len(names) > SHOWN else ""
        differing.append(f"code: {', '.join(names[:SHOWN])}{more}")
    return differing


def changes(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield the differences of two JSON values, as `path: before -> now`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from changes(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield f"{path.removeprefix('settings.')}: {before!r} -> {now!r}"


@functools.cache
def _code() -> dict[str, str]:
    """Return a digest of each module of PACKAGES, without its texts for people."""
    files = sorted(path for package in PACKAGES for path in (PACKAGE / package).rglob("*.py"))
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): digest(_bare(path)) for path in files}


def _bare(path: Path) -> str:
    """Return a module's syntax without comments, docstrings, layout and messages."""
    return ast.dump(_Silent().visit(ast.parse(path.read_text(encoding="utf-8"))))


class _Silent(ast.NodeTransformer):
    """Removes from a syntax tree what only people read.

    This is a string that stands alone, the message of an error or an assertion, and any other text of several words.
    So no text of several words may decide a result.
    """

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) and _is_prose(node.value) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        said = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        return ast.Constant("") if _is_prose(said) else self.generic_visit(node)


def _is_prose(text: str) -> bool:
    return re.search(r"[^\W\d_]\W*\s\W*[^\W\d_]", text) is not None


def _libraries() -> dict[str, str]:
    """Return the versions without their build: `2.13.0+cpu` is 2.13.0."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}
