"""The last layer of a classifier, fitted on what the layers before it give: a linear model on a frozen encoder.

What a fine-tune may begin from (Kumar et al. 2022, https://arxiv.org/abs/2202.10054), and a model of its own.
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

STRENGTHS, FIRST = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), 2  # of features with a spread of 1
FOLDS = 4  # one of which tells how strongly a head is fitted, where no other examples do
NEVER = -10.0  # bias of a class without an example
LEAST_SPREAD = 1e-6

Floats = NDArray[np.float32]


def last_layer(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The linear layer that gives the logits of a classifier: the module that holds it, and its name there."""
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
    """The model gives as logits what its last layer reads; where that reads every token, of the token that counts."""
    parent, name = last_layer(model)
    layer = getattr(parent, name)
    setattr(parent, name, nn.Identity())
    try:
        yield
    finally:
        setattr(parent, name, layer)


def features(model: PreTrainedModel, tokens: Tokens, pieces: int, how: trainer.Evaluation) -> Floats:
    """(pieces, width): what the last layer reads of each of the first `pieces` pieces.

    Raises:
        NotFiniteError: the model's outputs are not finite.
    """
    with _without_last_layer(model):
        return np.stack(trainer.predict(model, tokens, pieces, how))


def outputs(model: PreTrainedModel, read: Floats, how: trainer.Evaluation) -> list[Floats]:
    """The logits (classes,) of each piece, from what the last layer reads of it: as if the whole model had run."""
    parent, name = last_layer(model)
    layer = getattr(parent, name)
    found: list[Floats] = []
    with torch.inference_mode(), trainer.autocast(how.hardware):
        for start in range(0, len(read), how.batch_size):
            given = torch.from_numpy(read[start : start + how.batch_size]).to(layer.weight.device)
            found += list(layer(given).float().cpu().numpy())
    return found


def of_examples(read: Floats, tokens: Tokens) -> Floats:
    """(examples, width): the mean over the pieces of each example; its logits are then the mean of theirs."""
    owners = tokens.owners[: len(read)]
    sums = np.zeros((int(owners[-1]) + 1, read.shape[1]))
    np.add.at(sums, owners, read)
    return (sums / np.bincount(owners)[:, None]).astype(np.float32)


def targets(tokens: Tokens, examples: int, classes: int) -> tuple[NDArray[np.bool_], bool]:
    """(examples, classes) what is right of the first examples, and whether one class is and no more."""
    first = np.searchsorted(tokens.owners, np.arange(examples))
    labels = tokens.labels[first]
    if labels.ndim == 1:
        return np.eye(classes, dtype=bool)[labels], True
    absent = classes - labels.shape[1]  # the last classes, if no example of the split has them
    return np.pad(labels > 0, ((0, 0), (0, absent))), False


def fit(
    model: PreTrainedModel,
    read: Floats,
    right: NDArray[np.bool_],
    exclusive: bool,
    worth: Callable[[Linear], float] | None = None,
    deadline: float = math.inf,
) -> float:
    """Set the last layer to the fit on frozen features; returns the strength of that (C of scikit-learn).

    Args:
        model: a classifier of texts.
        read: by `features`, or any (n, width) that its last layer shall read.
        right: (n, classes), by `targets`.
        exclusive: whether one class is right and no more.
        worth: of a fit, by which its strength is chosen, more is better; None: the loss on a quarter of the examples,
            without which it is fitted first, and then on all of them.
        deadline: of the monotonic clock.
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
    """Into the layer's own tensors."""
    bias = np.where(right.any(axis=0), linear.bias, np.minimum(linear.bias, NEVER))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(linear.weights.T)))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
