"""A linear model of words, pairs of words and runs of characters, as it predicts. A served model carries this file.

A text is what terms it has and how often: words and signs, neighbours among these, and within a word, whose ends are
marked by spaces, runs of 3 to 5 characters. A count becomes 1 + ln(count), times the rarity of the term; words and
pairs together have length 1, and so have runs (Salton and Buckley 1988, https://doi.org/10.1016/0306-4573(88)90021-0;
pairs as in Wang and Manning 2012, https://aclanthology.org/P12-2018). How it is fitted is in `training/words.py`.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpsearch.tasks import floor_file

WORD = re.compile(r"\w+|[^\w\s]")
SHORTEST, LONGEST = 3, 5  # characters of a run
BASE = 2**31  # a pair of words is one number: first * BASE + second
REMEMBERED = 50_000  # words whose runs are not looked up again
BETWEEN = "\n"  # between terms in a file; no term holds one

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def words(text: str) -> list[str]:
    """Words and signs, in lower case, in order."""
    return WORD.findall(text.lower())


def runs(word: str) -> list[str]:
    """Runs of characters of a word with a space at each end."""
    padded = f" {word} "
    sizes = range(SHORTEST, min(LONGEST, len(padded)) + 1)
    return [padded[at : at + size] for size in sizes for at in range(len(padded) - size + 1)]


def pairs(ids: Ints) -> Ints:
    """Numbers of neighbours that are both known, from the numbers of words (L,), -1 for unknown ones."""
    first, second = ids[:-1], ids[1:]
    return (first * BASE + second)[(first >= 0) & (second >= 0)]


def places(found: Ints, known: Ints) -> Ints:
    """Where numbers stand in `known`, which ascends; -1 for those that do not."""
    if not len(known):
        return np.full(len(found), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, found), len(known) - 1)
    return np.where(known[at] == found, at, -1)


class Terms:
    """What is looked for in a text. A term's number is its place: words, then pairs, then runs."""

    def __init__(self, words: Sequence[str], pairs: Ints, runs: Sequence[str], rarity: Floats) -> None:
        """Take terms up.

        Args:
            words: in the order of their numbers.
            pairs: of these, by `pairs`, ascending.
            runs: in the order of their numbers; none where they are not looked for.
            rarity: (terms,), by which a count is multiplied.
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
        """Of words, (L,); -1 for unknown ones."""
        return np.array([self.words.get(word, -1) for word in said], dtype=np.int64)

    def in_text(self, text: str) -> tuple[Ints, NDArray[np.float64]]:
        """The terms of a text, and their weights."""
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
        """Numbers of the runs of a word."""
        found = [self.runs[run] for run in runs(word) if run in self.runs]
        return np.array(found, dtype=np.int64) + self.of_words


class Bag:
    """The whole model."""

    def __init__(self, terms: Terms, weights: Floats, bias: Floats) -> None:
        """`weights` are (terms, classes), `bias` is (classes,)."""
        self.terms, self.weights, self.bias = terms, weights, bias

    @staticmethod
    def load(folder: Path) -> "Bag":
        """What `save` wrote."""
        described, arrays = floor_file.load(folder)
        words, runs = (described[name].split(BETWEEN) if described[name] else [] for name in ("words", "runs"))
        return Bag(Terms(words, arrays["pairs"], runs, arrays["rarity"]), arrays["weights"], arrays["bias"])

    def save(self, folder: Path) -> None:
        """Write it into a folder that is there."""
        described = {"words": BETWEEN.join(self.terms.words), "runs": BETWEEN.join(self.terms.runs)}
        arrays: floor_file.Arrays = {
            "pairs": self.terms.pairs,
            "rarity": self.terms.rarity,
            "weights": self.weights,
            "bias": self.bias,
        }
        floor_file.save(folder, described, arrays)

    def logits(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """(texts, classes)."""
        found = (self.terms.in_text(text) for text in texts)
        rows = [self.bias + weights @ self.weights[numbers].astype(np.float64) for numbers, weights in found]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.bias))
