"""The model of a finished trial, and its scores on a part of a split."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.settings import Settings
from hpsearch.data.tokens import Tokens
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Part, Scored
from hpsearch.state.records import DataRef
from hpsearch.tasks.kind import Scores
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data, models, trainer
from hpsearch.training.trial import Line, Warm, evaluation

CHUNK = 250  # least number of examples that are scored before the time is looked at again


@dataclass(frozen=True)
class ScoreSpec:
    """Everything needed to score a finished trial's model on a part of one split."""

    number: int
    settings: Settings
    data: DataRef
    model: Path
    part: Part
    fitted: dict[str, Any]  # thresholds from the validation split


def score(spec: ScoreSpec, warm: Warm, line: Line) -> Scored:
    """Score a finished trial's model, with the thresholds fitted on the validation split."""
    said = Saved(spec, warm, line).says_of_part()
    return scored(spec, spec.part.split, said.scores(spec, spec.fitted), said.seconds)


@dataclass(frozen=True)
class Said:
    """Outputs of a model for the first examples of a split."""

    tokens: Tokens
    rows: dict[str, list[Any]]
    outputs: list[NDArray[np.float32]]
    seconds: float  # time of predicting, without loading

    def scores(self, spec: ScoreSpec, fitted: dict[str, Any]) -> Scores:
        """Return the scores of the outputs."""
        settings = spec.settings
        return KINDS[settings.task.kind].score(self.outputs, self.tokens, self.rows, settings.task, fitted)


class Saved:
    """Model of a finished trial, loaded."""

    def __init__(self, spec: ScoreSpec, warm: Warm, line: Line) -> None:
        self._until = time.monotonic() + spec.part.seconds
        settings = spec.settings
        saved = settings.model.model_copy(update={"path": str(spec.model)})
        kind, tokenizer = KINDS[settings.task.kind], warm.tokenizer(settings.model)
        self._spec, self._warm, self._how = spec, warm, evaluation(settings, warm.hardware, line)
        self._model = models.build(saved, kind, spec.data.labels, tokenizer, warm.hardware)
        self._model.to(warm.hardware.device)

    def says_of_validation(self) -> Said:
        """Return the model's outputs for all validation examples, which its trial may have kept."""
        spec, path = self._spec, TrialFolder(self._spec.model.parent).outputs
        tokens = self._warm.tokens(spec.data, spec.settings, "validation")
        outputs = list(np.load(path)) if path.exists() else []
        if len(outputs) != len(tokens):  # there are none, or the tokens have changed since
            return self._said("validation", None, 0.0)
        return Said(tokens, data.load(spec.data, "validation").to_dict(), outputs, 0.0)

    def says_of_part(self) -> Said:
        """Return the model's outputs for the part that is asked for, in the time that is left."""
        part = self._spec.part
        return self._said(part.split, part.examples, (self._until - time.monotonic()) / part.models)

    def _said(self, split: str, least: int | None, seconds: float) -> Said:
        """Return the outputs for the first `least` examples, and for more while less than `seconds` are spent."""
        tokens = self._warm.tokens(self._spec.data, self._spec.settings, split)
        outputs: list[NDArray[np.float32]] = []
        start = time.perf_counter()  # loading does not count as time of the examples
        done, until = 0, min(least or tokens.examples, tokens.examples)
        while done < until:
            before = time.perf_counter()
            outputs += trainer.predict(self._model, tokens, range(len(outputs), tokens.pieces(until)), self._how)
            now = time.perf_counter()
            each, done = (now - before) / (until - done), until
            held, further = int((seconds - (now - start)) / each), min(CHUNK, tokens.examples - done)
            if held >= further:  # half of them, so that the time is kept if the machine becomes slower by half
                until = min(done + max(further, held // 2), tokens.examples)
        took = time.perf_counter() - start
        return Said(tokens.first(done), data.load(self._spec.data, split)[:done], outputs, took)


def scored(spec: ScoreSpec, split: str, scores: Scores, seconds: float) -> Scored:
    """Return the answer to a Score, for the coordinator."""
    return Scored(
        number=spec.number,
        split=split,
        metrics=scores.metrics,
        confusion=scores.confusion,
        predictions=scores.predictions,
        confidences=scores.confidences,
        likelihoods=scores.likelihoods,
        seconds=seconds,
    )
