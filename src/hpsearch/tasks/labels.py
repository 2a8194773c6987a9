"""Labels in files: check a cell, read its labels, and find the classes."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hpsearch.config.task import TaskSettings
from hpsearch.data.examples import Example, missing, text_fault
from hpsearch.data.reading import SHOWN, Rows, listed
from hpsearch.errors import RequestError, nearest

MOST_SHOWN = 12  # most classes that are listed one by one; a longer list has only the most frequent and the rarest


def label_fault(label: object) -> str | None:
    """Return what is wrong with a cell that holds one label; None if nothing is."""
    if missing(label) or (isinstance(label, str) and not label.strip()):
        return "there is no label"
    if not isinstance(label, str | int | float):  # a bool is an int
        return "there is neither string nor number"
    return text_fault(label) if isinstance(label, str) else None


def labels_fault(cell: object) -> str | None:
    """Return what is wrong with a cell that holds any number of labels; None if nothing is.

    An empty list or string means that there is no label. A null is a fault.
    """
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


def _parts(cell: Any, separator: str) -> list[str]:
    """Return the parts of a cell: of a list (JSONL, Parquet; in CSV as JSON), or of a string with separators."""
    if isinstance(cell, str):
        cell = json.loads(cell) if _is_json(cell) else cell.split(separator)
    parts = [str(part).strip() for part in (cell if isinstance(cell, list) else [cell])]
    return [part for part in parts if part]


def labels_of_rows(rows: Rows, task: TaskSettings) -> list[tuple[str, ...]]:
    """Return the labels of each row from checked cells.

    Cells are lists of labels, or vectors with 0 or 1 for each of `task.labels`.

    Raises:
        RequestError: `task.labels` does not name the places of vectors, or it is not clear what the cells are.
    """
    cells = [_parts(cell, task.label_separator) for cell in rows.columns[task.columns["labels"]]]
    width = vector_width(rows, task)
    if width is None:
        return [tuple(sorted(set(parts))) for parts in cells]
    what = f"{rows.name} has lists of {width} numbers 0 and 1 in the column of {_column(task)}"
    if task.labels is None:
        raise RequestError(
            f"{what}; if each says whether the text has a label, name the labels in the order of the numbers with "
            "task.labels=[<name>,<name>,...]; if 0 and 1 are labels themselves, write none of them twice in a row"
        )
    if len(task.labels) != width or all(_number(name) in (0, 1) for name in task.labels):
        raise RequestError(f"task.labels={list(task.labels)}: {what}; give {width} names, and other ones than 0 and 1")
    return [
        tuple(sorted(name for name, part in zip(task.labels, parts, strict=True) if _number(part))) for parts in cells
    ]


def vector_width(rows: Rows, task: TaskSettings) -> int | None:
    """Return the length of the vectors in checked cells; None where cells are lists of labels.

    A vector has a number for each label. A list has a label once. So if there are only 0 and 1, a row that has one of
    them twice is a vector. Rows that all have both, in different orders, are vectors, too.

    Raises:
        RequestError: the vectors have different lengths, or numbers other than 0 and 1.
    """
    of_rows = [_parts(cell, task.label_separator) for cell in rows.columns[task.columns["labels"]]]
    numbers = [tuple(_number(part) for part in parts) for parts in of_rows]
    seen = {number for row in numbers for number in row}
    if not seen or any(number is None or abs(number) > 1 for number in seen):
        return None
    lengths = Counter(len(row) for row in numbers)
    shares = not seen <= {-1, 0, 1} and len(lengths) == 1 and 1 not in lengths
    vectors = any(len(set(row)) < len(row) for row in numbers) or set(numbers) == {(0, 1), (1, 0)}
    if shares or (vectors and -1 in seen):
        odd = next(part for parts in of_rows for part in parts if _number(part) not in (0, 1))
        raise RequestError(
            f"{rows.name}: the lists in the column of {_column(task)} hold {odd}, where a number for each label must "
            "be 0 or 1; write these, or lists of the labels that a text has"
        )
    if not vectors or not seen <= {0, 1}:
        return None
    ((width, _), *others) = lengths.most_common()
    if others:
        where = rows.where([number for number, row in zip(rows.numbers, numbers, strict=True) if len(row) != width])
        raise RequestError(
            f"{where}: most lists in the column of {_column(task)} are of {width} numbers 0 and 1, one for each label, "
            "and these are not; correct them, or write lists of labels in which none stands twice"
        )
    return width


def _column(task: TaskSettings) -> str:
    return f"task.columns.labels={task.columns['labels']}"


def _number(part: str) -> float | None:
    if part in ("True", "False"):  # a bool of JSON or Parquet as a string
        return float(part == "True")
    try:
        number = float(part)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def class_names(
    given: Mapping[str, list[Example]], rows: Mapping[str, Rows], task: TaskSettings, role: str, least: int
) -> tuple[str, ...]:
    """Return the classes in their order: `task.labels`, or the sorted labels in the train split's column of `role`.

    Where cells are vectors, `task.labels` must name each place, so labels that no train row has are left out.

    Raises:
        RequestError: there are too few classes, or the labels of the splits and `task.labels` do not agree.
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
    if absent and role == "labels" and vector_width(rows["train"], task) is not None:
        return tuple(label for label in labels if label in found)
    if absent:
        raise RequestError(
            f"task.labels={list(labels)}: no row of {rows['train'].name} has {listed(map(repr, absent))}; "
            f"found are {listed(map(repr, found))}"
        )
    return labels


def class_notes(classes: Mapping[str, Mapping[str, int]], labels: Sequence[str], named: Sequence[str]) -> Iterator[str]:
    """Yield what people should know about the classes: their numbers of examples, and labels that look alike.

    Args:
        classes: number of examples by split and class; a class without examples may be left out.
        labels: the classes; empty where the kind has no classes.
        named: labels that `task.labels` names.
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
    if unused := [label for label in named if label not in labels]:
        yield f"no train example has {listed(map(repr, unused))} of task.labels, so it is left out"
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
    """Return a form that is equal for labels that look alike.

    Numbers become their value. Other labels lose case, width and invisible characters.
    """
    try:
        number = float(label)
    except ValueError:
        number = np.nan
    if np.isfinite(number):
        return repr(number + 0.0)  # -0.0 is 0.0
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return " ".join("".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace()).split())


def _numeric_first(label: str) -> tuple[bool, float, str]:
    """Return a sort key that puts 2 before 10, and numbers before words."""
    try:
        number = float(label)
    except ValueError:
        number = np.nan
    return (False, number, label) if np.isfinite(number) else (True, 0.0, label)
