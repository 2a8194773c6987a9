"""R-Drop: a loss that makes two passes with different dropout agree (Liang et al. 2021, arXiv 2106.14448)."""

from collections.abc import Callable, Sequence

import torch

from hpsearch.tasks.kind import Kind, Tensors


def loss(
    outputs: Sequence[Tensors],
    batch: Tensors,
    items: torch.Tensor | int,
    weight: float,
    kind: Kind,
    loss_of: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """Return the loss of one pass of a batch, or of two.

    Of two it is their mean loss, plus a quarter of their weighted divergence in both directions, as in the paper.

    Args:
        outputs: outputs of the model, one or two for the same batch.
        batch: the batch, as `collate` makes it.
        items: `num_items_in_batch` of the kind's loss.
        weight: weight of the divergence.
        kind: kind of the task.
        loss_of: the kind's loss, with its label smoothing and class weights given.
    """
    losses = [loss_of(given, batch, num_items_in_batch=items) for given in outputs]
    if len(losses) == 1:
        return losses[0]
    first, second = (kind.log_probabilities(given, batch) for given in outputs)
    divergence = ((first.exp() - second.exp()) * (first - second)).sum()  # KL in both directions
    return (losses[0] + losses[1]) / 2 + weight / 4 * divergence / torch.as_tensor(items).clamp(min=1)
