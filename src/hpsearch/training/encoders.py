"""The encoder of BERT and similar models, computed on the modules of transformers with fewer and cheaper steps.

It computes the same function as the modules' own `forward`. It stays in the precision of a trial from the first layer
to the last, instead of switching between two. Query, key and value are one matrix product. Dropout and residual take
one pass. Positions and token types are added without a look-up, because its backward pass adds row by row. If the head
reads only the first token, as in classification, the last layer computes only that token. Its keys and values are those
of all tokens.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from hpsearch.training.kernels import Dropout, attention


@dataclass(frozen=True)
class Layout:
    """Where an architecture keeps the parts of its encoder.

    `encoder` is a dotted path below the base model. The other paths are below a layer.
    """

    encoder: str
    """Path of the module whose `layer` holds the layers."""
    query: str
    key: str
    value: str
    heads: str
    attention_dropout: str
    attention_output: str
    attention_output_dropout: str | None
    attention_norm: str
    up: str
    """Path of the linear layer that makes the hidden state wider."""
    activation: str
    down: str
    dropout: str
    norm: str
    positions_after_padding: bool = False
    """Whether positions count from the padding token's id + 1."""


BERT = Layout(
    encoder="encoder",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    heads="attention.self.num_attention_heads",
    attention_dropout="attention.self.dropout",
    attention_output="attention.output.dense",
    attention_output_dropout="attention.output.dropout",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    down="output.dense",
    dropout="output.dropout",
    norm="output.LayerNorm",
)
DISTILBERT = Layout(
    encoder="transformer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    heads="attention.n_heads",
    attention_dropout="attention.dropout",
    attention_output="attention.out_lin",
    attention_output_dropout=None,
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    activation="ffn.activation",
    down="ffn.lin2",
    dropout="ffn.dropout",
    norm="output_layer_norm",
)


def install(model: PreTrainedModel, layout: Layout, dtype: torch.dtype, first_token: bool) -> None:
    """Make a model with `kernels.Dropout` compute its embeddings and encoder with this module.

    Args:
        model: a model whose attention implementation is "blocked", with masks that are added to scores.
        layout: layout of its architecture.
        dtype: dtype of everything between embeddings and head.
        first_token: whether the head reads only the first token.
    """
    base: Any = model.base_model
    base.embeddings.forward = partial(_embed, base.embeddings, dtype, layout.positions_after_padding)
    encoder = base.get_submodule(layout.encoder)
    layers = [_Layer(layer, layout) for layer in encoder.layer]
    encoder.forward = partial(_encode, layers, dtype, first_token)


def _embed(
    embeddings: Any,
    dtype: torch.dtype,
    after_padding: bool,
    input_ids: torch.Tensor,
    *_: None,
    token_type_ids: torch.Tensor | None = None,
    **__: Any,
) -> torch.Tensor:
    """Return embeddings (B, L, width) of ids and types (B, L)."""
    at = _positions(input_ids, embeddings.padding_idx if after_padding else None)
    x = embeddings.word_embeddings(input_ids) + embeddings.position_embeddings.weight[at]
    if hasattr(embeddings, "token_type_embeddings"):
        types = embeddings.token_type_embeddings.weight
        if token_type_ids is None or len(types) == 1:
            x = x + types[0]
        else:
            x = x + functional.one_hot(token_type_ids, len(types)).to(x.dtype) @ types
    return embeddings.dropout(embeddings.LayerNorm(x).to(dtype))  # type: ignore[no-any-return]


def _positions(input_ids: torch.Tensor, padding: int | None) -> slice | torch.Tensor:
    """Return rows of the position table for ids (B, L): a slice for all examples together, if that is equivalent.

    If positions count from `padding` + 1, a padding token inside a text has no position of its own. Each example then
    needs its own rows.
    """
    if padding is None:
        return slice(0, input_ids.shape[1])
    words = input_ids != padding
    if bool((words[:, 1:] & ~words[:, :-1]).any()):
        return padding + words.cumsum(1) * words
    return slice(padding + 1, padding + 1 + input_ids.shape[1])


class _Layer:
    """The parts of one layer."""

    def __init__(self, layer: nn.Module, layout: Layout) -> None:
        def part(path: str) -> Any:
            found: Any = layer
            for name in path.split("."):
                found = getattr(found, name)
            return found

        self.inputs = [part(layout.query), part(layout.key), part(layout.value)]
        self.heads = int(part(layout.heads))
        self.attention_dropout = part(layout.attention_dropout)
        self.attention_output, self.attention_norm = part(layout.attention_output), part(layout.attention_norm)
        self.attention_output_dropout = (
            part(layout.attention_output_dropout) if layout.attention_output_dropout else Dropout(0.0)
        )
        self.up, self.activation, self.down = part(layout.up), part(layout.activation), part(layout.down)
        self.dropout, self.norm = part(layout.dropout), part(layout.norm)

    def __call__(self, x: torch.Tensor, size: int, bias: torch.Tensor | None, first_token: bool) -> torch.Tensor:
        """Map (B * L, width) to the same shape, or to (B, width) of the first tokens; `size` is B."""
        mixed = self._first(x, size, bias) if first_token else self._all(x, size, bias)
        residual = x.view(size, -1, x.shape[-1])[:, 0] if first_token else x
        x = _norm(self.attention_norm, self.attention_output_dropout(_linear(mixed, self.attention_output), residual))
        return _norm(self.norm, self.dropout(_linear(self.activation(_linear(x, self.up)), self.down), x))

    def _projected(self, x: torch.Tensor, size: int, parts: list[Any]) -> torch.Tensor:
        """Return (len(parts), B, heads, L, width of a head), computed as one matrix product."""
        weight = torch.cat([part.weight for part in parts]).to(x.dtype)
        bias = torch.cat([part.bias for part in parts]).to(x.dtype)
        projected = functional.linear(x, weight, bias)
        width = projected.shape[-1] // (len(parts) * self.heads)
        return projected.view(size, -1, len(parts), self.heads, width).permute(2, 0, 3, 1, 4)

    def _all(self, x: torch.Tensor, size: int, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the attention output of every token, (B * L, width)."""
        qkv = self._projected(x, size, self.inputs).contiguous()
        dropout = self.attention_dropout.p if self.attention_dropout.training else 0.0
        return attention(qkv, bias, qkv.shape[-1] ** -0.5, dropout).transpose(1, 2).reshape(x.shape[0], -1)

    def _first(self, x: torch.Tensor, size: int, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the attention output of the first token of each example, (B, width)."""
        first = x.view(size, -1, x.shape[-1])[:, 0]
        query = _linear(first, self.inputs[0]).view(size, self.heads, 1, -1)
        key, value = self._projected(x, size, self.inputs[1:]).unbind(0)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias[:, :, :1]
        share: torch.Tensor = self.attention_dropout(scores.softmax(-1))
        return (share @ value).reshape(size, -1)


def _encode(
    layers: list[_Layer],
    dtype: torch.dtype,
    first_token: bool,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> Any:
    """Return what the base model expects of its encoder: `last_hidden_state`, (B, L, width) or (B, 1, width)."""
    size, _length, width = hidden_states.shape
    with torch.autocast(hidden_states.device.type, enabled=False):
        x = hidden_states.to(dtype).reshape(-1, width)
        bias = attention_mask.to(dtype) if attention_mask is not None else None
        for layer in layers:
            x = layer(x, size, bias, first_token and layer is layers[-1])
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=x.view(size, -1, width))


def _linear(x: torch.Tensor, module: nn.Linear) -> torch.Tensor:
    return functional.linear(x, module.weight.to(x.dtype), module.bias.to(x.dtype))


def _norm(module: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """Apply a layer norm, which computes in float32 inside, whatever the dtype of `x` is."""
    return functional.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)
