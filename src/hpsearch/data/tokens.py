"""Tokenised examples as models take them: memory-mapped arrays, and batches made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Padding = Mapping[str, int | bool]  # array with an element for each token: what fills it in a batch
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # of a batch; all else is for the loss


class Tokens:
    """A tokenised split as a map-style data set of pieces; memory-mapped, so all processes share it.

    An example is one piece, or several where it is longer than the model takes. The arrays, a file each:
    `ids` and `lengths` (special tokens included), `owners` (the example of each piece, ascending), `labels`
    (pieces, ...) or, where they are padded, (tokens, ...), `truncated` (a scalar: examples that lost tokens); where
    the task kind has them, `types` (of each token), and arrays of its own with a row for each token, piece or example.
    """

    def __init__(self, folder: Path, padding: Padding, first: int | None = None) -> None:
        """Open what `save` wrote.

        Args:
            folder: of the arrays.
            padding: the kind's: arrays by token that batches have for the loss.
            first: so many examples alone; None: all.
        """
        self._folder, self._padding, self._first = folder, dict(padding), first
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        self.lengths: NDArray[np.int64] = np.array(self._arrays["lengths"])
        """Tokens of each piece."""
        self.labels: NDArray[Any] = np.array(self._arrays["labels"])
        self.owners: NDArray[np.int64] = np.array(self._arrays["owners"])
        """Index of the example that each piece is of."""
        self.truncated = int(self._arrays["truncated"])
        """Number of examples that lost tokens, of all that there are."""
        if first is not None:
            pieces = self.pieces(first)
            self.lengths, self.owners = self.lengths[:pieces], self.owners[:pieces]
            if "labels" not in self._padding:  # else they are by token
                self.labels = self.labels[:pieces]
        self._ends: NDArray[np.int64] = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self.owners[-1]) + 1

    def pieces(self, examples: int) -> int:
        """Number of pieces of the first `examples` examples."""
        return int(np.searchsorted(self.owners, examples))

    def first(self, examples: int | None) -> "Tokens":
        """The same, of the first so many examples alone; None: of all."""
        if examples is None or examples >= self.examples:
            return self
        return Tokens(self._folder, self._padding, examples)

    def of_piece(self, name: str, i: int) -> NDArray[Any]:
        """The rows of an array by token (`ids`, `types`, one of the kind's) that are piece `i`'s."""
        return self._arrays[name][self._ends[i] - self.lengths[i] : self._ends[i]]  # type: ignore[no-any-return]

    def by_piece(self, name: str) -> NDArray[Any]:
        """An array of the kind with a row for each piece."""
        return self._arrays[name]  # type: ignore[no-any-return]

    def by_example(self, name: str) -> NDArray[Any]:
        """An array of the kind with a row for each example."""
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
    """Some examples of several splits, in the order given; their arrays of the kind are left behind."""

    def __init__(self, parts: Sequence[tuple[Tokens, NDArray[np.int64]]]) -> None:
        """Each part with the examples that are taken of it, ascending."""
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
    """Write arrays for `Tokens(folder)`."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def collate(
    items: list[dict[str, Any]], pad_token_id: int, types: bool, padding: Padding, lengths: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """Pad on the right to the longest. Draws no randomness.

    Args:
        items: of Tokens.
        pad_token_id: fills `input_ids`; the mask and the token types are filled with 0.
        types: whether the model takes token types.
        padding: the kind's, as in Tokens.
        lengths: ascending; pad to the first of these that holds the longest instead.

    Returns:
        input_ids (B, L), attention_mask (B, L), labels (B, ...) and what else `padding` names, (B, L) each; if the
        model takes them and the items have them, token_type_ids (B, L).
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
    """The part of a batch that the model reads; labels and what else the loss needs are left out."""
    return {name: batch[name] for name in MODEL_INPUTS if name in batch}
