"""The code of a logged MLflow model, a linear model of words: raw texts in, labels out.

MLflow runs this file when it loads a model, and hpsearch need not be installed there. The modules of hpsearch that it
imports are logged with the model (`serving.code`). They must import no library but `code.REQUIREMENTS`.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from hpsearch.data.text import clean
from hpsearch.serving.labelling import labelled, texts
from hpsearch.tasks.bag_of_words import Bag


class Words(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The label or labels of each text, with the probability of each class."""

    def load_context(self, context: Any) -> None:
        """Load terms and weights; `context.model_config` is what `packaging.describe` returned."""
        self.described = context.model_config
        self.bag = Bag.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return the same columns as `served_classifier`."""
        cleaned = [clean(text, self.described["clean"]) for text in texts(model_input)]
        return labelled(self.bag.logits(cleaned), self.described, model_input.index)


mlflow.models.set_model(Words())
