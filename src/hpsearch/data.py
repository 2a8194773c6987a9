"""What models train on: read a task's data whole, store a study's part of it, tokenise once, collate."""

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
import torch
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from numpy.typing import NDArray

from hpsearch import reading
from hpsearch.errors import RequestError
from hpsearch.examples import SPLITS, check_roles, class_names, deduplicate, examples, split
from hpsearch.records import DataRef
from hpsearch.settings import Settings, TaskSettings, digest
from hpsearch.text import encode

FEATURES = datasets.Features(
    {"id": datasets.Value("string"), "text": datasets.Value("string"), "label": datasets.Value("int64")}
)


@dataclass(frozen=True)
class Corpus:
    """All rows of a task, cleaned, de-duplicated and split, in memory."""

    splits: dict[str, datasets.Dataset]
    """train, validation, test: columns id (str), text (str), label (int, an index into `labels`)."""
    labels: tuple[str, ...]
    facts: dict[str, Any]
    """What was done to the data, JSON-able: for the report and the run."""


def read(task: TaskSettings) -> Corpus:
    """Read, check, clean, de-duplicate and split the data of `task`. Writes nothing.

    A test split that the source gives is kept row for row, so that scores stay comparable; its texts are dropped
    from the other splits instead. Of a text that stands twice under one label the first copy stays; under two
    labels none does, because nothing tells which label is right. A row's id is its split in the source and
    its line or row there.

    Raises:
        RequestError: the data or its description is wrong.
    """
    check_roles(task)
    rows = reading.read(task)
    given = {name: examples(rows[name], task) for name in SPLITS if name in rows}
    labels = class_names(task, given, rows)
    kept, dropped = deduplicate(given)
    complete = split(kept, labels, task, rows)
    index = {label: i for i, label in enumerate(labels)}
    columns: dict[str, dict[str, list[Any]]] = {
        name: {
            "id": [f"{name if name in given else 'train'}-{example.number}" for example in complete[name]],
            "text": [example.text for example in complete[name]],
            "label": [index[example.label] for example in complete[name]],
        }
        for name in SPLITS
    }
    facts = {
        "source": reading.describe(task),
        "note": task.packaged.note if task.source == "packaged" and task.packaged is not None else None,
        "rows": {name: len(rows) for name, rows in given.items()},
        "empty_texts": {name: sum(not example.text for example in rows) for name, rows in given.items()},
        "dropped": dropped,
        "split_by": {name: "source" if name in given else "hpsearch" for name in SPLITS},
        "labels": index,
        "classes": {name: dict(Counter(labels[i] for i in columns[name]["label"])) for name in SPLITS},
        "digests": {name: _digest(columns[name], labels) for name in SPLITS},
    }
    in_memory = {name: datasets.Dataset.from_dict(columns[name], features=FEATURES) for name in SPLITS}
    return Corpus(in_memory, labels, facts)


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
        labels = np.asarray(corpus.splits[name]["label"], dtype=np.int64)
        order = stratified_order(labels, settings.task.split.seed)
        _check_classes(f"budget.{name}_examples", asked[name], labels[order], corpus.labels)
        if name == "validation":
            _check_classes("budget.rung_examples", budget.rung_examples, labels[order], corpus.labels)
        parts[name] = corpus.splits[name][order[: asked[name]].tolist()]
    digests = {name: _digest(parts[name], corpus.labels) for name in SPLITS}
    folder = (home / "cache" / "data" / digest([corpus.labels, digests])).absolute()
    with _once(folder) as beside:
        if beside is not None:
            for name in SPLITS:
                with ArrowWriter(path=str(beside / f"{name}.arrow"), features=FEATURES) as writer:
                    writer.write_batch(parts[name])
                    writer.finalize()
    return DataRef(folder, corpus.labels, digests, {name: len(parts[name]["label"]) for name in SPLITS})


def load(ref: DataRef, split: str) -> datasets.Dataset:
    """The stored rows of a split, memory-mapped: columns id, text, label."""
    return datasets.Dataset.from_file(str(ref.folder / f"{split}.arrow"))


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A seeded permutation of which every prefix has the classes in the proportions of the whole.

    The members of each class, shuffled, are laid out evenly over [0, 1); all are then taken from left to right. In a
    prefix of k rows, a class with share p is off k * p by less than 1 + classes / 2.
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")


class Tokens:
    """A tokenised split as a map-style data set for torch; memory-mapped, so all processes share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids: NDArray[np.int32] = np.load(folder / "ids.npy", mmap_mode="r")  # of all examples, end to end
        self._ends: NDArray[np.int64] = np.cumsum(np.load(folder / "lengths.npy"))
        self.lengths: NDArray[np.int64] = np.load(folder / "lengths.npy")
        """Tokens of each example, special tokens included, after truncation."""
        self.labels: NDArray[np.int64] = np.load(folder / "labels.npy")
        self.truncated = int((np.load(folder / "whole_lengths.npy") > self.lengths).sum())
        """Number of examples that lost tokens."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        end = self._ends[i]
        return {"input_ids": self._ids[end - self.lengths[i] : end].astype(np.int64), "labels": int(self.labels[i])}

    def __reduce__(self) -> tuple[type["Tokens"], tuple[Path]]:
        return Tokens, (self._folder,)


def tokenised(ref: DataRef, settings: Settings, tokenizer: Any, split: str) -> Tokens:
    """The tokens of a split: made once for a tokenizer, `task.max_length` and `task.truncation`, then read back."""
    task = settings.task
    key = digest([_content(tokenizer), task.max_length, task.truncation])
    folder = ref.folder / "tokens" / f"{split}-{key}"
    with _once(folder) as beside:
        if beside is not None:
            rows = load(ref, split)
            ids, whole_lengths = encode(list(rows["text"]), tokenizer, task.max_length, task.truncation)
            np.save(beside / "ids.npy", np.concatenate(ids))
            np.save(beside / "lengths.npy", np.array([len(each) for each in ids], dtype=np.int64))
            np.save(beside / "whole_lengths.npy", np.array(whole_lengths, dtype=np.int64))
            np.save(beside / "labels.npy", np.asarray(rows["label"], dtype=np.int64))
    return Tokens(folder)


def collate(examples: list[dict[str, Any]], pad_token_id: int, pad_side: str = "right") -> dict[str, torch.Tensor]:
    """Pad to the longest: input_ids (B, L), attention_mask (B, L) and labels (B,), all int64. Draws no randomness."""
    longest = max(len(example["input_ids"]) for example in examples)
    ids = np.full((len(examples), longest), pad_token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, example in enumerate(examples):
        size = len(example["input_ids"])
        where = slice(0, size) if pad_side == "right" else slice(longest - size, longest)
        ids[row, where] = example["input_ids"]
        mask[row, where] = 1
    labels = torch.tensor([example["labels"] for example in examples], dtype=torch.int64)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "labels": labels}


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


def _check_classes(setting: str, asked: int | None, ordered: NDArray[np.int64], labels: Sequence[str]) -> None:
    """Every class needs a row among the first `asked` of `ordered`."""
    firsts = [int(np.argmax(ordered == i)) for i in range(len(labels))]
    last = int(np.argmax(firsts))
    if asked is not None and asked <= firsts[last]:
        raise RequestError(
            f"{setting}={asked}: leaves class {labels[last]!r} without a row; it must be at least {firsts[last] + 1}"
        )


def _content(tokenizer: Any) -> str:
    """All that decides a fast tokenizer's output. Truncation and padding are switched at each call, so they do not."""
    if not tokenizer.is_fast:
        raise RequestError(
            f"model.path={tokenizer.name_or_path}: its tokenizer has no tokenizer.json; choose a model with one"
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest({key: value for key, value in content.items() if key not in ("truncation", "padding")})


def _digest(columns: Mapping[str, list[Any]], labels: Sequence[str]) -> str:
    return digest([labels, columns["id"], columns["text"], columns["label"]])
