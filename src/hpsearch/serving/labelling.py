"""Input texts and output labels of a model, as tables. A served model carries a copy of this file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

COLUMN = "text"


def texts(model_input: pd.DataFrame) -> list[str]:
    """Return the texts of a column `text`, or of a plain list, which MLflow passes as column 0."""
    column = model_input.columns[0]
    if column not in (COLUMN, 0):
        raise MlflowException.invalid_parameter_value(
            f"the first column is {column!r}; give a list of texts, or put a column {COLUMN!r} first"
        )
    found: list[str] = model_input[column].tolist()
    for row, text in enumerate(found):
        if not isinstance(text, str):
            raise MlflowException.invalid_parameter_value(f"row {row} is {text!r}, not a text; correct it or drop it")
    return found


def texts_of(model_input: pd.DataFrame, column: str, columns: Sequence[str]) -> list[str]:
    """Return the texts of one of a model's `columns`; no text may be empty."""
    if column not in model_input.columns:
        raise MlflowException.invalid_parameter_value(f"there is no column {column!r}; give {' and '.join(columns)}")
    found: list[str] = model_input[column].tolist()
    for row, text in enumerate(found):
        if not isinstance(text, str) or not text.strip():
            raise MlflowException.invalid_parameter_value(f"row {row} of {column} is {text!r}, not a text; correct it")
    return found


def labelled(logits: NDArray[np.float64], described: Mapping[str, Any], index: pd.Index) -> pd.DataFrame:
    """Return a row for each text, with the probability of each class.

    A row has label and score, or labels and scores if a text may have several labels.

    Args:
        logits: (texts, classes).
        described: What `packaging.describe` returned.
        index: Index of the texts.
    """
    labels, thresholds = described["labels"], described["fitted"].get("thresholds")
    if thresholds is None:
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        columns: dict[str, Any] = {
            "label": [labels[number] for number in probabilities.argmax(axis=1)],
            "score": probabilities.max(axis=1),
        }
    else:
        probabilities = 0.5 * (1 + np.tanh(0.5 * logits))
        given = [np.flatnonzero(row >= np.array(thresholds)) for row in probabilities]
        columns = {
            "labels": [[labels[number] for number in row] for row in given],
            "scores": [[float(p[number]) for number in row] for p, row in zip(probabilities, given, strict=True)],
        }
    columns["probabilities"] = [dict(zip(labels, map(float, row), strict=True)) for row in probabilities]
    return pd.DataFrame(columns, index=index)
