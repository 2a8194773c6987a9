"""Fitting of the floor `words`: find, count and weigh terms, and fit a linear model on them in limited time."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hpsearch.tasks.bag_of_words import BASE, Bag, Floats, Ints, Terms, pairs, places, runs, words
from hpsearch.training.linear import Linear, Regression, choose

FITTING = 0.85  # share of the time in which models are fitted; the rest is for scoring and saving
SMALLEST = 250  # texts in the first fit, which shows how long a fit takes
GROWTH, WORTH_IT = 8, 1.5  # largest and smallest factor from one part of the texts to the next
ASIDE = 0.1  # share of the time left that a fit with runs of characters may take, except on the last part
ENOUGH = 200  # from this number of texts on, a term must occur in two texts
MOST_WORDS, MOST_COUNTS = 20_000_000, 50_000_000  # most words of all texts, and runs in them: some gigabytes
MOST_WEIGHTS = 4_000_000  # terms times classes, at most; the optimizer holds 20 times as many numbers
STRENGTHS, FIRST = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), 3

Matrix = Any
"""Sparse float32 matrix of scipy, by rows. Scipy has no types for it."""


@dataclass(frozen=True)
class Given:
    """Data that the model is fitted on, and data that it is chosen by."""

    texts: Sequence[str]
    targets: NDArray[np.bool_]
    """Whether each text has each class, (texts, classes)."""
    exclusive: bool
    """Whether each text has exactly one class."""
    validation: Sequence[str]
    worth: Callable[[NDArray[np.float64]], float]
    """Function from logits (validation texts, classes) to their worth; more is better."""


@dataclass(frozen=True)
class Fitted:
    """The model that was chosen."""

    bag: Bag
    examples: int
    """Number of texts that it was fitted on, from the first on."""
    strength: float
    validation: NDArray[np.float64]
    """Logits of the validation texts, (validation texts, classes)."""


def fit(given: Given, seconds: float) -> Fitted:
    """Fit on all texts, or on the first of them if time is short. Return after about `seconds`.

    A few texts are fitted first. Their time shows how many more can be fitted, and so on. On each part of the texts a
    model is fitted without runs of characters and, if time allows, one with them. The best on validation is returned.
    """
    deadline = time.monotonic() + FITTING * seconds
    heard = Counted.of([words(text) for text in given.validation])
    said: list[list[str]] = []
    most = len(given.texts)
    size, best = min(SMALLEST, most), None
    while True:
        began = time.monotonic()
        said += [words(text) for text in given.texts[len(said) : size]]
        most = min(most, max(size, size * MOST_WORDS // max(1, sum(map(len, said)))))
        part = _Part(given, Counted.of(said), heard, deadline)
        first = FIRST if best is None else STRENGTHS.index(best.strength)
        best = _better(part.plain(first), best)
        spent, now = time.monotonic() - began, time.monotonic()
        share = 1.0 if size == most else ASIDE
        if spent * part.runs_cost() < share * (deadline - now):
            best = _better(part.with_runs(first), best)
        further = int(size * (deadline - time.monotonic()) / spent)
        further = min(most, GROWTH * size, further)
        if size == most or further < min(WORTH_IT * size, most):
            return best.fitted
        size = further


@dataclass(frozen=True)
class _Found:
    fitted: Fitted
    worth: float

    @property
    def strength(self) -> float:
        return self.fitted.strength


def _better(found: _Found, before: _Found | None) -> _Found:
    """Return the later one, unless it is worse."""
    return found if before is None or found.worth >= before.worth else before


class _Part:
    """The first texts, to be fitted with and without runs of characters."""

    def __init__(self, given: Given, texts: "Counted", heard: "Counted", deadline: float) -> None:
        self.given, self.texts, self.heard, self.deadline = given, texts, heard, deadline
        self.targets = given.targets[: texts.texts]
        self.most = MOST_WEIGHTS // self.targets.shape[1]
        self.terms, self.matrix = plain(texts, self.most)

    def plain(self, first: int) -> _Found:
        """Fit on words and pairs."""
        return self._fitted(self.terms, self.matrix, first)

    def runs_cost(self) -> float:
        """Return the largest factor by which runs make a fit slower; inf where memory may not hold them."""
        counts = _most_runs(self.texts)
        return 1 + counts / max(1, int(self.matrix.nnz)) if counts <= MOST_COUNTS else math.inf

    def with_runs(self, first: int) -> _Found:
        """Fit on words, pairs and runs of characters."""
        terms, more = with_runs(self.terms, self.texts, max(1, self.most - len(self.terms)))
        return self._fitted(terms, sparse.hstack([self.matrix, more], format="csr"), first)

    def _fitted(self, terms: Terms, matrix: Matrix, first: int) -> _Found:
        validation = weighed(self.heard, terms)

        def worth(linear: Linear) -> float:
            return self.given.worth(linear.logits(validation))

        regression = Regression(matrix, self.targets, self.given.exclusive)
        chosen = choose(regression, STRENGTHS, first, worth, self.deadline)
        bag = Bag(terms, chosen.linear.weights, chosen.linear.bias)
        logits = chosen.linear.logits(validation)
        return _Found(Fitted(bag, self.texts.texts, chosen.strength, logits), chosen.worth)


@dataclass(frozen=True)
class Counted:
    """Words of some texts, as numbers."""

    distinct: list[str]
    """Each word once; its index is its number."""
    numbers: Ints
    """Number of each word, (words of all texts,): the texts end to end."""
    owners: Ints
    """Index of the text that each word belongs to, (words of all texts,)."""
    texts: int

    @staticmethod
    def of(said: Sequence[Sequence[str]]) -> "Counted":
        """Number the words of texts, given as a list of words for each text."""
        known: dict[str, int] = {}
        numbers = np.array([known.setdefault(word, len(known)) for text in said for word in text], dtype=np.int64)
        owners = np.repeat(np.arange(len(said)), [len(text) for text in said])
        return Counted(list(known), numbers, owners, len(said))

    def matrix(self, numbers: Ints, owners: Ints, width: int) -> Matrix:
        """Return how often each text has each number, (texts, width); -1 is skipped."""
        there = numbers >= 0
        ones = np.ones(int(there.sum()), dtype=np.float32)
        counts = sparse.csr_matrix((ones, (owners[there], numbers[there])), shape=(self.texts, width))
        counts.sum_duplicates()
        return counts

    def pairs(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Return the pairs of neighbours and the text of each. `numbers` has the number of each word, -1 if unknown."""
        apart = np.flatnonzero(np.diff(self.owners)) + 1  # an unknown word stands between two texts
        within = (np.diff(self.owners) == 0) & (numbers[1:] >= 0) & (numbers[:-1] >= 0)
        return pairs(np.insert(numbers, apart, -1)), self.owners[1:][within]


def plain(texts: Counted, most: int) -> tuple[Terms, Matrix]:
    """Return at most `most` words and pairs, and their weights in each text."""
    keys, owners = texts.pairs(texts.numbers)
    found, of_pairs = np.unique(keys, return_inverse=True)
    of_words = texts.matrix(texts.numbers, texts.owners, len(texts.distinct))
    both = sparse.hstack([of_words, texts.matrix(of_pairs, owners, len(found))], format="csr")
    kept, rarity = _frequent(both, most)
    split = int(np.searchsorted(kept, len(texts.distinct)))
    numbers = np.full(len(texts.distinct), -1, dtype=np.int64)
    numbers[kept[:split]] = np.arange(split)
    first, second = np.divmod(found[kept[split:] - len(texts.distinct)], BASE)
    renumbered = numbers[first] * BASE + numbers[second]  # a kept pair's words are at least as frequent, so kept
    order = np.argsort(renumbered)
    kept[split:], rarity[split:] = kept[split:][order], rarity[split:][order]
    terms = Terms([texts.distinct[i] for i in kept[:split]], renumbered[order], [], rarity)
    return terms, _scaled(both[:, kept], rarity)


def with_runs(terms: Terms, texts: Counted, most: int) -> tuple[Terms, Matrix]:
    """Return the terms with at most `most` runs of characters added, and the weights of these runs in each text."""
    known: dict[str, int] = {}
    of_words = [[known.setdefault(run, len(known)) for run in runs(word)] for word in texts.distinct]
    counts = _counts_of_runs(texts, of_words, len(known))
    kept, rarity = _frequent(counts, most)
    names = list(known)
    both = np.concatenate([terms.rarity, rarity])
    return Terms(list(terms.words), terms.pairs, [names[i] for i in kept], both), _scaled(counts[:, kept], rarity)


def weighed(texts: Counted, terms: Terms) -> Matrix:
    """Return the weights (texts, terms) that `Terms.in_text` gives for each text, up to rounding."""
    numbers = terms.numbers(texts.distinct)[texts.numbers]
    keys, owners = texts.pairs(numbers)
    at = places(keys, terms.pairs)
    at[at >= 0] += len(terms.words)
    of_words = texts.matrix(np.append(numbers, at), np.append(texts.owners, owners), terms.of_words)
    parts = [_scaled(of_words, terms.rarity[: terms.of_words])]
    if terms.runs:
        found = [(terms.runs_of(word) - terms.of_words).tolist() for word in texts.distinct]
        counts = _counts_of_runs(texts, found, len(terms.runs))
        parts.append(_scaled(counts, terms.rarity[terms.of_words :]))
    return sparse.hstack(parts, format="csr")


def _most_runs(texts: Counted) -> int:
    """Return the number of runs in the distinct words of every text, summed. No text has more different runs."""
    each = np.array([len(runs(word)) for word in texts.distinct])
    once = np.unique(texts.owners * len(texts.distinct) + texts.numbers) % len(texts.distinct)
    return int(each[once].sum())


def _counts_of_runs(texts: Counted, of_words: Sequence[Sequence[int]], width: int) -> Matrix:
    """Return how often each text has each run, (texts, width). `of_words` are the runs of each distinct word."""
    sizes = [len(found) for found in of_words]
    columns = np.array([run for found in of_words for run in found], dtype=np.int64)
    places_of = np.repeat(np.arange(len(sizes)), sizes)
    ones = np.ones(len(columns), dtype=np.float32)
    of_word = sparse.csr_matrix((ones, (places_of, columns)), shape=(len(sizes), width))
    return texts.matrix(texts.numbers, texts.owners, len(texts.distinct)) @ of_word


def _frequent(counts: Matrix, most: int) -> tuple[Ints, Floats]:
    """Return the columns that enough texts have, at most `most` of the most frequent ones, and their rarity."""
    having = np.bincount(counts.indices, minlength=counts.shape[1])
    least = 2 if counts.shape[0] >= ENOUGH else 1
    while (having >= least).sum() > most:
        least += 1
    kept = np.flatnonzero(having >= least)
    rarity = np.log((1 + counts.shape[0]) / (1 + having[kept])) + 1
    return kept, rarity.astype(np.float32)


def _scaled(counts: Matrix, rarity: Floats) -> Matrix:
    """Return the counts weighed, each row scaled to length 1. The row of a text without a term stays 0."""
    weights = counts.astype(np.float32)
    weights.data = (1 + np.log(weights.data)) * rarity[weights.indices]
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    lengths = np.sqrt(np.bincount(rows, weights.data.astype(np.float64) ** 2, minlength=weights.shape[0]))
    weights.data /= np.maximum(lengths, 1e-9)[rows].astype(np.float32)
    return weights
