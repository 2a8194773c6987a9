"""The linear model of words, pairs of words and runs of characters, at prediction. A served model carries this file.

The model reads which terms a text has, and how often. Terms are words and signs, pairs of neighbours among these, and
runs of 3 to 5 characters within a word. A space marks each end of the word. A count becomes 1 + ln(count), times the
rarity of the term. Words and pairs together are scaled to length 1, and so are the runs (Salton and Buckley 1988,
https://doi.org/10.1016/0306-4573(88)90021-0; pairs as in Wang and Manning 2012, https://aclanthology.org/P12-2018).
`training/words.py` fits the model.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpsearch.tasks import floor_file

WORD = re.compile(r"\w+|[^\w\s]")
SHORTEST, LONGEST = 3, 5  # characters in a run
BASE = 2**31  # a pair of words is one number: first * BASE + second
REMEMBERED = 50_000  # words whose runs are kept in a cache
BETWEEN = "\n"  # separates terms in the file; no term contains it

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def words(text: str) -> list[str]:
    """Return the words and signs of a text in lower case, in order."""
    return WORD.findall(text.lower())


def runs(word: str) -> list[str]:
    """Return the runs of characters of a word that has a space added at each end."""
    padded = f" {word} "
    sizes = range(SHORTEST, min(LONGEST, len(padded)) + 1)
    return [padded[at : at + size] for size in sizes for at in range(len(padded) - size + 1)]


def pairs(ids: Ints) -> Ints:
    """Return the numbers of pairs of known neighbours, from the numbers of words (L,), -1 for unknown words."""
    first, second = ids[:-1], ids[1:]
    return (first * BASE + second)[(first >= 0) & (second >= 0)]


def places(found: Ints, known: Ints) -> Ints:
    """Return the index of each number in `known`, which ascends; -1 for numbers that are not in it."""
    if not len(known):
        return np.full(len(found), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, found), len(known) - 1)
    return np.where(known[at] == found, at, -1)


class Terms:
    """The terms of the model. A term's number is its place in the order of words, then pairs, then runs."""

    def __init__(self, words: Sequence[str], pairs: Ints, runs: Sequence[str], rarity: Floats) -> None:
        """Store the terms.

        Args:
            words: in the order of their numbers.
            pairs: numbers of pairs of these words, as `pairs` makes them, ascending.
            runs: in the order of their numbers; empty for a model without runs.
            rarity: (terms,), by which the weight of each term is multiplied.
        """
        self.words, self.pairs, self.runs = (
            {word: number for number, word in enumerate(words)},
            pairs,
            {run: number for number, run in enumerate(runs)},
        )
        self.rarity, self.of_words = rarity, len(words) + len(pairs)
        self.runs_of = lru_cache(REMEMBERED)(self._runs_of)

    def __len__(self) -> int:
        return len(self.rarity)

    def numbers(self, said: Sequence[str]) -> Ints:
        """Return the numbers of words, (L,); -1 for unknown words."""
        return np.array([self.words.get(word, -1) for word in said], dtype=np.int64)

    def in_text(self, text: str) -> tuple[Ints, NDArray[np.float64]]:
        """Return the numbers of the terms in a text, and their weights."""
        said = words(text)
        ids = self.numbers(said)
        of_pairs = places(pairs(ids), self.pairs)
        sorts = [np.concatenate([ids[ids >= 0], len(self.words) + of_pairs[of_pairs >= 0]])]
        if self.runs:
            sorts.append(np.concatenate([ids[:0], *map(self.runs_of, said)]))
        found = [np.unique(sort, return_counts=True) for sort in sorts]
        weights = [(1 + np.log(counts)) * self.rarity[which] for which, counts in found]
        scaled = [values / max(np.sqrt((values**2).sum()), 1e-9) for values in weights]
        return np.concatenate([which for which, _ in found]), np.concatenate(scaled)

    def _runs_of(self, word: str) -> Ints:
        """Return the numbers of the known runs of a word."""
        found = [self.runs[run] for run in runs(word) if run in self.runs]
        return np.array(found, dtype=np.int64) + self.of_words


class Bag:
    """The whole linear model: terms, weights and biases."""

    def __init__(self, terms: Terms, weights: Floats, bias: Floats) -> None:
        """Store the terms, the `weights` (terms, classes) and the `bias` (classes,)."""
        self.terms, self.weights, self.bias = terms, weights, bias

    @staticmethod
    def load(folder: Path) -> "Bag":
        """Load the model that `save` wrote."""
        described, arrays = floor_file.load(folder)
        words, runs = (described[name].split(BETWEEN) if described[name] else [] for name in ("words", "runs"))
        return Bag(Terms(words, arrays["pairs"], runs, arrays["rarity"]), arrays["weights"], arrays["bias"])

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder."""
        described = {"words": BETWEEN.join(self.terms.words), "runs": BETWEEN.join(self.terms.runs)}
        arrays: floor_file.Arrays = {
            "pairs": self.terms.pairs,
            "rarity": self.terms.rarity,
            "weights": self.weights,
            "bias": self.bias,
        }
        floor_file.save(folder, described, arrays)

    def logits(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """Return the logits of texts, (texts, classes)."""
        found = (self.terms.in_text(text) for text in texts)
        rows = [self.bias + weights @ self.weights[numbers].astype(np.float64) for numbers, weights in found]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.bias))
