"""The code of a logged MLflow model: questions and contexts in, answers out.

MLflow runs this file when it loads a model, and hpsearch need not be installed there. The modules of hpsearch that it
imports are logged with the model (`serving.code`). They must import no library but `code.REQUIREMENTS`.
"""

from typing import Any

import mlflow
import pandas as pd

from hpsearch.serving.inference import Inference
from hpsearch.serving.labelling import texts_of
from hpsearch.tasks.windows import N_BEST, decode, probabilities, windows

COLUMNS = ("question", "context")
OUTPUTS = ("start_logits", "end_logits")


class Reader(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The answer to each question, as a span of its context, or none."""

    def load_context(self, context: Any) -> None:
        """Load weights and tokenizer; `context.model_config` is what `packaging.describe` returned."""
        self.described = context.model_config
        self.inference = Inference(context.artifacts["model"], self.described["head"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return a row for each question: answer, score, begin and end in the context, no_answer, best_answer.

        `score` is the probability of the given answer, among the best spans and "no answer". If `no_answer` is true,
        `answer` is empty, `begin` and `end` are -1, and `best_answer` still holds the best span.
        """
        questions, contexts = (texts_of(model_input, column, COLUMNS) for column in COLUMNS)
        described = self.described
        of_questions = windows(
            questions, contexts, self.inference.tokenizer, described["max_length"], described["stride"]
        )
        pieces = [piece for of_one in of_questions for piece in of_one]
        types = [piece.types for piece in pieces] if described["types"] else None
        logits = iter(self.inference.run([piece.ids for piece in pieces], types, OUTPUTS))
        rows = []
        for text, of_one in zip(contexts, of_questions, strict=True):
            decoded = decode(
                [next(logits) for _ in of_one],
                [piece.characters for piece in of_one],
                [piece.null for piece in of_one],
                text,
                N_BEST,
                described["longest_answer"],
            )
            rows.append(self._answer(decoded, text))
        return pd.DataFrame(rows, index=model_input.index)

    def _answer(self, decoded: Any, context: str) -> dict[str, Any]:
        spans, null = probabilities(decoded)
        threshold = self.described["fitted"]["no_answer_threshold"]
        best = decoded.spans[0] if decoded.spans else None
        silent = best is None or (threshold is not None and decoded.null_score - best.score > threshold)
        said = "" if best is None else context[best.begin : best.end]
        if best is None or silent:
            return {"answer": "", "score": null, "begin": -1, "end": -1, "no_answer": True, "best_answer": said}
        found = {"answer": said, "score": spans[0], "begin": best.begin, "end": best.end}
        return {**found, "no_answer": False, "best_answer": said}


mlflow.models.set_model(Reader())
