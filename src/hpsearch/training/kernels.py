"""Attention and dropout for processors, where torch's own take half of a training step.

In training, attention is computed in blocks of a few examples, whose scores stay in the cache. It uses matrix products
in the precision of its inputs. Torch's fused kernel has a faster forward pass, in float32 and bfloat16, but loses more
in its backward pass than it wins. A dropout mask is made by comparing random bytes. Torch draws one float for each
element, in one thread.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

BLOCK_BYTES = 3 * 2**20  # scores of a block; larger blocks leave a core's cache, smaller ones cost more calls


def dropped_share(p: float) -> float:
    """Return the share that is really dropped: a byte decides, so `p` is rounded to the nearest 1/256."""
    return round(256 * p) / 256


def _kept(shape: torch.Size, p: float, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask, 1 for a kept element and 0 for a dropped one, drawn from torch's global generator."""
    count = math.prod(shape)
    # Draws all 64 bits: without bounds, `random_` leaves the sign bit of each word at 0.
    drawn = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    mask = torch.empty(shape, dtype=dtype)
    # Writes floats directly: torch takes several times as long with a mask of booleans.
    return torch.ge(drawn.view(torch.uint8)[:count].view(shape), round(256 * p), out=mask)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, residual: torch.Tensor | None, p: float) -> torch.Tensor:
        mask = _kept(x.shape, p, x.dtype)
        ctx.scale = 1 / (1 - dropped_share(p))
        ctx.save_for_backward(mask)
        if residual is None:
            return (x * mask).mul_(ctx.scale)
        return torch.addcmul(residual, x, mask, value=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        (mask,) = ctx.saved_tensors
        return (gradient * mask).mul_(ctx.scale), gradient if ctx.needs_input_grad[1] else None, None


class Dropout(nn.Dropout):
    """`nn.Dropout` with a mask that is made from random bytes."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return dropped and scaled `x`, added to `residual` if it is given; both have the same shape."""
        if self.training and round(256 * self.p):
            return _Dropout.apply(x, residual, self.p)  # type: ignore[no-any-return, no-untyped-call]
        return x if residual is None else x + residual


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, bias: torch.Tensor | None, scale: float, p: float) -> torch.Tensor:
        _, size, heads, length, width = qkv.shape
        query, key, value = qkv.view(3, size * heads, length, width).unbind(0)
        query = query * scale
        kept = _kept(torch.Size((size * heads, length, length)), p, qkv.dtype) if round(256 * p) else None
        result = torch.empty_like(query)
        ctx.block = max(1, BLOCK_BYTES // (heads * length**2 * qkv.element_size()))
        scores = torch.empty(min(ctx.block, size) * heads, length, length, dtype=qkv.dtype)
        share = torch.empty(size * heads, length, length, dtype=qkv.dtype)
        seen = _seen_by_all(bias, length)
        for first in range(0, size, ctx.block):
            some = slice(first * heads, min(first + ctx.block, size) * heads)
            block = torch.bmm(query[some], key[some].transpose(1, 2), out=scores[: some.stop - some.start])
            if bias is not None:
                of_block = bias[first : first + ctx.block] if bias.shape[0] > 1 else bias
                block.view(-1, heads, length, length)[..., seen:].add_(of_block[..., seen:])
            used = torch._softmax(block, -1, False, out=share[some])
            if kept is not None:
                used = torch.mul(used, kept[some], out=block)
            torch.bmm(used, value[some], out=result[some])
        ctx.save_for_backward(query, key, value, share, kept)
        ctx.scale, ctx.undropped, ctx.heads = scale, 1 / (1 - dropped_share(p)), heads
        return (result if kept is None else result.mul_(ctx.undropped)).view(size, heads, length, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        query, key, value, share, kept = ctx.saved_tensors
        gradient = gradient.reshape(query.shape)
        if kept is not None:
            gradient = gradient * ctx.undropped
        gradients = torch.empty(3, *query.shape, dtype=query.dtype)
        of_query, of_key, of_value = gradients.unbind(0)
        step = ctx.block * ctx.heads
        scratch = torch.empty(min(step, len(query)), *share.shape[1:], dtype=query.dtype)
        for first in range(0, len(query), step):
            some = slice(first, min(first + step, len(query)))
            block = scratch[: some.stop - some.start]
            used = share[some] if kept is None else torch.mul(share[some], kept[some], out=block)
            torch.bmm(used.transpose(1, 2), gradient[some], out=of_value[some])
            torch.bmm(gradient[some], value[some].transpose(1, 2), out=block)
            if kept is not None:
                block.mul_(kept[some])
            torch._softmax_backward_data(block, share[some], -1, block.dtype, grad_input=block)
            torch.bmm(block, key[some], out=of_query[some])
            torch.bmm(block.transpose(1, 2), query[some], out=of_key[some])
        of_query.mul_(ctx.scale)
        return gradients.view(3, -1, ctx.heads, *query.shape[1:]), None, None, None


def _seen_by_all(bias: torch.Tensor | None, length: int) -> int:
    """Return how many of the first keys no bias touches: all but a few if examples of similar length are padded."""
    if bias is None:
        return length
    touched = (bias != 0).flatten(0, -2).any(0)
    return int(touched.int().argmax()) if touched.any() else length


def attention(qkv: torch.Tensor, bias: torch.Tensor | None, scale: float, dropout: float) -> torch.Tensor:
    """Return softmax(scale * q k^T + bias) v, with dropout of the softmax.

    Args:
        qkv: (3, B, heads, L, width), contiguous: queries, keys, values.
        bias: (B or 1, 1, L or 1, L), added to the scores, or None.
        scale: factor of the scores.
        dropout: share of the attention weights that is dropped.

    Returns:
        (B, heads, L, width).
    """
    if not round(256 * dropout) and not (torch.is_grad_enabled() and qkv.requires_grad):
        query, key, value = qkv.unbind(0)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    return _Attention.apply(qkv, bias, scale, dropout)  # type: ignore[no-any-return, no-untyped-call]


def _blocked(
    module: nn.Module, *given: torch.Tensor | None, scaling: float, dropout: float = 0.0, **_: Any
) -> tuple[torch.Tensor, None]:
    """Compute `attention` as transformers calls it: query, key, value and mask in this order, the rest by name.

    The first three are (B, heads, L, width), the result is (B, L, heads, width).
    """
    *read, mask = given
    qkv = torch.stack([one for one in read if one is not None])  # none of the three is None
    bias = mask.to(qkv.dtype) if mask is not None else None
    with torch.autocast(qkv.device.type, enabled=False):
        return attention(qkv, bias, scaling, dropout).transpose(1, 2), None


def _bias(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Return the mask that transformers gives `_blocked`: 0 where a key is seen, a large negative number elsewhere.

    A causal mask is always made. A mask that hides nothing is None. Dimensions along which it is the same have size 1.
    """
    seen = sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})
    if seen is None or bool(seen.all()):
        return None
    for dimension in (0, 2):
        if seen.stride(dimension) == 0:
            seen = seen.narrow(dimension, 0, 1)
    # Finite, so that a row without any key (a padded one, in a sliding window) gives no NaN.
    return torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.bfloat16).min)


AttentionInterface.register("blocked", _blocked)
AttentionMaskInterface.register("blocked", _bias)
