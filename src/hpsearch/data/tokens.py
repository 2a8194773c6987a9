"""Tokenised examples for models: memory-mapped arrays, and batches made from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Padding = Mapping[str, int | bool]  # name of an array with an element for each token: its padding value in a batch
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # the rest of a batch is for the loss


class Tokens:
    """A tokenised split as a map-style data set of pieces, memory-mapped so that all processes share it.

    An example has one piece, or several if it is longer than the model's input. Each array has its own file.

    `ids` (tokens,) and `lengths` (pieces,) include the special tokens. `owners` (pieces,) is the index of each piece's
    example, ascending. `labels` has the shape (pieces, ...), or (tokens, ...) if labels are padded. `truncated` is a
    scalar, the number of examples that lost tokens. Some task kinds also have `types` (tokens,), the token types.
    They may have arrays of their own with a row for each token, piece or example.
    """

    def __init__(self, folder: Path, padding: Padding, first: int | None = None) -> None:
        """Open the arrays that `save` wrote.

        Args:
            folder: Folder of the arrays.
            padding: Arrays by token that batches contain for the loss, as the task kind declares them.
            first: Number of examples to use, the first ones; None: all.
        """
        self._folder, self._padding, self._first = folder, dict(padding), first
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        self.lengths: NDArray[np.int64] = np.array(self._arrays["lengths"])
        """Number of tokens in each piece."""
        self.labels: NDArray[Any] = np.array(self._arrays["labels"])
        self.owners: NDArray[np.int64] = np.array(self._arrays["owners"])
        """Index of the example that each piece belongs to."""
        self.truncated = int(self._arrays["truncated"])
        """Number of examples that lost tokens, counted over all examples of the split."""
        if first is not None:
            pieces = self.pieces(first)
            self.lengths, self.owners = self.lengths[:pieces], self.owners[:pieces]
            if "labels" not in self._padding:  # otherwise labels have a row for each token
                self.labels = self.labels[:pieces]
        self._ends: NDArray[np.int64] = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self.owners[-1]) + 1

    def pieces(self, examples: int) -> int:
        """Return the number of pieces of the first `examples` examples."""
        return int(np.searchsorted(self.owners, examples))

    def first(self, examples: int | None) -> "Tokens":
        """Return the data set with the first `examples` examples only; None: all."""
        if examples is None or examples >= self.examples:
            return self
        return Tokens(self._folder, self._padding, examples)

    def of_piece(self, name: str, i: int) -> NDArray[Any]:
        """Return the rows of piece `i` from an array by token: `ids`, `types` or one of the task kind."""
        return self._arrays[name][self._ends[i] - self.lengths[i] : self._ends[i]]  # type: ignore[no-any-return]

    def by_piece(self, name: str) -> NDArray[Any]:
        """Return an array of the task kind with a row for each piece."""
        return self._arrays[name]  # type: ignore[no-any-return]

    def by_example(self, name: str) -> NDArray[Any]:
        """Return an array of the task kind with a row for each example."""
        return self._arrays[name]  # type: ignore[no-any-return]

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {"input_ids": self.of_piece("ids", i).astype(np.int64)}
        if "types" in self._arrays:
            item["token_type_ids"] = self.of_piece("types", i).astype(np.int64)
        item |= {name: self.of_piece(name, i) for name in self._padding}
        if "labels" not in self._padding:
            item["labels"] = self.labels[i]
        return item

    def __reduce__(self) -> tuple[type["Tokens"], tuple[Path, Padding, int | None]]:
        return Tokens, (self._folder, self._padding, self._first)


class Selected(Tokens):
    """Chosen examples of several splits, in the order given, without the arrays of the task kind."""

    def __init__(self, parts: Sequence[tuple[Tokens, NDArray[np.int64]]]) -> None:
        """Join the chosen examples of each part; their indices must be ascending."""
        self._parts = parts
        self._places: list[tuple[Tokens, int]] = []
        lengths, owners, labels, before = [], [], [], 0
        for part, chosen in parts:
            pieces = np.flatnonzero(np.isin(part.owners, chosen))
            self._places += [(part, int(piece)) for piece in pieces]
            lengths.append(part.lengths[pieces])
            owners.append(np.searchsorted(chosen, part.owners[pieces]) + before)
            labels.append(part.labels[pieces])
            before += len(chosen)
        self.lengths, self.owners, self.labels = map(np.concatenate, (lengths, owners, labels))
        self.truncated = 0

    def of_piece(self, name: str, i: int) -> NDArray[Any]:
        """See Tokens."""
        part, piece = self._places[i]
        return part.of_piece(name, piece)

    def __getitem__(self, i: int) -> dict[str, Any]:
        part, piece = self._places[i]
        return part[piece]

    def __reduce__(self) -> tuple[type["Selected"], tuple[Any]]:  # type: ignore[override]
        return Selected, (self._parts,)


def save(arrays: Arrays, folder: Path) -> None:
    """Write the arrays so that `Tokens(folder)` can open them."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def collate(
    items: list[dict[str, Any]], pad_token_id: int, types: bool, padding: Padding, lengths: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """Make a batch of items, padded on the right to the longest one. No random numbers are drawn.

    Args:
        items: Items of `Tokens`.
        pad_token_id: Padding value of `input_ids`; that of the mask and of the token types is 0.
        types: Whether the model takes token types.
        padding: Arrays by token and their padding values, as in `Tokens`.
        lengths: Ascending lengths. If given, the batch is padded to the first one that holds the longest item.

    Returns:
        input_ids (B, L), attention_mask (B, L), labels (B, ...), and each array that `padding` names (B, L). Also
        token_type_ids (B, L), if the model takes them and the items have them.
    """
    found = [len(item["input_ids"]) for item in items]
    longest = max(found)
    shape = (len(items), next((length for length in lengths if length >= longest), longest))
    fill = {"input_ids": pad_token_id, **padding}
    if types and "token_type_ids" in items[0]:
        fill["token_type_ids"] = 0
    batch = {name: np.full(shape, value, dtype=items[0][name].dtype) for name, value in fill.items()}
    for row, item in enumerate(items):
        for name in fill:
            batch[name][row, : found[row]] = item[name]
    batch["attention_mask"] = (np.arange(shape[1]) < np.array(found)[:, None]).astype(np.int64)
    if "labels" not in padding:
        batch["labels"] = np.stack([item["labels"] for item in items])
    return {name: torch.from_numpy(array) for name, array in sorted(batch.items())}


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the part of a batch that the model reads, without labels and other inputs of the loss."""
    return {name: batch[name] for name in MODEL_INPUTS if name in batch}
