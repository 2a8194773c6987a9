"""Texts as pieces of tokens, and outputs for texts from the outputs for their pieces."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.task import TaskSettings
from hpsearch.data.text import encode
from hpsearch.data.tokens import Arrays, Tokens


def pooled(outputs: list[NDArray[np.float32]], tokens: Tokens, examples: int) -> NDArray[np.float64]:
    """Return the mean of the outputs (C,) of each example's pieces, (examples, C)."""
    owners = tokens.owners[: len(outputs)]
    sums = np.zeros((examples, len(outputs[0])))
    np.add.at(sums, owners, np.stack(outputs))
    return np.asarray(sums / np.bincount(owners, minlength=examples)[:, None])


def encoded(texts: list[str], labels: NDArray[Any], tokenizer: Any, task: TaskSettings) -> Arrays:
    """Return the token arrays of texts. `labels` are (texts, ...), and a piece has the labels of its text."""
    pieces = encode(texts, tokenizer, task.max_length, task.truncation, task.stride)
    owners = np.array(pieces.owners, dtype=np.int64)
    return {
        "ids": np.concatenate(pieces.pieces),
        "lengths": np.array([len(piece) for piece in pieces.pieces], dtype=np.int64),
        "owners": owners,
        "labels": labels[owners],
        "truncated": np.array(pieces.truncated),
    }
