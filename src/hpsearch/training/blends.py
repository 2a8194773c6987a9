"""Score a trial's model together with the linear model of words, where the blend is better on validation."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax, softmax

from hpsearch.state.messages import Blended, Scored
from hpsearch.tasks.bag_of_words import Bag
from hpsearch.tasks.blend import Weights, together
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.tasks.texts import pooled
from hpsearch.training import heads
from hpsearch.training.saved import Said, Saved, ScoreSpec, scored
from hpsearch.training.trial import Line, Warm

LEAST = 100  # validation examples; fewer cannot tell whether a blend is better
FIRST, MOST = 0.5, 10.0  # weights: where the fit begins, and the largest allowed
NOTHING = 1e-3  # a smaller weight counts as 0
EXACT = 1e-10  # tolerance of the fit

Logits = NDArray[np.float64]


def score(spec: ScoreSpec, words: Path, warm: Warm, line: Line) -> Scored:
    """Score a trial's model as `saved.score` does, and its blend with the model in `words` if that is better.

    The weights are fitted on validation by the log loss. By the task's metric on validation, the blend must be better
    than the trial's model and no worse than the model of words.
    """
    saved = Saved(spec, warm, line)
    validation = saved.says_of_validation() if spec.data.sizes["validation"] >= LEAST else None
    asked = saved.says_of_part()  # last, because it takes the time that is left
    alone = scored(spec, spec.part.split, asked.scores(spec, spec.fitted), asked.seconds)
    if validation is None:
        return alone
    kind, objective, bag = KINDS[spec.settings.task.kind], OBJECTIVES[spec.settings.task.metric], Bag.load(words)
    tuned, simple, seconds = _both(validation, bag, line)
    weights = weigh(tuned, simple, *heads.targets(validation.tokens, len(tuned), len(spec.data.labels)))
    blend, *others = (
        kind.judge(logits, validation.rows, None) for logits in (together(tuned, simple, weights), tuned, simple)
    )
    worth, of_tuned, of_simple = (objective.worth(one.metrics[objective.name]) for one in (blend, *others))
    if min(weights) < NOTHING or worth <= of_tuned or worth < of_simple:
        return alone
    of_validation = scored(spec, "validation", blend, seconds)
    tuned, simple, seconds = _both(asked, bag, line)
    found = kind.judge(together(tuned, simple, weights), asked.rows, blend.fitted)
    return replace(
        alone, blended=Blended(weights, blend.fitted, of_validation, scored(spec, spec.part.split, found, seconds))
    )


def weigh(tuned: Logits, simple: Logits, right: NDArray[np.bool_], exclusive: bool) -> Weights:
    """Return the weights, none below 0, with which two models together have the least log loss.

    Args:
        tuned: (examples, classes), logits of one model.
        simple: (examples, classes), logits of the other model.
        right: (examples, classes), True for the classes that are right.
        exclusive: whether each example has exactly one class.
    """

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the log loss and its gradient."""
        said = together(tuned, simple, (weights[0], weights[1]))
        if exclusive:
            total, excess = -log_softmax(said, axis=1)[right].sum(), softmax(said, axis=1) - right
        else:
            total, excess = -log_expit(np.where(right, said, -said)).sum(), expit(said) - right
        slopes = np.array([(excess * one).sum() for one in (tuned, simple)])
        return float(total / len(right)), slopes / len(right)

    found = minimize(loss, np.full(2, FIRST), jac=True, method="L-BFGS-B", bounds=[(0.0, MOST)] * 2, tol=EXACT)
    return float(found.x[0]), float(found.x[1])


def _both(said: Said, bag: Bag, line: Line) -> tuple[Logits, Logits, float]:
    """Return logits (examples, classes) of a trial's model and of the model of words, and the seconds for both."""
    start = time.perf_counter()
    tuned = pooled(said.outputs, said.tokens, said.tokens.examples)
    simple = bag.logits(_told(said.rows["text"], line))
    return tuned, simple, said.seconds + time.perf_counter() - start


def _told(texts: Sequence[str], line: Line) -> Iterator[str]:
    """Yield the texts, and say before each one that the worker is alive."""
    for text in texts:
        line.alive()
        yield text
