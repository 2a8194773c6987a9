"""Arrays to named floats; each metric knows its direction."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

# Optuna's words. Every metric that a task may search for is here.
DIRECTIONS = {"accuracy": "maximize", "f1": "maximize", "precision": "maximize", "recall": "maximize"}


def classification(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[str, float]:
    """Accuracy, macro precision, recall and F1, and the cross-entropy in nats.

    Args:
        logits: (examples, classes).
        labels: (examples,), the true classes.
    """
    classes = np.arange(logits.shape[1])
    predicted = logits.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=classes, average="macro", zero_division=0.0
    )
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "loss": float(log_loss(labels, softmax(logits), labels=classes)),
    }


def confusion(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[tuple[int, ...], ...]:
    """Counts: a row for each true class, a column for each predicted one."""
    matrix = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(logits.shape[1]))
    return tuple(tuple(int(count) for count in row) for row in matrix)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities along the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): honest near 0 and 1, where the normal approximation is not."""
    z = 1.959964
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
