"""Whether a study goes on with what it was begun with: question, data, and the code and libraries that make results."""

import ast
import functools
import importlib.metadata
import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpsearch.config.settings import Settings, digest
from hpsearch.errors import RequestError
from hpsearch.state.records import DataRef, write_durably

IDENTITY = "identity.json"  # file of a study
# Of what a study leaves in its folder and in MLflow: one more with each change that makes older ones unreadable.
FORMAT = 4
# What a worker imports of hpsearch, and the libraries whose arithmetic or order of things decides a trial's result.
MODULES = (
    *("config/dimensions", "config/section", "config/settings", "data/examples", "data/reading", "data/text"),
    *(
        "data/tokens",
        "errors",
        "state/facts",
        "state/folder",
        "state/measured",
        "state/records",
        "tasks/classification",
        "tasks/kind",
        "tasks/kinds",
        "tasks/labels",
    ),
    *("tasks/metrics", "tasks/question_answering", "tasks/squad", "tasks/windows", "training/checkpoints"),
    *("training/data", "training/encoders", "training/hardware", "training/kernels", "training/models"),
    *("training/trainer", "training/trial", "training/worker"),
)
LIBRARIES = ("accelerate", "numpy", "safetensors", "scikit-learn", "tokenizers", "torch", "transformers")


def comparable(settings: Settings) -> dict[str, Any]:
    """What makes results of one study comparable: all that changes a trial's result or the choice among trials.

    The budget's trials and hours, the hardware, the gate, and where things are kept are no part of it.
    """
    dump = settings.model_dump(mode="json")
    del dump["model"]["license"], dump["task"]["license"]
    for key in ("study", "promotion", "hardware", "tracking", "storage", "sampler"):
        del dump[key]
    for key in ("name", "max_trials", "max_hours", "startup_trials"):
        del dump["budget"][key]
    # Runs with more seeds, or of more points, can be compared with those that are there.
    dump["budget"]["confirmation"] = {"train_factor": settings.budget.confirmation.train_factor}
    return dump


def check(folder: Path, settings: Settings, ref: DataRef, force: bool) -> list[str]:
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
    path = folder / IDENTITY
    question = json.loads(json.dumps({"settings": comparable(settings), "data": ref.digests}))
    made_now = made_by()
    if not path.exists():
        begun = {"format": FORMAT, "id": uuid.uuid4().hex, **question, **made_now, "forced": []}
        write_durably(path, json.dumps(begun, indent=1))
        return []
    check_folder(folder)
    before = _read(path)
    forced: list[str] = before.pop("forced", [])
    if differing := list(changes({key: before.get(key) for key in question}, question)):
        raise RequestError(
            f"study {settings.study} was begun with other settings or data, so its trials can't be compared:\n"
            + "\n".join(f"  - {change}" for change in differing)
            + "\ngive STUDY=<another name>, or the former values"
        )
    differing = list(changes({key: before.get(key) for key in made_now}, made_now))
    if differing and not force:
        raise RequestError(
            f"study {settings.study} was begun with other code or libraries, which can change a trial's result:\n"
            + "\n".join(f"  - {change}" for change in differing)
            + "\ngive STUDY=<another name>, go back to the former versions, or go on all the same with ARGS=--force"
        )
    if differing:
        today = datetime.now(UTC).date().isoformat()
        forced += [f"{today}: {change}" for change in differing]
        write_durably(path, json.dumps(before | made_now | {"forced": forced}, indent=1))
    return forced


def read_id(folder: Path) -> str | None:
    """What tells the study in `folder` from others of its name; None where there is none yet."""
    check_folder(folder)
    path = folder / IDENTITY
    return str(_read(path)["id"]) if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    """Raises RequestError if the file is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path}: is damaged ({error}); bring it back, or give STUDY=<another name>") from None
    return found


def check_folder(folder: Path) -> None:
    """See that this version can read what a study has left in `folder`. Raises RequestError if not."""
    path = folder / IDENTITY
    if path.exists():
        check_format(folder.name, _read(path))


def check_format(study: str, written: Mapping[str, Any]) -> None:
    """See that this version can read what `written`, a file of a study, belongs to. Raises RequestError if not."""
    found = written.get("format", 0)  # the first had none
    if found != FORMAT:
        age = "an older" if found < FORMAT else "a newer"
        raise RequestError(
            f"study {study} was written by {age} version of hpsearch: its files have format {found}, and this version "
            f"reads {FORMAT}; use that version for it, or give STUDY=<another name>"
        )


def made_by() -> dict[str, dict[str, str]]:
    """What decides a trial's result beside settings, data and hardware: our code, and libraries."""
    return {"code": _code(), "libraries": _libraries()}


def changes(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, as `path: before -> now`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from changes(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield f"{path.removeprefix('settings.')}: {before!r} -> {now!r}"


@functools.cache
def _code() -> dict[str, str]:
    """A digest of each module without its comments, docstrings and layout."""
    return {module: digest(_bare(Path(__file__).parents[1] / f"{module}.py")) for module in MODULES}


def _bare(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # A string that stands alone says something to people; an empty body would be no Python.
            node.body = [one for one in node.body if not _is_text(one)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _libraries() -> dict[str, str]:
    """Versions without their build: `2.13.0+cpu` is 2.13.0."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}
