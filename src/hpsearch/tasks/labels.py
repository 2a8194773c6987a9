"""Labels as files have them: what is wrong with a cell, what it says, and which classes there are."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hpsearch.config.settings import TaskSettings
from hpsearch.data.examples import Example, missing, text_fault
from hpsearch.data.reading import SHOWN, Rows, listed
from hpsearch.errors import RequestError, nearest

MOST_SHOWN = 12  # classes that are listed one by one; of more, the most frequent and the rarest


def label_fault(label: object) -> str | None:
    """What is wrong with a cell that holds one label."""
    if missing(label) or (isinstance(label, str) and not label.strip()):
        return "there is no label"
    if not isinstance(label, str | int | float):  # a bool is an int
        return "there is neither string nor number"
    return text_fault(label) if isinstance(label, str) else None


def labels_fault(cell: object) -> str | None:
    """The same of a cell that holds any number of them: an empty list or string says none, and null says nothing."""
    if missing(cell):
        return "there is no list of labels"
    if isinstance(cell, str) and _is_json(cell):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return "there are brackets around what is no JSON list"
    if isinstance(cell, str) and not cell.strip():
        return None
    return next(filter(None, map(label_fault, cell if isinstance(cell, list) else [cell])), None)


def _is_json(cell: str) -> bool:
    return cell.strip().startswith("[") and cell.strip().endswith("]")


def labels_of(cell: Any, separator: str) -> tuple[str, ...]:
    """The labels of a cell, each once, sorted: a list (JSONL, Parquet; in CSV as JSON), or a separated string."""
    if isinstance(cell, str):
        cell = json.loads(cell) if _is_json(cell) else cell.split(separator)
    parts = cell if isinstance(cell, list) else [cell]
    return tuple(sorted({str(part).strip() for part in parts} - {""}))


def class_names(
    given: Mapping[str, list[Example]], rows: Mapping[str, Rows], task: TaskSettings, role: str, least: int
) -> tuple[str, ...]:
    """The classes in their order: `task.labels`, or as the train split has them in the column of `role`, sorted.

    Raises:
        RequestError: there are too few, or the labels of the splits and `task.labels` do not agree.
    """
    column = f"task.columns.{role}={task.columns[role]}"
    found = sorted({label for e in given["train"] for label in e.classes}, key=_numeric_first)
    if len(found) < least:
        has = f"have the label {found[0]!r} in" if found else "are without a label in"
        raise RequestError(
            f"{rows['train'].name}: all {len(given['train'])} rows {has} {column}; "
            + ("a classifier needs at least two classes" if least > 1 else "there is nothing to learn")
        )
    labels = task.labels if task.labels is not None else tuple(found)
    if len(set(labels)) < len(labels):
        raise RequestError(f"task.labels={list(labels)}: a label stands in it twice; remove one")
    for split, examples in given.items():
        label = next((label for e in examples for label in e.classes if label not in labels), None)
        if label is not None:
            known = f"task.labels={list(labels)}" if task.labels is not None else "the labels of the train split"
            raise RequestError(
                f"{rows[split].where([e.number for e in examples if label in e.classes])}: the label {label!r} "
                f"is not among {known}{nearest(label, labels)}; correct task.labels, {column} or the rows"
            )
    absent = [label for label in labels if label not in found]
    if absent:
        raise RequestError(
            f"task.labels={list(labels)}: no row of {rows['train'].name} has {listed(map(repr, absent))}; "
            f"found are {listed(map(repr, found))}"
        )
    return labels


def class_notes(classes: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> Iterator[str]:
    """What people should know of the classes: how many examples they have, which have none, which look alike.

    Args:
        classes: split: class: examples.
        labels: the classes; none where the kind has none.
    """
    counts = {label: classes["train"].get(label, 0) for label in labels}
    if not labels:
        return
    frequent = sorted(labels, key=lambda label: -counts[label])
    shown = [f"{label!r} {counts[label]:,}" for label in frequent]
    if len(shown) > MOST_SHOWN:
        between = f"{len(shown) - 2 * SHOWN:,} more between"
        shown = [*shown[:SHOWN], between, *shown[-SHOWN:]]
    yield f"{len(labels):,} classes, with their train examples: {', '.join(shown)}"
    for split in ("validation", "test"):
        absent = [label for label in frequent if not classes[split].get(label)]
        if absent:
            yield f"no {split} example has {listed(map(repr, absent))}, so {split} scores say nothing of it"
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(_seen(label), []).append(label)
    for group in (group for group in alike.values() if len(group) > 1):
        spelt = " and ".join(f"{label!a} ({counts[label]:,} in train)" for label in group)
        yield f"these labels look alike and are kept apart: {spelt}; if they are one class, write them alike"


def _seen(label: str) -> str:
    """What a label looks like: numbers by their value; others without case, width and what cannot be seen."""
    try:
        number = float(label)
    except ValueError:
        number = np.nan
    if np.isfinite(number):
        return repr(number + 0.0)  # -0.0 is 0.0
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return " ".join("".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace()).split())


def _numeric_first(label: str) -> tuple[bool, float, str]:
    """Sorts 2 before 10, and numbers before words."""
    try:
        number = float(label)
    except ValueError:
        number = np.nan
    return (False, number, label) if np.isfinite(number) else (True, 0.0, label)
