"""Attention of few queries over many keys, as a conversation's next turn has it, where kernels are built by size.

On CUDA, cuDNN builds a kernel for every number of queries and keys that it has not seen, which takes 60 ms on an H200,
and a turn behind a cached prefix has numbers of its own nearly every time. Products and a softmax need nothing built.
They write the scores to memory, so they are slower than a kernel that is there, and dear for many queries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from quince.engine.device import memory_budget

MAX_HEAD_DIM = 128  # beyond it MLX computes attention in this way itself
MIN_QUERIES = 4  # fewer have a kernel of MLX's own, that serves every number of keys
# Bytes of the device's memory for each score. Some thirty layers' scores are there at once (seen with MLX 0.32.4), of
# two bytes: a seventieth of the memory. With four times as many scores, building a kernel took as long on an H200.
BYTES_PER_SCORE = 4096


def install() -> None:
    """For all models of this process, which call ``mx.fast.scaled_dot_product_attention`` by that name."""
    turns = TurnAttention(mx.fast.scaled_dot_product_attention, most_scores=memory_budget() // BYTES_PER_SCORE)
    setattr(mx.fast, "scaled_dot_product_attention", turns)  # noqa: B010  # a built-in module has no other way


class TurnAttention:
    """In place of ``fused``, with its arguments. Calls it but for at most ``most_scores`` scores, of rows, query heads,
    queries and keys."""

    def __init__(self, fused: Callable[..., mx.array], *, most_scores: int) -> None:
        self._fused = fused
        self._most_scores = most_scores

    def __call__(
        self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None = None, **others: Any
    ) -> mx.array:
        plain = all(other is None for other in others.values())  # no sinks, say
        if mask is not None and plain and self._is_turn(q, k, v) and _is_known(mask):
            return attend(q, k, v, scale, mask)
        return self._fused(q, k, v, scale=scale, mask=mask, **others)

    def _is_turn(self, q: mx.array, k: mx.array, v: mx.array) -> bool:
        rows, heads, queries, head_dim = q.shape
        keys = k.shape[2]
        return (
            MIN_QUERIES <= queries < keys
            and max(head_dim, v.shape[-1]) <= MAX_HEAD_DIM
            and rows * heads * queries * keys <= self._most_scores
        )


def _is_known(mask: mx.array | str) -> bool:
    """Whether it is one that engine caches make: for all heads alike, and never a sum."""
    if isinstance(mask, mx.array):
        return mask.dtype == mx.bool_ and (mask.ndim == 2 or (mask.ndim == 4 and mask.shape[1] == 1))
    return mask == "causal"


def attend(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str) -> mx.array:
    """Attention of ``q`` [rows, heads, queries, head_dim] over ``k`` and ``v`` [rows, kv_heads, keys, head_dim].

    ``mask`` is "causal", the queries being the last of the keys, or bool, [queries, keys] or [rows or 1, 1, queries,
    keys].
    """
    rows, heads, queries, head_dim = q.shape
    kv_heads, keys = k.shape[1:3]
    grouped = (q * scale).reshape(rows, kv_heads, -1, head_dim)  # queries of the heads that share keys
    scores = grouped @ k.swapaxes(-1, -2)
    if isinstance(mask, str):  # what stood there before is seen by all
        order = mx.arange(queries)
        hidden = mx.where(order[:, None] >= order, 0.0, -mx.inf).astype(scores.dtype)
        scores = scores.at[..., keys - queries :].add(mx.tile(hidden, (heads // kv_heads, 1)))
    else:
        apart = scores.reshape(rows, kv_heads, -1, queries, keys)
        visible = mask if mask.ndim == 2 else mask[:, :, None]
        scores = mx.where(visible, apart, mx.finfo(scores.dtype).min).reshape(scores.shape)
    return (mx.softmax(scores, axis=-1, precise=True) @ v).reshape(rows, heads, queries, -1)
