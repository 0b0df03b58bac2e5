"""ModernBERT (Warner et al., 2024): rotary positions, gated MLPs, and two layers of three that see a window only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Identity, Linear
from mlx.nn.layers.normalization import LayerNorm
from mlx.nn.layers.positional_encoding import RoPE

from quince.engine.encoders.bert import classifies, strip_prefix
from quince.engine.encoders.layers import ConfigArgs, activation, attend, attention_mask, num_labels, split_heads

FULL = "full_attention"
SLIDING = "sliding_attention"


@dataclass
class ModelArgs(ConfigArgs):
    """``local_attention`` is a whole window, half of it to either side. ``labels`` 0: no classifier."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 8192
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    classifier_bias: bool = False
    hidden_activation: str = "gelu"
    classifier_activation: str = "gelu"
    classifier_pooling: str = "cls"
    local_attention: int = 128
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160_000.0
    local_rope_theta: float | None = 10_000.0
    layer_types: list[str] | None = None
    rope_parameters: dict[str, dict[str, Any]] | None = None
    labels: int = 0

    def __post_init__(self) -> None:
        if self.classifier_pooling not in ("cls", "mean"):
            raise ValueError(f"a classifier over '{self.classifier_pooling}' is not supported")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        made = super().from_dict(config)
        if classifies(config):
            made.labels = num_labels(config)
        return made

    @property
    def positions(self) -> int:
        """The longest text, in tokens."""
        return self.max_position_embeddings

    def layer_type(self, number: int) -> str:
        if self.layer_types is not None:
            return self.layer_types[number]
        return SLIDING if number % self.global_attn_every_n_layers else FULL

    def rope_base(self, layer_type: str) -> float:
        own = (self.rope_parameters or {}).get(layer_type, {})
        if own.get("rope_type", "default") != "default":
            raise ValueError(f"rotary positions of type '{own['rope_type']}' are not supported")
        local = self.global_rope_theta if self.local_rope_theta is None else self.local_rope_theta
        return float(own.get("rope_theta", local if layer_type == SLIDING else self.global_rope_theta))


def _norm(args: ModelArgs) -> LayerNorm:
    return LayerNorm(args.hidden_size, eps=args.norm_eps, bias=args.norm_bias)


class Embeddings(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.tok_embeddings = Embedding(args.vocab_size, args.hidden_size)
        self.norm = _norm(args)

    def __call__(self, token_ids: mx.array) -> mx.array:
        states: mx.array = self.norm(self.tok_embeddings(token_ids))
        return states


class Attention(Module):
    def __init__(self, args: ModelArgs, layer_type: str) -> None:
        super().__init__()
        size = args.hidden_size
        self.Wqkv = Linear(size, 3 * size, bias=args.attention_bias)
        self.Wo = Linear(size, size, bias=args.attention_bias)
        self._heads = args.num_attention_heads
        self._rope = RoPE(size // self._heads, base=args.rope_base(layer_type))

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        parts = mx.split(self.Wqkv(states), 3, axis=-1)
        queries, keys, values = (split_heads(part, self._heads) for part in parts)
        found: mx.array = self.Wo(attend(self._rope(queries), self._rope(keys), values, mask))
        return found


class MLP(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.Wi = Linear(args.hidden_size, 2 * args.intermediate_size, bias=args.mlp_bias)
        self.Wo = Linear(args.intermediate_size, args.hidden_size, bias=args.mlp_bias)
        self._activation = activation(args.hidden_activation)

    def __call__(self, states: mx.array) -> mx.array:
        values, gate = mx.split(self.Wi(states), 2, axis=-1)
        found: mx.array = self.Wo(self._activation(values) * gate)
        return found


class Layer(Module):
    def __init__(self, args: ModelArgs, number: int) -> None:
        super().__init__()
        self.layer_type = args.layer_type(number)
        # What the first layer reads is normalised already.
        self.attn_norm = _norm(args) if number else Identity()
        self.attn = Attention(args, self.layer_type)
        self.mlp_norm = _norm(args)
        self.mlp = MLP(args)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        states = states + self.attn(self.attn_norm(states), mask)
        found: mx.array = states + self.mlp(self.mlp_norm(states))
        return found


class Head(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.dense = Linear(args.hidden_size, args.hidden_size, bias=args.classifier_bias)
        self.norm = _norm(args)
        self._activation = activation(args.classifier_activation)

    def __call__(self, states: mx.array) -> mx.array:
        found: mx.array = self.norm(self._activation(self.dense(states)))
        return found


class Model(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.embeddings = Embeddings(args)
        self.layers = [Layer(args, number) for number in range(args.num_hidden_layers)]
        self.final_norm = _norm(args)
        if args.labels:
            self.head = Head(args)
            self.classifier = Linear(args.hidden_size, args.labels)

    def hidden(self, token_ids: mx.array, lengths: mx.array, second_from: mx.array) -> mx.array:
        columns = token_ids.shape[1]
        masks = {
            FULL: attention_mask(lengths, columns),
            SLIDING: attention_mask(lengths, columns, self.args.local_attention // 2),
        }
        states = self.embeddings(token_ids)
        for layer in self.layers:
            states = layer(states, masks[layer.layer_type])
        normal: mx.array = self.final_norm(states)
        return normal

    def classify(self, hidden: mx.array, lengths: mx.array) -> mx.array:
        if self.args.classifier_pooling == "mean":
            inside = (mx.arange(hidden.shape[1]) < lengths[:, None])[..., None]
            pooled = mx.where(inside, hidden, 0).sum(axis=1) / lengths[:, None]
        else:
            pooled = hidden[:, 0]
        logits: mx.array = self.classifier(self.head(pooled))
        return logits

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        kept = {strip_prefix(name, ("model.",)): value for name, value in weights.items()}
        unused = ("decoder.",) if self.args.labels else ("decoder.", "head.", "classifier.")
        return {name: value for name, value in kept.items() if not name.startswith(unused)}
