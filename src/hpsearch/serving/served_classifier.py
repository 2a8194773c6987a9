"""The code of a logged MLflow model: raw texts in, labels out.

MLflow runs this file when it loads a model, where hpsearch need not be installed: what it imports of
hpsearch is sent along (`serving.code`), and must import no library but `code.REQUIREMENTS`.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from hpsearch.data.text import clean, encode
from hpsearch.serving.inference import Inference

COLUMN = "text"


class TextClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Label or labels of each text, with the probability of each class."""

    def load_context(self, context: Any) -> None:
        """Load weights and tokenizer; `context.model_config` is what `serving.describe` wrote."""
        self.described = context.model_config
        self.inference = Inference(context.artifacts["model"], self.described["head"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """A row for each text: label and score, or labels and scores where a text may have several; probabilities."""
        described, labels = self.described, self.described["labels"]
        texts = [clean(text, described["clean"]) for text in _texts(model_input)]
        logits = self._logits(texts)
        thresholds = described["fitted"].get("thresholds")
        if thresholds is None:
            probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            columns: dict[str, Any] = {
                "label": [labels[index] for index in probabilities.argmax(axis=1)],
                "score": probabilities.max(axis=1),
            }
        else:
            probabilities = 0.5 * (1 + np.tanh(0.5 * logits))
            given = [np.flatnonzero(row >= np.array(thresholds)) for row in probabilities]
            columns = {
                "labels": [[labels[index] for index in row] for row in given],
                "scores": [[float(p[index]) for index in row] for p, row in zip(probabilities, given, strict=True)],
            }
        columns["probabilities"] = [dict(zip(labels, map(float, row), strict=True)) for row in probabilities]
        return pd.DataFrame(columns, index=model_input.index)

    def _logits(self, texts: list[str]) -> np.ndarray:
        """(texts, classes): the mean over the pieces of a text."""
        described = self.described
        encoded = encode(
            texts, self.inference.tokenizer, described["max_length"], described["truncation"], described["stride"]
        )
        sums = np.zeros((len(texts), len(described["labels"])))
        np.add.at(sums, encoded.owners, np.array(self.inference.run(encoded.pieces, None, ["logits"])))
        return sums / np.bincount(encoded.owners, minlength=len(texts))[:, None]


def _texts(model_input: pd.DataFrame) -> list[str]:
    """The texts of a column `text`, or of a plain list, which MLflow hands over as column 0."""
    column = model_input.columns[0]
    if column not in (COLUMN, 0):
        raise MlflowException.invalid_parameter_value(
            f"the first column is {column!r}; give a list of texts, or put a column {COLUMN!r} first"
        )
    texts: list[str] = model_input[column].tolist()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise MlflowException.invalid_parameter_value(f"row {row} is {text!r}, not a text; leave it out or mend it")
    return texts


mlflow.models.set_model(TextClassifier())
