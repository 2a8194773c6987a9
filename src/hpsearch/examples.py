"""Rows to checked examples: clean, label, de-duplicate, split."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

from hpsearch.errors import RequestError, nearest
from hpsearch.reading import Rows, listed
from hpsearch.settings import TaskSettings
from hpsearch.tasks import KINDS
from hpsearch.text import clean

SPLITS = ("train", "validation", "test")


class Example(NamedTuple):
    """One row."""

    number: int  # line or row in its source
    text: str
    label: str


def check_roles(task: TaskSettings) -> None:
    """Raise RequestError unless `task.columns` names a column for each role of the task kind, and for no other."""
    roles = KINDS[task.kind].roles
    for role in task.columns:
        if role not in roles:
            raise RequestError(
                f"task.columns.{role}: task.kind={task.kind} has no such role; it has {listed(roles)}"
                f"{nearest(role, roles)}"
            )
    for role in roles:
        if role not in task.columns:
            raise RequestError(f"task.columns.{role}: is required; name the column that holds the {role} of a row")


def examples(rows: Rows, task: TaskSettings) -> list[Example]:
    """Cleaned texts with their labels as strings. Raises RequestError naming the rows without one of the two."""
    texts, labels = rows.columns[task.columns["text"]], rows.columns[task.columns["label"]]
    faults = {
        f"task.columns.text={task.columns['text']}": [_text_fault(text) for text in texts],
        f"task.columns.label={task.columns['label']}": [_label_fault(label) for label in labels],
    }
    for setting, found in faults.items():
        first = next(filter(None, found), None)
        if first is not None:
            where = rows.where([number for number, fault in zip(rows.numbers, found, strict=True) if fault == first])
            raise RequestError(f"{where}: {first} in the column of {setting}; mend or remove these rows")
    return [
        Example(number, clean(text, task.clean), str(label).strip())
        for number, text, label in zip(rows.numbers, texts, labels, strict=True)
    ]


def _text_fault(text: object) -> str | None:
    if _missing(text):
        return "there is no text"
    if not isinstance(text, str):
        return "there is no string"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair, which is no character, stands"
    return None


def _label_fault(label: object) -> str | None:
    if _missing(label) or (isinstance(label, str) and not label.strip()):
        return "there is no label"
    if not isinstance(label, str | int | float):  # a bool is an int
        return "there is neither string nor number"
    return _text_fault(label) if isinstance(label, str) else None


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def class_names(task: TaskSettings, given: Mapping[str, list[Example]], rows: Mapping[str, Rows]) -> tuple[str, ...]:
    """The classes in their order: `task.labels`, or as the train split has them, sorted.

    Raises:
        RequestError: there is one class only, or the labels of the splits and `task.labels` do not agree.
    """
    column = f"task.columns.label={task.columns['label']}"
    found = sorted({e.label for e in given["train"]}, key=_numeric_first)
    if len(found) == 1:
        raise RequestError(
            f"{rows['train'].name}: all {len(given['train'])} rows have the label {found[0]!r} in {column}; "
            "a classifier needs at least two classes"
        )
    labels = task.labels if task.labels is not None else tuple(found)
    if len(set(labels)) < len(labels):
        raise RequestError(f"task.labels={list(labels)}: a label stands in it twice; remove one")
    for split, examples in given.items():
        label = next((e.label for e in examples if e.label not in labels), None)
        if label is not None:
            known = f"task.labels={list(labels)}" if task.labels is not None else "the labels of the train split"
            raise RequestError(
                f"{rows[split].where([e.number for e in examples if e.label == label])}: the label {label!r} "
                f"is not among {known}{nearest(label, labels)}; correct task.labels, {column} or the rows"
            )
    absent = [label for label in labels if label not in found]
    if absent:
        raise RequestError(
            f"task.labels={list(labels)}: no row of {rows['train'].name} has {listed(map(repr, absent))}; "
            f"found are {listed(map(repr, found))}"
        )
    return labels


def _numeric_first(label: str) -> tuple[bool, float, str]:
    """Sorts 2 before 10, and numbers before words."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (False, number, label) if math.isfinite(number) else (True, 0.0, label)


def deduplicate(given: Mapping[str, list[Example]]) -> tuple[dict[str, list[Example]], dict[str, dict[str, int]]]:
    """No text in two splits, and none twice outside a given test split. Returns what stays and counts of the rest."""
    kept = {"test": given["test"]} if "test" in given else {}
    seen = {e.text for e in kept.get("test", ())}
    dropped = {}
    for split in ("validation", "train"):
        if split not in given:
            continue
        labels_of = defaultdict(set)
        for e in given[split]:
            labels_of[e.text].add(e.label)
        first: dict[str, Example] = {}
        counts = Counter(duplicates=0, conflicting_labels=0, in_another_split=0)
        for e in given[split]:
            if e.text in seen:
                counts["in_another_split"] += 1
            elif len(labels_of[e.text]) > 1:
                counts["conflicting_labels"] += 1
            elif e.text in first:
                counts["duplicates"] += 1
            else:
                first[e.text] = e
        kept[split] = list(first.values())
        seen |= first.keys()
        dropped[split] = dict(counts)
    return kept, dropped


def split(
    kept: Mapping[str, list[Example]], labels: Sequence[str], task: TaskSettings, rows: Mapping[str, Rows]
) -> dict[str, list[Example]]:
    """Take the splits that the source does not give off the train split, stratified, each a share of all its rows."""
    splits = dict(kept)
    share = {"validation": task.split.validation, "test": task.split.test}
    if sum(share[split] for split in share if split not in kept) >= 1:
        raise RequestError(
            f"task.split.validation={share['validation']} and task.split.test={share['test']} leave nothing to train "
            "on; they must add up to less than 1"
        )
    for split in ("test", "validation"):
        if split in kept:
            continue
        pool = splits["train"]
        try:
            rest, taken = train_test_split(
                np.arange(len(pool)),
                test_size=round(share[split] * len(kept["train"])),
                stratify=[e.label for e in pool],
                random_state=task.split.seed,
            )
        except ValueError:  # a class of one row, or fewer rows than classes on one side
            raise _too_few(split, kept, labels, rows) from None
        splits["train"] = [pool[i] for i in sorted(rest)]
        splits[split] = [pool[i] for i in sorted(taken)]
    for split in SPLITS:
        if {e.label for e in splits[split]} != set(labels):
            raise _too_few(split, kept, labels, rows)
    return {split: splits[split] for split in SPLITS}


def _too_few(
    split: str, kept: Mapping[str, list[Example]], labels: Sequence[str], rows: Mapping[str, Rows]
) -> RequestError:
    """Every split needs a row of every class: one that is trained but never scored, or the reverse, is a mistake."""
    origin = split if split in kept else "train"
    counts = Counter(e.label for e in kept[origin])
    label = min(labels, key=lambda name: counts[name])
    numbers = [e.number for e in kept[origin] if e.label == label]
    where = rows[origin].where(numbers) if numbers else rows[origin].name
    remedy = "add rows of that class" if origin == split else f"add rows of that class, or raise task.split.{split}"
    return RequestError(
        f"{where}: of the {len(kept[origin])} rows that stay after duplicates are dropped, {len(numbers)} "
        f"{'has' if len(numbers) == 1 else 'have'} the label {label!r}, too few for {split}, which needs at least one "
        f"row of each of the {len(labels)} classes; {remedy}"
    )
