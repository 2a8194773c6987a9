"""What models train on: read a task's data whole, store a study's part of it, tokenise once."""

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

FEWEST = 100  # training examples of a trial, where there are so many
ENCODING = 2  # one more with each change of the tokens that the same rows become


@dataclass(frozen=True)
class Corpus:
    """All rows of a task, cleaned, de-duplicated and split, in memory."""

    splits: dict[str, datasets.Dataset]
    """train, validation, test: the columns of the task kind."""
    examples: dict[str, list[Example]]
    """What the rows of the splits were made of."""
    labels: tuple[str, ...]
    facts: Facts
    """What was done to the data: for the report and the run."""
    notes: tuple[str, ...]
    """What people should know of the data before anything is trained, a sentence each."""


def read(settings: Settings) -> Corpus:
    """Read, check, clean, de-duplicate and split the data of a task. Writes nothing.

    Validation and test splits that the source gives are kept row for row, so that scores stay comparable; what stands
    in them is dropped from train instead. Of an example that stands twice in train the first copy stays, with all that
    the copies say together; of one that contradicts itself there none does, because nothing tells which is right. A
    row's id is its split in the source and its line or row there.

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
    """The classes of which there is a row still, if they are enough to tell apart."""
    there = {label for examples in kept.values() for example in examples for label in example.classes}
    left = tuple(label for label in labels if label in there)
    return left if len(left) >= min(2, len(labels)) else labels


def prepare(corpus: Corpus, settings: Settings, home: Path) -> DataRef:
    """Store the part of the corpus that the budget takes in `home/cache/data/<digest>/`, once.

    Each split is stored in `stratified_order`, so the first k validation rows are a fair sample of it.
    A budget that asks for more rows than there are takes them all; `DataRef.sizes` tells.

    Raises:
        RequestError: a budget so small that a class is left without a row.
    """
    budget = settings.budget
    asked = {name: getattr(budget, f"{name}_examples") for name in SPLITS}
    parts: dict[str, dict[str, list[Any]]] = {}
    for name in SPLITS:
        examples = corpus.examples[name]
        order = stratified_order([example.stratum for example in examples], settings.task.split.seed)
        of_rows = [example.classes for example in examples]
        if name == "train":  # trials have the first so many rows: each class shall be among these, however rare it is
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
                    open(beside / f"{name}.arrow", "wb") as file,  # a path would be read as an address; `::` parts two
                    ArrowWriter(stream=file, features=features) as writer,
                ):
                    writer.write_batch(parts[name])
                    writer.finalize()
    return DataRef(folder, corpus.labels, digests, {name: len(parts[name]["id"]) for name in SPLITS})


def load(ref: DataRef, split: str) -> datasets.Dataset:
    """The stored rows of a split, memory-mapped: the columns of the task kind."""
    return datasets.Dataset.from_file(str(ref.folder / f"{split}.arrow"))


def stratified_order(strata: Sequence[str], seed: int) -> NDArray[np.int64]:
    """A seeded permutation of which every prefix has the strata in the proportions of the whole.

    The members of each stratum, shuffled, are laid out evenly over [0, 1); all are then taken from left to right. In a
    prefix of k rows, a stratum with share p is off k * p by less than 1 + strata / 2.
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
    """The order with a row of each class among the first `asked`, as far as they can hold one.

    A rare class has its rows late in the order. The first of each that is late changes places with the last of the
    first `asked` that is not the first of its own. Where no class is late, nothing changes.

    Args:
        order: permutation of the rows.
        asked: rows to take; None for all.
        classes: of each row.
    """
    firsts: dict[str, int] = {}  # class: place in the order
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
    """The tokens of a split: made once for a tokenizer and the task's settings of length, then read back."""
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
    """Make `folder` whole or not at all, by one process: yields where to write it, or None if it is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            yield None
            return
        beside = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(beside, ignore_errors=True)  # what a killed process left
        beside.mkdir()
        yield beside
        for file in beside.iterdir():
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        beside.rename(folder)


def _check_classes(setting: str, asked: int | None, ordered: Sequence[tuple[str, ...]], least: int) -> None:
    """So many classes need a row among the first `asked` of `ordered`, or all that it has where they are fewer."""
    first: dict[str, int] = {}
    for row, classes in enumerate(ordered):
        for label in classes:
            first.setdefault(label, row)
    needed = sorted(first, key=lambda label: first[label])[:least]
    if asked is not None and needed and asked <= first[needed[-1]]:
        rows = len({first[label] for label in needed})  # rare ones are put first
        raise RequestError(f"{setting}={asked}: leaves class {needed[-1]!r} without a row; it must be at least {rows}")


def _counts(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, int]:
    """Examples of each class; those without one by their stratum, unless they share it with a class."""
    return dict(Counter(name for e in examples for name in (e.classes or {e.stratum} - set(labels))))


def _content(tokenizer: Any) -> str:
    """All that decides a fast tokenizer's output. Truncation and padding are switched at each call, so they do not."""
    if not tokenizer.is_fast:
        raise RequestError(
            f"model.path={tokenizer.name_or_path}: its tokenizer has no tokenizer.json; choose a model with one"
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest({key: value for key, value in content.items() if key not in ("truncation", "padding")})


def _digest(columns: Mapping[str, list[Any]], labels: Sequence[str]) -> str:
    return digest([labels, *(columns[name] for name in columns)])
