"""R-Drop: two passes of a batch, with other dropout, shall say the same (Liang et al. 2021, arXiv 2106.14448)."""

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
    """The loss of one pass; of two their mean, and a quarter of their divergence in both directions, as in the paper.

    Args:
        outputs: of the model, one or two for the same batch.
        batch: as `collate` makes it.
        items: `num_items_in_batch` of the kind's loss.
        weight: of the divergence.
        kind: of the task.
        loss_of: the kind's loss, with what the settings say.
    """
    losses = [loss_of(given, batch, num_items_in_batch=items) for given in outputs]
    if len(losses) == 1:
        return losses[0]
    first, second = (kind.log_probabilities(given, batch) for given in outputs)
    divergence = ((first.exp() - second.exp()) * (first - second)).sum()  # KL in both directions
    return (losses[0] + losses[1]) / 2 + weight / 4 * divergence / torch.as_tensor(items).clamp(min=1)
