"""Tokenised examples as models take them: memory-mapped arrays, and batches made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class Tokens:
    """A tokenised split as a map-style data set of pieces; memory-mapped, so all processes share it.

    An example is one piece, or several where it is longer than the model takes. The arrays, a file each:
    `ids` and `lengths` (special tokens included), `owners` (the example of each piece, ascending), `labels`
    (pieces, ...), `truncated` (a scalar: examples that lost tokens); where the task kind has them, `types`
    (of each token), `characters` (begin and end of each token in the context, -1 elsewhere) and `nulls`
    (the token of each piece that means "no answer").
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        self.lengths: NDArray[np.int64] = np.array(self._arrays["lengths"])
        """Tokens of each piece."""
        self.labels: NDArray[Any] = np.array(self._arrays["labels"])
        self.owners: NDArray[np.int64] = np.array(self._arrays["owners"])
        """Index of the example that each piece is of."""
        self.truncated = int(self._arrays["truncated"])
        """Number of examples that lost tokens."""
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

    def of_piece(self, name: str, i: int) -> NDArray[Any]:
        """The rows of an array by token (`ids`, `types`, `characters`) that are piece `i`'s."""
        return self._arrays[name][self._ends[i] - self.lengths[i] : self._ends[i]]  # type: ignore[no-any-return]

    def null(self, i: int) -> int:
        """The token of piece `i` that means "no answer"."""
        return int(self._arrays["nulls"][i])

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {"input_ids": self.of_piece("ids", i).astype(np.int64), "labels": self.labels[i]}
        if "types" in self._arrays:
            item["token_type_ids"] = self.of_piece("types", i).astype(np.int64)
        if "characters" in self._arrays:
            candidates = self.of_piece("characters", i)[:, 0] >= 0
            candidates[self.null(i)] = True
            item["candidates"] = candidates
        return item

    def __reduce__(self) -> tuple[type["Tokens"], tuple[Path]]:
        return Tokens, (self._folder,)


def save(arrays: Arrays, folder: Path) -> None:
    """Write arrays for `Tokens(folder)`."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def collate(
    items: list[dict[str, Any]], pad_token_id: int, types: bool, lengths: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """Pad on the right to the longest. Draws no randomness.

    Args:
        items: of Tokens.
        pad_token_id: fills `input_ids`; everything else is filled with 0.
        types: whether the model takes token types.
        lengths: ascending; pad to the first of these that holds the longest instead.

    Returns:
        input_ids (B, L), attention_mask (B, L) and labels (B, ...); where the items have them, candidates (B, L) and,
        if the model takes them, token_type_ids (B, L).
    """
    found = [len(item["input_ids"]) for item in items]
    longest = max(found)
    shape = (len(items), next((length for length in lengths if length >= longest), longest))
    dropped = {"labels"} if types else {"labels", "token_type_ids"}
    batch = {
        name: np.full(shape, pad_token_id if name == "input_ids" else 0, dtype=items[0][name].dtype)
        for name in items[0].keys() - dropped
    }
    batch["attention_mask"] = (np.arange(shape[1]) < np.array(found)[:, None]).astype(np.int64)
    for row, item in enumerate(items):
        for name in items[0].keys() - dropped:
            batch[name][row, : found[row]] = item[name]
    batch["labels"] = np.stack([item["labels"] for item in items])
    return {name: torch.from_numpy(array) for name, array in sorted(batch.items())}
