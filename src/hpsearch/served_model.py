"""The code of a logged MLflow model: raw texts in, labels out.

MLflow runs this file when it loads a model, where hpsearch need not be installed: of hpsearch it may import
only what `serving.CODE` sends along.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from mlflow.exceptions import MlflowException
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from hpsearch.text import clean, encode

COLUMN = "text"
BATCH = 32  # examples a forward pass


class TextClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Label, its probability, and the probability of each class, for each text."""

    def load_context(self, context: Any) -> None:
        """Load weights and tokenizer; `context.model_config` is what `serving.describe` wrote."""
        folder = context.artifacts["model"]
        disable_progress_bar()
        self.described = context.model_config
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
        self.model.eval().to(self.device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Columns label, score and probabilities (class: probability), a row for each text."""
        texts = _texts(model_input)
        labels = self.described["labels"]
        probabilities = self._probabilities([clean(text, self.described["clean"]) for text in texts])
        best = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "label": [labels[index] for index in best],
                "score": probabilities.max(axis=1),
                "probabilities": [dict(zip(labels, map(float, row), strict=True)) for row in probabilities],
            },
            index=model_input.index,
        )

    def _probabilities(self, texts: list[str]) -> np.ndarray:
        """(texts, classes); batches hold texts of like length, so that little is padding."""
        described = self.described
        tokens, _ = encode(texts, self.tokenizer, described["max_length"], described["truncation"])
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        result = np.zeros((len(tokens), len(described["labels"])))
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                rows = [torch.from_numpy(tokens[index]).long() for index in batch]
                pad = self.model.config.pad_token_id
                ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
                mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
                logits = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).logits
                result[batch] = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        return result


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
