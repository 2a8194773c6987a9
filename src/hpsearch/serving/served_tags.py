"""The code of a logged MLflow model, the most frequent tag of each word: raw texts in, entities out.

MLflow runs this file when it loads a model, and hpsearch need not be installed there. The modules of hpsearch that it
imports are logged with the model (`serving.code`). They must import no library but `code.REQUIREMENTS`.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from hpsearch.serving.labelling import texts
from hpsearch.tasks.frequent_tags import FrequentTags


class Tags(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The entities of each text."""

    def load_context(self, context: Any) -> None:
        """Load the tags of the words; `context.model_config` is what `packaging.describe` returned."""
        self.described = context.model_config
        self.tagger = FrequentTags.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return the same columns as `served_tagger`."""
        labels = self.described["labels"]
        found = [
            [
                {
                    "label": labels[one.label],
                    "text": text[one.begin : one.end],
                    "begin": one.begin,
                    "end": one.end,
                    "score": one.score,
                }
                for one in self.tagger.say(text)[0]
            ]
            for text in texts(model_input)
        ]
        return pd.DataFrame({"entities": found}, index=model_input.index)


mlflow.models.set_model(Tags())
