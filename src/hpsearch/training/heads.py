"""The last layer of a classifier, fitted on the outputs of the layers before it: a linear model on a frozen encoder.

A fine-tune may begin from it (Kumar et al. 2022, https://arxiv.org/abs/2202.10054), and it is a model of its own.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from hpsearch.data.tokens import Tokens
from hpsearch.training import trainer
from hpsearch.training.linear import Linear, Regression, choose

STRENGTHS, FIRST = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), 2  # for features with a spread of 1; index of the first
FOLDS = 4  # parts, one of which chooses a head's strength if no other examples do
NEVER = -10.0  # highest bias of a class without an example
LEAST_SPREAD = 1e-6

Floats = NDArray[np.float32]


def last_layer(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """Return the linear layer that gives a classifier's logits: the module that holds it, and its name there."""
    body = {id(module) for module in model.base_model.modules()}
    linear = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and id(child) not in body and child.out_features == model.config.num_labels
    ]
    return linear[-1]


@contextlib.contextmanager
def _without_last_layer(model: PreTrainedModel) -> Iterator[None]:
    """Make the model return, in place of logits, what its last layer reads.

    If that layer reads every token, the model returns what it reads of the token that counts.
    """
    parent, name = last_layer(model)
    layer = getattr(parent, name)
    setattr(parent, name, nn.Identity())
    try:
        yield
    finally:
        setattr(parent, name, layer)


def features(model: PreTrainedModel, tokens: Tokens, pieces: int, how: trainer.Evaluation) -> Floats:
    """Return (pieces, width): what the last layer reads of each of the first `pieces` pieces.

    Raises:
        NotFiniteError: the model's outputs are not finite.
    """
    with _without_last_layer(model):
        return np.stack(trainer.predict(model, tokens, range(pieces), how))


def outputs(model: PreTrainedModel, read: Floats, how: trainer.Evaluation) -> list[Floats]:
    """Return each piece's logits (classes,) from what the last layer reads of it, as if the whole model had run."""
    parent, name = last_layer(model)
    layer = getattr(parent, name)
    found: list[Floats] = []
    with torch.inference_mode(), trainer.autocast(how.hardware):
        for start in range(0, len(read), how.batch_size):
            given = torch.from_numpy(read[start : start + how.batch_size]).to(layer.weight.device)
            found += list(layer(given).float().cpu().numpy())
    return found


def of_examples(read: Floats, tokens: Tokens) -> Floats:
    """Return (examples, width): the mean over the pieces of each example.

    The logits of an example's mean are the mean of the logits of its pieces.
    """
    owners = tokens.owners[: len(read)]
    sums = np.zeros((int(owners[-1]) + 1, read.shape[1]))
    np.add.at(sums, owners, read)
    return (sums / np.bincount(owners)[:, None]).astype(np.float32)


def targets(tokens: Tokens, examples: int, classes: int) -> tuple[NDArray[np.bool_], bool]:
    """Return (examples, classes), True for right classes of the first examples, and whether each has exactly one."""
    first = np.searchsorted(tokens.owners, np.arange(examples))
    labels = tokens.labels[first]
    if labels.ndim == 1:
        return np.eye(classes, dtype=bool)[labels], True
    absent = classes - labels.shape[1]  # number of last classes that no example of the split has
    return np.pad(labels > 0, ((0, 0), (0, absent))), False


def fit(
    model: PreTrainedModel,
    read: Floats,
    right: NDArray[np.bool_],
    exclusive: bool,
    worth: Callable[[Linear], float] | None = None,
    deadline: float = math.inf,
) -> float:
    """Fit the last layer on frozen features, and return the strength of the fit (C of scikit-learn).

    Args:
        model: a classifier of texts.
        read: features from `features`, or any (n, width) that the last layer is to read.
        right: (n, classes), from `targets`.
        exclusive: whether each example has exactly one class.
        worth: rates a fit, more is better; it chooses the strength. None: the loss on a quarter of the examples
            chooses. The first fits leave that quarter out; the last fit is on all examples.
        deadline: time of the monotonic clock.
    """
    parent, name = last_layer(model)
    layer: Any = getattr(parent, name)
    intercept = layer.bias is not None
    mean = read.mean(axis=0) if intercept else np.zeros(read.shape[1], dtype=np.float32)
    spread = np.maximum(read.std(axis=0), LEAST_SPREAD)
    scaled = (read - mean) / spread

    def unscaled(linear: Linear) -> Linear:
        weights = linear.weights / spread[:, None]
        return Linear(weights, linear.bias - mean @ weights)

    whole = Regression(scaled, right, exclusive, intercept)
    if worth is not None:
        judge = worth
        chosen = choose(whole, STRENGTHS, FIRST, lambda linear: judge(unscaled(linear)), deadline)
        linear = chosen.linear
    else:
        aside = np.arange(len(read)) % FOLDS == 0
        part = Regression(scaled[~aside], right[~aside], exclusive, intercept)
        other = Regression(scaled[aside], right[aside], exclusive, intercept)
        chosen = choose(part, STRENGTHS, FIRST, lambda linear: -other.loss(linear), deadline)
        linear = whole.fit(chosen.strength, chosen.linear, deadline)
    _write(layer, unscaled(linear), right)
    return chosen.strength


def _write(layer: Any, linear: Linear, right: NDArray[np.bool_]) -> None:
    """Copy a fit into the layer's own tensors."""
    bias = np.where(right.any(axis=0), linear.bias, np.minimum(linear.bias, NEVER))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(linear.weights.T)))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
