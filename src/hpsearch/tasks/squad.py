"""Scores of answers as SQuAD defines them, versions 1.1 and 2.0 (Rajpurkar et al. 2016, 2018).

https://arxiv.org/abs/1606.05250, https://arxiv.org/abs/1806.03822. Both scores compare normalised texts and take the
best over the gold answers of a question. A question without a gold answer is unanswerable. The right answer to it is
"".
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as published: dashes and curly quotes stay
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NOISE = 1e-9  # sums of scores that differ by less are equal


def normalise(text: str) -> str:
    """Return a text in lower case without ASCII punctuation, then without a, an and the, with single spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """Return 1.0 if the prediction is a gold answer, or is empty for an unanswerable question, else 0.0."""
    return float(normalise(prediction) in _normalised(golds))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Return the F1 of the words that prediction and gold answer share, 0.0 to 1.0, the best over the gold answers."""
    words = normalise(prediction).split()
    return max(_overlap(words, gold.split()) for gold in _normalised(golds))


def scores(
    predictions: Sequence[str], golds: Sequence[Sequence[str]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exact match and F1 of each question, (n,) each."""
    pairs = list(zip(predictions, golds, strict=True))
    return np.array([exact_match(*pair) for pair in pairs]), np.array([f1(*pair) for pair in pairs])


def _normalised(golds: Sequence[str]) -> list[str]:
    """Return the normalised gold answers that are not empty; [""] if all are, as in version 2.0."""
    return [gold for gold in map(normalise, golds) if gold] or [""]


def _overlap(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    return 2 * sum((Counter(words) & Counter(gold)).values()) / (len(words) + len(gold))


def no_answer_threshold(
    margin: NDArray[np.floating], answered: NDArray[np.floating], silent: NDArray[np.floating]
) -> float:
    """Return the threshold t with the highest mean score when every question with margin > t is left unanswered.

    It is finite. It lies midway between two neighbouring margins, or 1 beyond the lowest or highest margin. Of equally
    good thresholds it is the nearest to 0, of two equally near the lower. Margins that are not finite are left out.
    If there are no others, the threshold is 0.

    Args:
        margin: (n,), null score minus score of the best span.
        answered: (n,), score of each question if the span is given.
        silent: (n,), score of each question if no answer is given.
    """
    finite = np.isfinite(margin)
    if not finite.any():
        return 0.0
    distinct, group = np.unique(margin[finite].astype(np.float64), return_inverse=True)
    gains = np.bincount(group, weights=(answered - silent)[finite])
    totals = np.concatenate([[0.0], np.cumsum(gains)])  # i: the i lowest distinct margins are answered
    middles = np.minimum(
        (distinct[:-1] + distinct[1:]) / 2, np.nextafter(distinct[1:], -np.inf)
    )  # a middle rounded up would be too high
    thresholds = np.concatenate([[distinct[0] - 1], middles, [distinct[-1] + 1]])
    best = thresholds[totals >= totals.max() - _NOISE]
    return float(best[np.abs(best).argmin()])
