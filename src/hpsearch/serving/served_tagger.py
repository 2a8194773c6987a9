"""The code of a logged MLflow model: raw texts in, entities out.

MLflow runs this file when it loads a model, and hpsearch need not be installed there. The modules of hpsearch that it
imports are logged with the model (`serving.code`). They must import no library but `code.REQUIREMENTS`.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd

from hpsearch.serving.inference import Inference
from hpsearch.serving.labelling import texts
from hpsearch.tasks import entities


class Tagger(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The entities of each text."""

    def load_context(self, context: Any) -> None:
        """Load weights and tokenizer; `context.model_config` is what `packaging.describe` returned."""
        self.described = context.model_config
        self.inference = Inference(context.artifacts["model"], self.described["head"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return a row for each text: its entities in order, each with label, text, begin, end and score.

        `begin` and `end` count characters of the given text: the entity is text[begin:end]. `score` is the mean
        probability of the tags of the entity's words.
        """
        given, described = texts(model_input), self.described
        tokenizer = self.inference.tokenizer
        of_texts = list(entities.pieces(given, tokenizer, described["max_length"], described["stride"]))
        ids = [piece.ids for pieces in of_texts for piece in pieces]
        logits = iter(self.inference.run(ids, None, ["logits"]))
        found = []
        for text, pieces in zip(given, of_texts, strict=True):
            scores = np.concatenate([next(logits) for _ in pieces])
            places = [piece.places for piece in pieces]
            found.append(self._entities(text, places, scores))
        return pd.DataFrame({"entities": found}, index=model_input.index)

    def _entities(self, text: str, places: list[np.ndarray], logits: np.ndarray) -> list[dict[str, Any]]:
        words = entities.chosen(places)
        likely = logits[words].astype(np.float64)
        probabilities = np.exp(likely - likely.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return [
            {
                "label": self.described["labels"][one.label],
                "text": text[one.begin : one.end],
                "begin": one.begin,
                "end": one.end,
                "score": one.score,
            }
            for one in entities.decode(np.concatenate(places)[words], probabilities)
        ]


mlflow.models.set_model(Tagger())
