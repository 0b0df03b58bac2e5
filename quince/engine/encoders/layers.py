"""What the encoders share: reading a configuration, attention in both directions, activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import mlx.core as mx
from mlx.nn.layers.activations import gelu, gelu_approx, relu, silu

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": gelu,
    "gelu_new": gelu_approx,
    "gelu_pytorch_tanh": gelu_approx,
    "relu": relu,
    "silu": silu,
    "tanh": mx.tanh,
}


@dataclasses.dataclass
class ConfigArgs:
    """Takes what it knows from a config.json and leaves the rest."""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in config.items() if name in known})


def num_labels(config: Mapping[str, Any]) -> int:
    """How many classes a classifier has; transformers writes their names only, and none for the usual two."""
    if "num_labels" in config:
        return int(config["num_labels"])
    return len(config.get("id2label") or (0, 1))


def activation(name: str) -> Callable[[mx.array], mx.array]:
    if name not in ACTIVATIONS:
        raise ValueError(f"the activation '{name}' is not supported")
    return ACTIVATIONS[name]


def attention_mask(lengths: mx.array, columns: int, window: int | None = None) -> mx.array:
    """What a token may look at: [rows, 1, columns or 1, columns] of bool. All of its row's text, or of it what is at
    most ``window`` tokens away.

    The padding beyond a window looks at the first token: a row that looks at nothing would be NaN.
    """
    positions = mx.arange(columns)
    mask = (positions < lengths[:, None])[:, None, None, :]
    if window is not None and window < columns:
        near = mx.abs(positions[:, None] - positions) <= window
        nowhere = (positions[:, None] >= lengths[:, None, None, None]) & (positions == 0)
        mask = (mask & near) | nowhere
    return mask


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """Softmax attention over ``[rows, heads, columns, head_dim]``, heads joined: ``[rows, columns, hidden_size]``."""
    scale = float(queries.shape[-1]) ** -0.5
    found = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    rows, heads, columns, size = found.shape
    return found.transpose(0, 2, 1, 3).reshape(rows, columns, heads * size)


def split_heads(states: mx.array, heads: int) -> mx.array:
    rows, columns, size = states.shape
    return states.reshape(rows, columns, heads, size // heads).transpose(0, 2, 1, 3)
