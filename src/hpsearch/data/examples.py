"""Checked examples of any task kind: de-duplicated and split, so that no two splits share one."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from hpsearch.config.settings import TaskSettings
from hpsearch.data.reading import Rows
from hpsearch.errors import RequestError
from hpsearch.state.facts import Overlap

SPLITS = ("train", "validation", "test")


class Example(NamedTuple):
    """One row, cleaned and checked by its task kind."""

    number: int
    """Line or row in its source."""
    key: str
    """What the model sees: no two splits share it."""
    group: str | None
    """Rows of one group stay together when splits are made."""
    classes: tuple[str, ...]
    """Its labels: every split needs a row of each."""
    stratum: str
    """Splits and subsets have the strata in like proportions."""
    values: dict[str, Any]
    """The columns to store; labels are strings still."""


def missing(value: object) -> bool:
    """Whether a cell is empty: null, or the NaN that stands for it in a column of numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_fault(text: object) -> str | None:
    """What is wrong with a cell that should hold a text, in words that begin a sentence; None if nothing is."""
    if missing(text):
        return "there is no text"
    if not isinstance(text, str):
        return "there is no string"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair, which is no character, stands"
    return None


def refuse(rows: Rows, setting: str, faults: Sequence[str | None]) -> None:
    """Raise RequestError if a row has a fault, naming all rows with the first one."""
    first = next(filter(None, faults), None)
    if first is not None:
        where = rows.where([number for number, fault in zip(rows.numbers, faults, strict=True) if fault == first])
        raise RequestError(f"{where}: {first} in the column of {setting}; mend or remove these rows")


def groups(rows: Rows, task: TaskSettings) -> list[str | None]:
    """The group of each row, where `task.columns.group` names a column. Raises RequestError for rows without one."""
    column = task.columns.get("group")
    if column is None:
        return [None] * len(rows.numbers)
    cells = rows.columns[column]
    refuse(
        rows,
        f"task.columns.group={column}",
        ["there is no group" if missing(cell) or not str(cell).strip() else None for cell in cells],
    )
    return [str(cell) for cell in cells]


def deduplicate(
    given: Mapping[str, list[Example]], merge: Callable[[Example, Example], Example | None]
) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """Drop from the train split what stands in a given validation or test split, or twice, or contradicts itself.

    Given validation and test splits stay row for row, so that scores stay comparable.

    Args:
        given: the splits of the source.
        merge: two examples with one key to what they say together; None where they contradict each other.

    Returns:
        What stays of each split, and counts of what was dropped from train.
    """
    elsewhere = {e.key for split in ("validation", "test") for e in given.get(split, ())}
    merged: dict[str, Example | None] = {}
    for e in given["train"]:
        known = merged.setdefault(e.key, e)
        if known is not None:
            merged[e.key] = merge(known, e)
    counts = Counter(duplicates=0, conflicting_labels=0, in_another_split=0)
    kept: dict[str, Example] = {}
    for e in given["train"]:
        together = merged[e.key]
        if e.key in elsewhere:
            counts["in_another_split"] += 1
        elif together is None:
            counts["conflicting_labels"] += 1
        elif e.key in kept:
            counts["duplicates"] += 1
        else:
            kept[e.key] = together
    return {**given, "train": list(kept.values())}, dict(counts)


def overlap(given: Mapping[str, list[Example]]) -> dict[str, Overlap]:
    """What the given splits share before anything is dropped: for each pair, rows of the second that the first has.

    Keys are like "train and test"; values count rows with the same content, and rows of a group of both.
    """
    found = {}
    names = [split for split in SPLITS if split in given]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            keys, grouped = {e.key for e in given[one]}, {e.group for e in given[one]} - {None}
            rows = sum(e.key in keys for e in given[other])
            of_groups = sum(e.group in grouped for e in given[other])
            if rows or of_groups:
                found[f"{one} and {other}"] = Overlap(rows, of_groups)
    return found


def split(
    kept: Mapping[str, list[Example]], labels: Sequence[str], task: TaskSettings, rows: Mapping[str, Rows]
) -> dict[str, list[Example]]:
    """Take the splits that the source does not give off the train split, stratified, each a share of all its rows.

    Groups stay whole, so with few of them a share is met as nearly as they allow.
    """
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
        pool, wanted = splits["train"], round(share[split] * len(kept["train"]))
        try:
            rest, taken = _part(pool, wanted, task)
        except ValueError:  # a stratum of one row, or fewer rows than strata on one side
            raise _too_few(split, kept, labels, rows) from None
        splits["train"] = [pool[i] for i in sorted(rest)]
        splits[split] = [pool[i] for i in sorted(taken)]
    for split in SPLITS:
        if not splits[split] or {label for e in splits[split] for label in e.classes} != set(labels):
            raise _too_few(split, kept, labels, rows)
    return {split: splits[split] for split in SPLITS}


def _part(pool: list[Example], wanted: int, task: TaskSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices into `pool` of what stays and of about `wanted` that are taken."""
    strata, everything = [e.stratum for e in pool], np.arange(len(pool))
    if pool and pool[0].group is not None:
        of_each = [e.group for e in pool]
        count = len(set(of_each))
        if count < 2:
            raise RequestError(
                f"task.columns.group={task.columns.get('group')}: all {len(pool)} rows that are to be split are of one "
                f"group, {str(of_each[0])[:50]!r}, and a group is never divided; give splits of your own, or rows of "
                "more groups"
            )
        folds = StratifiedGroupKFold(
            min(count, max(2, round(len(pool) / max(1, wanted)))), shuffle=True, random_state=task.split.seed
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
            parts = list(folds.split(everything, strata, of_each))
        rest, taken = min(parts, key=lambda part: abs(len(part[1]) - wanted))
        return rest, taken
    rest, taken = train_test_split(everything, test_size=wanted, stratify=strata, random_state=task.split.seed)
    return rest, taken


def _too_few(
    split: str, kept: Mapping[str, list[Example]], labels: Sequence[str], rows: Mapping[str, Rows]
) -> RequestError:
    """Every split needs a row of every class: one that is trained but never scored, or the reverse, is a mistake."""
    origin = split if split in kept else "train"
    remedy = "add rows of that class" if origin == split else f"add rows of that class, or raise task.split.{split}"
    if not labels:
        return RequestError(
            f"{rows[origin].name}: the {len(kept[origin])} rows that stay after duplicates are dropped are too few for "
            f"{split}; add rows, or raise task.split.{split}"
        )
    counts = Counter(label for e in kept[origin] for label in e.classes)
    label = min(labels, key=lambda name: counts[name])
    numbers = [e.number for e in kept[origin] if label in e.classes]
    where = rows[origin].where(numbers) if numbers else rows[origin].name
    return RequestError(
        f"{where}: of the {len(kept[origin])} rows that stay after duplicates are dropped, {len(numbers)} "
        f"{'has' if len(numbers) == 1 else 'have'} the label {label!r}, too few for {split}, which needs at least one "
        f"row of each of the {len(labels)} classes; {remedy}"
    )
