"""Optimizers of torch.optim by their names."""

from typing import Any

import torch

from hpsearch.config.settings import OptimizerSettings
from hpsearch.errors import RequestError


def optimizer_class(settings: OptimizerSettings) -> type[torch.optim.Optimizer]:
    """Return the torch.optim class that the settings name. Raises RequestError if it is unknown or its options fail."""
    known = sorted(
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    )
    if settings.name not in known:
        raise RequestError(
            f"optimizer.name={settings.name}: no such class in torch.optim; there are {', '.join(known)}"
        )
    chosen: Any = getattr(torch.optim, settings.name)
    try:
        chosen([torch.zeros(2, 2, requires_grad=True)], lr=1e-3, weight_decay=0.0, **settings.options)
    except (TypeError, ValueError) as error:
        raise RequestError(f"optimizer.options={settings.options}: {settings.name} refuses them: {error}") from None
    return chosen  # type: ignore[no-any-return]


def optimizer_copies(settings: OptimizerSettings) -> int:
    """Return how many tensors of a weight's shape the optimizer keeps for it, counted on one weight."""
    weight = torch.zeros(2, 2, requires_grad=True)
    weight.grad = torch.ones(2, 2)
    chosen: Any = optimizer_class(settings)
    optimizer = chosen([weight], lr=1e-3, **settings.options)
    optimizer.step()
    return sum(
        isinstance(kept, torch.Tensor) and kept.shape == weight.shape for kept in optimizer.state[weight].values()
    )
