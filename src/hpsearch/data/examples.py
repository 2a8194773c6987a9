"""Checked examples of any task kind, without duplicates and split so that no two splits share an example."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from hpsearch.config.task import TaskSettings
from hpsearch.data.reading import Rows
from hpsearch.errors import RequestError
from hpsearch.state.facts import Overlap

SPLITS = ("train", "validation", "test")


class Example(NamedTuple):
    """One row, cleaned and checked by its task kind."""

    number: int
    """Number of the line or row in the source."""
    key: str
    """Content that the model sees. No two splits share a key."""
    group: str | None
    """Group of the row. Rows of one group stay together when splits are made."""
    classes: tuple[str, ...]
    """Labels of the row. Every split needs a row of each label."""
    stratum: str
    """Stratum of the row. Splits and subsets contain the strata in similar proportions."""
    values: dict[str, Any]
    """Columns to store. Labels are still strings."""


def missing(value: object) -> bool:
    """Return whether a cell is empty: null, or NaN, which stands for null in a column of numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_fault(text: object) -> str | None:
    """Return what is wrong with a cell that should hold a text, as the beginning of a sentence; None if it is right."""
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
    """Raise RequestError if a row has a fault. The message names all rows that have the same fault as the first."""
    first = next(filter(None, faults), None)
    if first is not None:
        where = rows.where([number for number, fault in zip(rows.numbers, faults, strict=True) if fault == first])
        raise RequestError(f"{where}: {first} in the column of {setting}; correct or remove these rows")


def groups(rows: Rows, task: TaskSettings) -> list[str | None]:
    """Return the group of each row, or None for each where `task.columns` names no group column.

    Raises:
        RequestError: A row has no group.
    """
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
    """Drop train examples that are repeated, contradict each other, or are also in validation or test.

    Validation and test splits of the source keep all their rows, so that scores stay comparable.

    Args:
        given: Splits of the source.
        merge: Function that joins two examples with the same key; None means that they contradict each other.

    Returns:
        The remaining examples of each split, and the counts of examples dropped from train.
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
    """Count what the splits of the source share before anything is dropped.

    A key names a pair of splits, for example "train and test". Its value counts the rows of the second split whose
    content, or whose group, is also in the first.
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
    """Split off the train split what the source does not give: validation, test or both, stratified.

    Each new split is a share of all train rows. Groups stay whole, so few groups meet a share only roughly. If a class
    is too rare for stratified splits, train gets at least one row of it. The others get one if rows and shares allow.

    Raises:
        RequestError: A split would be empty, or train would lack a class.
    """
    share = {"validation": task.split.validation, "test": task.split.test}
    if sum(share[split] for split in share if split not in kept) >= 1:
        raise RequestError(
            f"task.split.validation={share['validation']} and task.split.test={share['test']} leave nothing to train "
            "on; they must add up to less than 1"
        )
    try:
        splits = _drawn(kept, share, task, _part)
        rare = not all(splits[split] and _classes(splits[split]) == set(labels) for split in SPLITS)
    except ValueError:  # a stratum of one row, or fewer rows than strata on one side
        rare = True
    if rare and kept["train"]:
        splits = _drawn(kept, share, task, _part_of_rare)
        for label in (label for label in labels if label not in _classes(splits["train"])):
            _back_to_train(label, splits, kept)
    for split in SPLITS:
        if not kept["train"] or not splits[split] or (split == "train" and _classes(splits[split]) != set(labels)):
            raise _too_few(split, kept, labels, rows)
    return {split: splits[split] for split in SPLITS}


Part = Callable[[list[Example], int, int, TaskSettings], tuple[NDArray[np.int64], NDArray[np.int64]]]


def _drawn(
    kept: Mapping[str, list[Example]], share: Mapping[str, float], task: TaskSettings, part: Part
) -> dict[str, list[Example]]:
    """Return all splits, with those that the source lacks drawn by `part`. Raises ValueError if `part` cannot."""
    splits = dict(kept)
    for split in ("test", "validation"):
        if split not in kept:
            pool, wanted = splits["train"], round(share[split] * len(kept["train"]))
            rest, taken = part(pool, wanted, 1 + (split == "test" and "validation" not in kept), task)
            splits["train"] = [pool[i] for i in sorted(rest)]
            splits[split] = [pool[i] for i in sorted(taken)]
    return splits


def _classes(examples: Sequence[Example]) -> set[str]:
    return {label for e in examples for label in e.classes}


def _back_to_train(label: str, splits: dict[str, list[Example]], kept: Mapping[str, list[Example]]) -> None:
    """Move the first example of a class from a drawn split back to train, together with its group."""
    for split in ("test", "validation"):
        found = next((e for e in splits[split] if label in e.classes), None) if split not in kept else None
        if found is not None:
            moved = [e for e in splits[split] if e is found or (e.group is not None and e.group == found.group)]
            splits[split] = [e for e in splits[split] if not any(e is one for one in moved)]
            splits["train"] = sorted(splits["train"] + moved, key=lambda e: e.number)
            return


def _part(
    pool: list[Example], wanted: int, spare: int, task: TaskSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices into `pool` of the examples that stay and of about `wanted` examples that are taken.

    Raises:
        ValueError: A stratum is too rare.
    """
    strata = [e.stratum for e in pool]
    if pool and pool[0].group is not None:
        return min(_folds(pool, strata, wanted, task), key=lambda part: abs(len(part[1]) - wanted))
    rest, taken = train_test_split(
        np.arange(len(pool)), test_size=wanted, stratify=strata, random_state=task.split.seed
    )
    return rest, taken


def _folds(
    pool: list[Example], strata: list[str], wanted: int, task: TaskSettings
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return ways to take about `wanted` examples of `pool` without dividing a group.

    Raises:
        ValueError: Every stratum is rare.
    """
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
        return list(folds.split(np.arange(len(pool)), strata, of_each))


def _part_of_rare(
    pool: list[Example], wanted: int, spare: int, task: TaskSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Do the same as `_part` where some strata are rare.

    Each stratum leaves `spare` rows if it can, and one row if it has two at most. Quotas decide how many rows each
    stratum gives. Rows left over by rounding come first from strata that give none, then from those furthest below
    their quota. With groups, the way that leaves rows of the most classes is taken.
    """
    if pool[0].group is not None:
        try:
            parts = _folds(pool, [e.stratum for e in pool], wanted, task)
        except ValueError:
            parts = _folds(pool, [""] * len(pool), wanted, task)
        return min(parts, key=lambda part: (-len(_classes([pool[i] for i in part[0]])), abs(len(part[1]) - wanted)))
    rng = np.random.default_rng(task.split.seed)
    names, of_rows, sizes = np.unique([e.stratum for e in pool], return_inverse=True, return_counts=True)
    wanted = max(1, wanted)
    quota, most = sizes * wanted / len(pool), np.maximum(sizes - spare, np.minimum(sizes - 1, 1))
    seats = np.minimum(quota.astype(np.int64), most)
    drawn = rng.permutation(len(names))  # decides between equal strata
    for _ in range(min(wanted, int(most.sum())) - int(seats.sum())):
        seats[max(np.flatnonzero(seats < most), key=lambda i: (seats[i] == 0, quota[i] - seats[i], drawn[i]))] += 1
    taken = [rng.permutation(np.flatnonzero(of_rows == i))[: seats[i]] for i in range(len(names))]
    everything = np.arange(len(pool))
    chosen = np.concatenate(taken)
    return np.setdiff1d(everything, chosen), chosen


def _too_few(
    split: str, kept: Mapping[str, list[Example]], labels: Sequence[str], rows: Mapping[str, Rows]
) -> RequestError:
    """Return the error for a split without rows, or for a train split without a class."""
    origin = split if split in kept else "train"
    count = len(kept[origin])
    remedy = "add rows" if origin == split else f"add rows, or raise task.split.{split}"
    lacking = next((label for label in labels if label not in _classes(kept[origin])), None)
    if split == "train" and count and lacking is not None:
        return RequestError(
            f"{rows[origin].name}: of the {count} rows that stay after duplicates are dropped, none has the label "
            f"{lacking!r}, and nothing can be learnt of it; add rows of that class"
        )
    return RequestError(
        f"{rows[origin].name}: the {count} rows that stay after duplicates are dropped are too few for {split}; "
        f"{remedy}"
    )
