"""The code of a logged MLflow model without a language model: questions and contexts in, answers out.

MLflow runs this file when it loads a model, and hpsearch need not be installed there. The modules of hpsearch that it
imports are logged with the model (`serving.code`). They must import no library but `code.REQUIREMENTS`.
"""

import math
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from hpsearch.serving.labelling import texts_of
from hpsearch.tasks.plain_answers import Answerer

COLUMNS = ("question", "context")


class Answers(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The answer to each question: the same for all, a sentence of its context, or none."""

    def load_context(self, context: Any) -> None:
        """Load the answerer; `context.model_config` is what `packaging.describe` returned."""
        self.described = context.model_config
        self.answerer = Answerer.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return the same columns as `served_reader`. An answer that is not in the context has -1 as begin and end."""
        questions, contexts = (texts_of(model_input, column, COLUMNS) for column in COLUMNS)
        rows = [self._answer(*pair) for pair in zip(questions, contexts, strict=True)]
        return pd.DataFrame(rows, index=model_input.index)

    def _answer(self, question: str, context: str) -> dict[str, Any]:
        said, threshold = self.answerer.say(question, context), self.described["fitted"]["no_answer_threshold"]
        margin = -said.sure if said.text else math.inf
        if not said.text or (threshold is not None and margin > threshold):
            nothing = {"answer": "", "score": 1 - said.sure, "begin": -1, "end": -1}
            return {**nothing, "no_answer": True, "best_answer": said.text}
        end = said.begin + len(said.text) if said.begin >= 0 else -1
        found = {"answer": said.text, "score": said.sure, "begin": said.begin, "end": end}
        return {**found, "no_answer": False, "best_answer": said.text}


mlflow.models.set_model(Answers())
