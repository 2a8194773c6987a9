"""Prepared data: read all data of a task, store the part that a study uses, and tokenise it once."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from numpy.typing import NDArray

from hpsearch.config.settings import Settings, digest
from hpsearch.data import reading, tokens
from hpsearch.data.examples import SPLITS, Example, deduplicate, overlap, split
from hpsearch.data.tokens import Tokens
from hpsearch.errors import RequestError
from hpsearch.state.facts import Facts
from hpsearch.state.records import DataRef
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.labels import class_notes

FEWEST = 100  # training examples that a trial has at least, if the data have that many
ENCODING = 2  # add one with each change of the tokens that the same rows become


@dataclass(frozen=True)
class Corpus:
    """All rows of a task, cleaned, de-duplicated and split, in memory."""

    splits: dict[str, datasets.Dataset]
    """Rows of train, validation and test, with the columns of the task kind."""
    examples: dict[str, list[Example]]
    """Examples that the rows of each split were made from."""
    labels: tuple[str, ...]
    facts: Facts
    """What was done to the data, for the report and the MLflow run."""
    notes: tuple[str, ...]
    """What users should know about the data before anything is trained, one sentence each."""


def read(settings: Settings) -> Corpus:
    """Read, check, clean, de-duplicate and split the data of a task, without writing anything.

    Validation and test splits that the source gives keep every row, so that scores stay comparable. Examples that are
    in them are dropped from train instead. If train has an example twice, the first copy is kept, with everything that
    the copies say together. If the copies contradict each other, all of them are dropped, because nothing tells which
    is right. A row's id is its split in the source and its line or row there.

    Raises:
        RequestError: the data or its description is wrong.
    """
    task, kind = settings.task, KINDS[settings.task.kind]
    kind.check(settings)
    rows = reading.read(task, kind.demo)
    given = {name: kind.examples(rows[name], task) for name in SPLITS if name in rows}
    found = kind.labels(given, rows, task)
    kept, dropped = deduplicate(given, kind.merge)
    labels = _left(found, kept)
    complete = split(kept, labels, task, rows)
    columns = {
        name: {"id": [f"{name if name in given else 'train'}-{example.number}" for example in complete[name]]}
        | kind.columns(complete[name], labels)
        for name in SPLITS
    }
    facts = Facts(
        source=reading.describe(task),
        note=task.packaged.note if task.source == "packaged" and task.packaged is not None else None,
        rows={name: len(rows) for name, rows in given.items()},
        empty_texts={name: sum(not example.key for example in rows) for name, rows in given.items()},
        dropped={"train": dropped},
        examples={name: len(complete[name]) for name in SPLITS},
        overlap=overlap(given),
        groups={name: len({example.group for example in complete[name]} - {None}) for name in SPLITS},
        split_by={name: "source" if name in given else "hpsearch" for name in SPLITS},
        labels={label: i for i, label in enumerate(labels)},
        classes={name: _counts(complete[name], labels) for name in SPLITS},
        digests={name: _digest(columns[name], labels) for name in SPLITS},
    )
    in_memory = {name: datasets.Dataset.from_dict(columns[name], features=kind.features) for name in SPLITS}
    notes = [note for name in given for note in rows[name].notes]
    if gone := [label for label in found if label not in labels]:
        notes.append(f"all rows of {reading.listed(map(repr, gone))} contradict themselves, so it is no class")
    notes += class_notes(facts.classes, labels, task.labels or ())
    return Corpus(in_memory, complete, labels, facts, tuple(notes))


def _left(labels: tuple[str, ...], kept: Mapping[str, list[Example]]) -> tuple[str, ...]:
    """Return the classes that still have a row, or all classes if too few are left to tell apart."""
    there = {label for examples in kept.values() for example in examples for label in example.classes}
    left = tuple(label for label in labels if label in there)
    return left if len(left) >= min(2, len(labels)) else labels


def prepare(corpus: Corpus, settings: Settings, home: Path) -> DataRef:
    """Store the part of the corpus that the budget allows in `home/cache/data/<digest>/`, once.

    Each split is stored in `stratified_order`, so the first k validation rows are a fair sample of it.
    If the budget asks for more rows than a split has, all are stored. `DataRef.sizes` has the numbers.

    Raises:
        RequestError: the budget is so small that a class is left without a row.
    """
    budget = settings.budget
    asked = {name: getattr(budget, f"{name}_examples") for name in SPLITS}
    parts: dict[str, dict[str, list[Any]]] = {}
    for name in SPLITS:
        examples = corpus.examples[name]
        order = stratified_order([example.stratum for example in examples], settings.task.split.seed)
        of_rows = [example.classes for example in examples]
        if name == "train":  # trials train on the first rows, which must have each class, however rare
            order = with_each_class(order, min(FEWEST, len(order)), of_rows)
        order = with_each_class(order, asked[name], of_rows)
        ordered = [examples[i].classes for i in order]
        least = len(corpus.labels) if name == "train" else min(2, len(corpus.labels))
        _check_classes(f"budget.{name}_examples", asked[name], ordered, least)
        if name == "validation":
            _check_classes("budget.rung_examples", budget.rung_examples, ordered, least)
        parts[name] = corpus.splits[name][order[: asked[name]].tolist()]
    digests = {name: _digest(parts[name], corpus.labels) for name in SPLITS}
    folder = (home / "cache" / "data" / digest([corpus.labels, digests])).absolute()
    features = KINDS[settings.task.kind].features
    with _once(folder) as beside:
        if beside is not None:
            for name in SPLITS:
                with (
                    open(beside / f"{name}.arrow", "wb") as file,  # a path would be read as a URL and split at `::`
                    ArrowWriter(stream=file, features=features) as writer,
                ):
                    writer.write_batch(parts[name])
                    writer.finalize()
    return DataRef(folder, corpus.labels, digests, {name: len(parts[name]["id"]) for name in SPLITS})


def load(ref: DataRef, split: str) -> datasets.Dataset:
    """Return the stored rows of a split, memory-mapped, with the columns of the task kind."""
    return datasets.Dataset.from_file(str(ref.folder / f"{split}.arrow"))


def stratified_order(strata: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return a seeded permutation of which every prefix has the strata in the proportions of the whole.

    The members of each stratum are shuffled and laid out evenly over [0, 1). All rows are then taken from left to
    right. In a prefix of k rows, a stratum with share p is off k * p by less than 1 + strata / 2.
    """
    rng = np.random.default_rng(seed)
    names, of_rows = np.unique(np.asarray(strata), return_inverse=True)
    place = np.empty(len(of_rows))
    for stratum in range(len(names)):
        members = rng.permutation(np.flatnonzero(of_rows == stratum))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")


def with_each_class(
    order: NDArray[np.int64], asked: int | None, classes: Sequence[tuple[str, ...]]
) -> NDArray[np.int64]:
    """Return the order with a row of each class among the first `asked`, as far as they can hold one.

    A rare class may have its first row only after these. That row changes places with one of the first `asked`: the
    last one that is not the first row of its own class. If no class is late, nothing changes.

    Args:
        order: permutation of the rows.
        asked: number of rows to take; None for all.
        classes: classes of each row.
    """
    firsts: dict[str, int] = {}  # class: place of its first row in the order
    for place, row in enumerate(order):
        for label in classes[row]:
            firsts.setdefault(label, place)
    late = sorted({place for place in firsts.values() if asked is not None and place >= asked})
    needed = set(firsts.values())
    free = [place for place in range(asked or 0) if place not in needed]
    changed = order.copy()
    for one, other in zip(late, reversed(free[-len(late) :] if late else []), strict=False):
        changed[[one, other]] = changed[[other, one]]
    return changed


def tokenised(ref: DataRef, settings: Settings, tokenizer: Any, split: str) -> Tokens:
    """Return the tokens of a split, made once for a tokenizer and the task's length settings, then read back."""
    task = settings.task
    padding = KINDS[task.kind].padding
    key = digest([_content(tokenizer), sorted(padding), task.max_length, task.truncation, task.stride, ENCODING])
    folder = ref.folder / "tokens" / f"{split}-{key}"
    with _once(folder) as beside:
        if beside is not None:
            rows = load(ref, split).to_dict()
            tokens.save(KINDS[task.kind].encode(rows, tokenizer, task), beside)
    return Tokens(folder, padding)


@contextmanager
def _once(folder: Path) -> Iterator[Path | None]:
    """Let one process make `folder`, whole or not at all: yield where to write it, or None if it exists."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            yield None
            return
        beside = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(beside, ignore_errors=True)  # left by a killed process
        beside.mkdir()
        yield beside
        for file in beside.iterdir():
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        beside.rename(folder)


def _check_classes(setting: str, asked: int | None, ordered: Sequence[tuple[str, ...]], least: int) -> None:
    """Raise RequestError unless the first `asked` of `ordered` have a row of `least` classes, or of all if fewer."""
    first: dict[str, int] = {}
    for row, classes in enumerate(ordered):
        for label in classes:
            first.setdefault(label, row)
    needed = sorted(first, key=lambda label: first[label])[:least]
    if asked is not None and needed and asked <= first[needed[-1]]:
        rows = len({first[label] for label in needed})  # enough, because `with_each_class` moves rare classes forward
        raise RequestError(f"{setting}={asked}: leaves class {needed[-1]!r} without a row; it must be at least {rows}")


def _counts(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, int]:
    """Count the examples of each class; those without one count by stratum, unless a class has its name."""
    return dict(Counter(name for e in examples for name in (e.classes or {e.stratum} - set(labels))))


def _content(tokenizer: Any) -> str:
    """Return a digest of what decides a fast tokenizer's output, but for truncation and padding, which calls set."""
    if not tokenizer.is_fast:
        raise RequestError(
            f"model.path={tokenizer.name_or_path}: its tokenizer has no tokenizer.json; choose a model with one"
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest({key: value for key, value in content.items() if key not in ("truncation", "padding")})


def _digest(columns: Mapping[str, list[Any]], labels: Sequence[str]) -> str:
    return digest([labels, *(columns[name] for name in columns)])
