"""Mean pooling: a classification head reads the mean of an encoder's last layer. A served model carries this file.

It is for models that were pretrained with the mean. The pooler of a sentence encoder was never trained (Reimers and
Gurevych 2019, arXiv 1908.10084, pool by the mean). Weights are saved without a pooler, so that plain transformers
reports that it is missing.
"""

from functools import partial
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

MEAN, FIRST = "mean", "first"


def of_config(config: Any) -> str:
    """Return how a saved model pools: `MEAN` or `FIRST`."""
    return str(getattr(config, "pooling", FIRST))


def install(model: Any) -> None:
    """Let the head of a model like BERT read the mean over the tokens without padding, and record it in the config."""
    model.config.pooling = MEAN
    base = model.base_model
    base.pooler = None
    base.forward = partial(_pooled, base.forward)


def _pooled(forward: Any, *args: Any, attention_mask: torch.Tensor, **options: Any) -> Any:
    """Return the base model's output, with the mean (B, width) of its last layer (B, L, width) under a mask (B, L)."""
    last = forward(*args, attention_mask=attention_mask, **options).last_hidden_state
    mask = attention_mask[:, :, None].to(last.dtype)
    mean = (last * mask).sum(1) / mask.sum(1)
    return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=last, pooler_output=mean)
