"""The code of a logged MLflow model: raw texts in, labels out.

MLflow runs this file when it loads a model, and hpsearch need not be installed there. The modules of hpsearch that it
imports are logged with the model (`serving.code`). They must import no library but `code.REQUIREMENTS`.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from hpsearch.data.text import clean, encode
from hpsearch.serving.inference import Inference
from hpsearch.serving.labelling import labelled, texts
from hpsearch.tasks.bag_of_words import Bag
from hpsearch.tasks.blend import together


class TextClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The label or labels of each text, with the probability of each class."""

    def load_context(self, context: Any) -> None:
        """Load weights, tokenizer and, for a blend, the model of words.

        `context.model_config` is what `packaging.describe` returned, and for a blend also its weights.
        """
        self.described = context.model_config
        self.inference = Inference(context.artifacts["model"], self.described["head"])
        words = context.artifacts.get("words")
        self.words = Bag.load(Path(words)) if words is not None else None

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return a row for each text, with the probability of each class.

        A row has label and score, or labels and scores if a text may have several labels.
        """
        described = self.described
        given = [clean(text, described["clean"]) for text in texts(model_input)]
        logits = self._logits(given)
        if self.words is not None:
            logits = together(logits, self.words.logits(given), described["blend"])
        return labelled(logits, described, model_input.index)

    def _logits(self, given: list[str]) -> np.ndarray:
        """Return logits (texts, classes): the mean over the pieces of a text."""
        described = self.described
        encoded = encode(
            given, self.inference.tokenizer, described["max_length"], described["truncation"], described["stride"]
        )
        sums = np.zeros((len(given), len(described["labels"])))
        np.add.at(sums, encoded.owners, np.array(self.inference.run(encoded.pieces, None, ["logits"])))
        return sums / np.bincount(encoded.owners, minlength=len(given))[:, None]


mlflow.models.set_model(TextClassifier())
