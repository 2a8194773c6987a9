"""Texts that a model is given, and labels that it gives, as tables. A served model carries this file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

COLUMN = "text"


def texts(model_input: pd.DataFrame) -> list[str]:
    """The texts of a column `text`, or of a plain list, which MLflow hands over as column 0."""
    column = model_input.columns[0]
    if column not in (COLUMN, 0):
        raise MlflowException.invalid_parameter_value(
            f"the first column is {column!r}; give a list of texts, or put a column {COLUMN!r} first"
        )
    found: list[str] = model_input[column].tolist()
    for row, text in enumerate(found):
        if not isinstance(text, str):
            raise MlflowException.invalid_parameter_value(f"row {row} is {text!r}, not a text; leave it out or mend it")
    return found


def texts_of(model_input: pd.DataFrame, column: str, columns: Sequence[str]) -> list[str]:
    """The texts of a column, of several that a model takes; none may be empty."""
    if column not in model_input.columns:
        raise MlflowException.invalid_parameter_value(f"there is no column {column!r}; give {' and '.join(columns)}")
    found: list[str] = model_input[column].tolist()
    for row, text in enumerate(found):
        if not isinstance(text, str) or not text.strip():
            raise MlflowException.invalid_parameter_value(f"row {row} of {column} is {text!r}, not a text; mend it")
    return found


def labelled(logits: NDArray[np.float64], described: Mapping[str, Any], index: pd.Index) -> pd.DataFrame:
    """A row for each text: label and score, or labels and scores where a text may have several; probabilities.

    Args:
        logits: (texts, classes).
        described: by `packaging.describe`.
        index: of the texts.
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
