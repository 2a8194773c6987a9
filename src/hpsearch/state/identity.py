"""Whether a study goes on with what it was begun with: question, data, and the code and libraries that make results."""

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

# Of what a study leaves in its folder and in MLflow: one more with each change that former versions can't read. What is
# of format OLDEST or later is read for ever.
OLDEST, FORMAT = 4, 5  # 5: answers with likelihoods, a summary's phases
PACKAGE = Path(__file__).parents[1]
# Of the worker's half: what is in them decides a trial's result, and so do libraries, by their arithmetic or order of
# things. Of what else a worker imports, `config` is compared as settings and not as code; `state` and `errors` only
# carry, keep and say what was computed.
PACKAGES = ("data", "tasks", "training")
SHOWN = 5  # modules that a sentence names
# Settings that change no result.
APART = (
    *("study", "promotion", "hardware", "tracking", "storage", "sampler", "model.license", "task.license"),
    "task.quoting",  # decides what the data are, and their digests are compared
    "model.prior",  # decides what the space is, and that is compared
    *("budget.name", "budget.hours", "budget.max_trials", "budget.startup_trials", "budget.floors", "budget.blend"),
    # A trial says on how many examples it was trained; only those of as many are compared.
    *("budget.search_examples", "budget.final", "budget.final_seeds", "budget.confirmation"),
    *("train.examples", "train.fold", "train.retimed"),
)
LIBRARIES = ("accelerate", "numpy", "safetensors", "scikit-learn", "tokenizers", "torch", "transformers")


def comparable(settings: Settings) -> dict[str, Any]:
    """What makes results of one study comparable: all that changes a trial's result or the choice among trials.

    The budget's trials and hours, the hardware, the gate, and where things are kept are no part of it.
    """
    return _comparable(settings.model_dump(mode="json"))


def _comparable(plain: dict[str, Any]) -> dict[str, Any]:
    """The same of settings as JSON, whole or what an identity has kept of them."""
    for path in APART:
        section, _, name = path.rpartition(".")
        (plain[section] if section else plain).pop(name, None)
    return plain


def check(folder: StudyFolder, settings: Settings, ref: DataRef, force: bool) -> list[str]:
    """See that a study goes on with the same question, data and code as before.

    Args:
        folder: the study's.
        settings: of this run of the command.
        ref: the data of this run.
        force: go on although code or libraries have changed; what has is kept in the file.

    Returns:
        All changes that were ever forced, for people to read.

    Raises:
        RequestError: something has changed, and is not forced or can't be.
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
    if differing or before["format"] != FORMAT:  # from here on its files are this version's
        write_durably(path, json.dumps(before | {"format": FORMAT} | made_now | {"forced": forced}, indent=1))
    return forced


def read_id(folder: StudyFolder) -> str | None:
    """What tells the study in `folder` from others of its name; None where there is none yet."""
    check_folder(folder)
    path = folder.identity
    return str(_read(path)["id"]) if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    """Raises RequestError if the file is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path}: is damaged ({error}); bring it back, or give STUDY=<another name>") from None
    return found


def check_folder(folder: StudyFolder) -> None:
    """See that this version can read what a study has left in `folder`. Raises RequestError if not."""
    path = folder.identity
    if path.exists():
        check_format(folder.name, _read(path))


def check_format(study: str, written: Mapping[str, Any]) -> None:
    """See that this version can read what `written`, a file of a study, belongs to. Raises RequestError if not."""
    found = written.get("format", 0)  # the first had none
    if not OLDEST <= found <= FORMAT:
        age = "an older" if found < OLDEST else "a newer"
        readable = " to ".join(map(str, dict.fromkeys((OLDEST, FORMAT))))
        raise RequestError(
            f"study {study} was written by {age} version of hpsearch: its files have format {found}, and this version "
            f"reads {readable}; use that version for it, or give STUDY=<another name>"
        )


def made_by() -> dict[str, dict[str, str]]:
    """What decides a trial's result beside settings, data and hardware: our code, and libraries."""
    return {"code": _code(), "libraries": _libraries()}


def made_otherwise(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where what made a result differs from `made_by()` of now: a sentence for each library, and one for the code.

    Args:
        then: has `code` and `libraries`, perhaps with more.
        now: the same.
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
    """Where two JSON values differ, as `path: before -> now`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from changes(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield f"{path.removeprefix('settings.')}: {before!r} -> {now!r}"


@functools.cache
def _code() -> dict[str, str]:
    """A digest of each module of PACKAGES, without what it says to people."""
    files = sorted(path for package in PACKAGES for path in (PACKAGE / package).rglob("*.py"))
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): digest(_bare(path)) for path in files}


def _bare(path: Path) -> str:
    """A module without its comments, docstrings, layout and messages."""
    return ast.dump(_Silent().visit(ast.parse(path.read_text(encoding="utf-8"))))


class _Silent(ast.NodeTransformer):
    """Leaves out what only people read.

    That is a string that stands alone, what an error or an assertion says, and any other text of several words: what
    decides a result must be written otherwise.
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
    """Versions without their build: `2.13.0+cpu` is 2.13.0."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}
