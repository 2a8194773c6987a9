"""Metrics from arrays."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

from hpsearch.tasks.objectives import LOG_LOSS

# A function that computes metrics from sums: `Kind.of_sums` or `mean_loss`.
OfSums = Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]

SURE = float(np.finfo(np.float32).eps)  # least distance of a probability from 0 and 1, so that no loss is infinite


def classification(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[str, float]:
    """Return accuracy, macro precision, recall and F1, F1 weighted by class size, log loss and cross-entropy in nats.

    The last two are the same quantity. The log loss is computed from `likelihoods`, and may be searched for.

    Macro averages are over the classes that the examples have.

    Args:
        logits: (examples, classes).
        labels: (examples,), the true classes.
    """
    classes = np.arange(logits.shape[1])
    predicted = logits.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "f1_weighted": float(f1_score(labels, predicted, labels=classes, average="weighted", zero_division=0.0)),
        "log_loss": float(losses(likelihoods(softmax(logits), labels)).mean()),
        "loss": float(log_loss(labels, softmax(logits), labels=classes)),
    }


def multilabel(
    probabilities: NDArray[np.floating], predicted: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> dict[str, float]:
    """Return macro precision, recall and F1 over the labels, micro F1, share of rows with all labels right, and losses.

    All arguments are (examples, labels). Macro averages are over the labels that some example has. They are 0 if no
    example has a label. Log loss and cross-entropy are means over examples and labels, in nats.
    """
    sure = np.clip(np.where(truth, probabilities, 1 - probabilities), np.finfo(np.float64).tiny, None)
    log_loss = losses(likelihoods_of_sets(probabilities, truth)).mean()
    # sklearn reads one column as two classes. So both get a further column, of a label that no example has.
    truth, predicted = (np.pad(each, ((0, 0), (0, 1))) for each in (truth, predicted))
    there = np.flatnonzero(truth.any(axis=0))
    precision, recall, f1 = (
        precision_recall_fscore_support(truth, predicted, labels=there, average="macro", zero_division=0.0)[:3]
        if len(there)
        else (0.0, 0.0, 0.0)
    )
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "f1_micro": float(f1_score(truth, predicted, average="micro", zero_division=0.0)),
        "log_loss": float(log_loss),
        "loss": float(-np.log(sure).mean()),
    }


def likelihoods(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the probability of the true class, (examples,), in 7 digits; `probabilities` are (examples, classes)."""
    return short(probabilities[np.arange(len(labels)), labels])


def likelihoods_of_sets(probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the geometric mean over the labels of the probability of the truth, (examples,), in 7 digits.

    Both arguments are (examples, labels). The logarithm of the result is the mean of the labels' logarithms.
    """
    true = np.clip(np.where(truth, probabilities, 1 - probabilities), SURE, 1 - SURE)
    return short(np.exp(np.log(true).mean(axis=1)))


def short(numbers: Iterable[float]) -> NDArray[np.float64]:
    """Round numbers to 7 digits, as they are stored, so that stored numbers give the same scores."""
    return np.array([float(f"{number:.7g}") for number in numbers], dtype=np.float64)


def losses(likelihoods: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log loss of each example in nats, (examples,)."""
    return np.asarray(-np.log(np.clip(np.asarray(likelihoods, dtype=np.float64), SURE, 1 - SURE)))


def mean_loss(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the log loss, (...), as `Kind.of_sums` does. The sums (..., 2) are of losses and of ones over examples."""
    return {LOG_LOSS.name: sums[..., 0] / sums[..., 1]}


def f1_thresholds(probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> list[float]:
    """Return for each label the threshold that makes its F1 highest; of equally good ones the nearest to one half.

    Both arguments are (examples, labels). Thresholds lie midway between neighbouring probabilities. A label that no
    example has gets one half.
    """
    thresholds = []
    for column, true in zip(probabilities.T, truth.T, strict=True):
        order = np.argsort(-column, kind="stable")
        ranked, hits = column[order], np.cumsum(true[order])
        if not true.any():
            thresholds.append(0.5)
            continue
        f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + true.sum())  # if this one and all before it get the label
        # The middle of two neighbouring floats may round down to the lower one, which must stay below the threshold.
        middles = np.maximum((ranked[:-1] + ranked[1:]) / 2, np.nextafter(ranked[1:], np.inf))
        between = np.append(middles, ranked[-1] / 2)
        f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # equal probabilities can't be told apart
        best = np.flatnonzero(f1 == f1.max())
        thresholds.append(float(between[best[np.argmin(np.abs(between[best] - 0.5))]]))
    return thresholds


def confusion(predicted: NDArray[np.integer], labels: NDArray[np.integer], classes: int) -> tuple[tuple[int, ...], ...]:
    """Return counts: a row for each true class, a column for each predicted class."""
    matrix = confusion_matrix(labels, predicted, labels=np.arange(classes))
    return tuple(tuple(int(count) for count in row) for row in matrix)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return probabilities along the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the probability of each element."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64))))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), valid near 0 and 1, where the normal approximation fails."""
    z = 1.959964
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The interval must contain the share, even if rounding at 0 and 1 puts an end beyond it.
    return min(share, max(0.0, float(centre - half))), max(share, min(1.0, float(centre + half)))
