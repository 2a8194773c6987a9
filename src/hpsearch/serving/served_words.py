"""The code of a logged MLflow model, a linear model of words: raw texts in, labels out.

MLflow runs this file when it loads a model, where hpsearch need not be installed: what it imports of
hpsearch is sent along (`serving.code`), and must import no library but `code.REQUIREMENTS`.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from hpsearch.data.text import clean
from hpsearch.serving.labelling import labelled, texts
from hpsearch.tasks.bag_of_words import Bag


class Words(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Label or labels of each text, with the probability of each class."""

    def load_context(self, context: Any) -> None:
        """Load terms and weights; `context.model_config` is what `serving.describe` wrote."""
        self.described = context.model_config
        self.bag = Bag.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """As `served_classifier` does."""
        cleaned = [clean(text, self.described["clean"]) for text in texts(model_input)]
        return labelled(self.bag.logits(cleaned), self.described, model_input.index)


mlflow.models.set_model(Words())
