"""The code of a logged MLflow model: raw texts in, labels out.

MLflow runs this file when it loads a model, where hpsearch need not be installed: what it imports of
hpsearch is sent along (`serving.code`), and must import no library but `code.REQUIREMENTS`.
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
    """Label or labels of each text, with the probability of each class."""

    def load_context(self, context: Any) -> None:
        """Load weights, tokenizer and the words, if any; `context.model_config` is what `serving.describe` wrote."""
        self.described = context.model_config
        self.inference = Inference(context.artifacts["model"], self.described["head"])
        words = context.artifacts.get("words")
        self.words = Bag.load(Path(words)) if words is not None else None

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """A row for each text: label and score, or labels and scores where a text may have several; probabilities."""
        described = self.described
        given = [clean(text, described["clean"]) for text in texts(model_input)]
        logits = self._logits(given)
        if self.words is not None:
            logits = together(logits, self.words.logits(given), described["blend"])
        return labelled(logits, described, model_input.index)

    def _logits(self, given: list[str]) -> np.ndarray:
        """(texts, classes): the mean over the pieces of a text."""
        described = self.described
        encoded = encode(
            given, self.inference.tokenizer, described["max_length"], described["truncation"], described["stride"]
        )
        sums = np.zeros((len(given), len(described["labels"])))
        np.add.at(sums, encoded.owners, np.array(self.inference.run(encoded.pieces, None, ["logits"])))
        return sums / np.bincount(encoded.owners, minlength=len(given))[:, None]


mlflow.models.set_model(TextClassifier())
