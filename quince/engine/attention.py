"""Attention on CUDA, where MLX's own takes long: steps of several rows or many tokens, and short turns.

Rows of different lengths need a mask, for which MLX's CUDA build has no decode kernel: it multiplies, masks, takes the
softmax and multiplies again, over all columns of all rows. But what the mask says is only how many columns each row
has filled. A kernel that is told so (decode_kernel.py) is one operation and reads no others; it also reads each key
once for several heads, which MLX's own kernel for rows of one length does not.

A prompt goes to cuDNN, which builds a kernel for each number of queries and keys that it has not seen. Behind a cached
prefix that is nearly every turn, and takes longer than all else in it; so short ones are two products and a softmax,
which need none.

The code of mlx-lm's and mlx-vlm's models stays as it is: each imports ``scaled_dot_product_attention`` by name, and
that name is what is replaced, in the modules that a model's layers come from. benchmarks/README.md has what it gains.
Metal's kernels take masks and all lengths: there is nothing to do there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

import mlx.core as mx
from mlx.nn.layers.base import Module

from quince.engine.kv_cache import RowKVCache

NAME = "scaled_dot_product_attention"
LIBRARIES = ("mlx_lm.models.base", "mlx_vlm.models.base")  # whose function of that name it is
Attention = Callable[..., mx.array]

MANY = 2**14  # columns of all rows: with fewer, and no mask, MLX's kernel is as fast
SHORT = 256  # tokens of a turn, at most
# Of all layers, scores and what the softmax makes of them are there at once, since the host is ahead of the device:
# in some 36 layers at most an eighth of its memory. A step of prompts has a quarter of what weights leave (core.py).
SCORES_SHARE = 8 * 2 * 36


class DecodeKernel(Protocol):
    """Attention of one query over the first ``lengths`` (int32 [rows], none of them 0) columns of each row.

    queries [rows, heads, 1, head_dim]; keys and values [rows, key heads, columns, head_dim]; the result is like the
    queries. Lazy. ``takes``: whether it is made for such arrays.
    """

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool: ...
    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, lengths: mx.array, scale: float
    ) -> mx.array: ...


def replace_attention(model: Module, kernel: DecodeKernel, memory: int) -> int:
    """Let a model's layers attend by what is here, on a device of so many bytes. Returns in how many modules of code
    they do."""
    names = {type(layer).__module__ for layer in model.modules()}  # type: ignore[no-untyped-call]
    replaced = 0
    for module in (sys.modules[name] for name in names):
        attention: Any = getattr(module, NAME, None)
        if getattr(attention, "__module__", None) in LIBRARIES:
            setattr(module, NAME, _attention(attention, kernel, memory // SCORES_SHARE))
            replaced += 1
    return replaced


def _attention(otherwise: Attention, kernel: DecodeKernel, most_bytes: int) -> Attention:
    def scaled_dot_product_attention(  # noqa: PLR0913  # theirs
        queries: mx.array, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: mx.array | None = None
    ) -> mx.array:
        if type(cache) is RowKVCache and sinks is None and keys.shape[2] == cache.columns:
            lengths = cache.visible_columns(mask) if mask is not None or keys.shape[0] * keys.shape[2] >= MANY else None
            if lengths is not None and kernel.takes(queries, keys, values):
                return kernel(queries, keys, values, lengths, scale)
            if isinstance(mask, str) and mask == "causal" and 0 < score_bytes(queries, keys) <= most_bytes:
                return by_products(queries, keys, values, scale)
        return otherwise(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)

    return scaled_dot_product_attention


def score_bytes(queries: mx.array, keys: mx.array) -> int:
    """What the scores of a short turn take in a layer; 0 if it is something else."""
    if queries.ndim != 4:
        return 0
    rows, heads, width, _ = queries.shape
    columns = keys.shape[2]
    return rows * heads * width * columns * queries.itemsize if 1 < width <= min(SHORT, columns - 1) else 0


def by_products(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Causal attention of the last tokens: queries [rows, heads, width, head_dim], keys and values [rows, key heads,
    columns, head_dim or another size]. The softmax is computed in float32, as MLX's own."""
    rows, heads, width, head_dim = queries.shape
    key_heads, columns = keys.shape[1:3]
    # All queries that share a key head in one product.
    together = (queries * scale).reshape(rows, key_heads, heads // key_heads * width, head_dim)
    scores = (together @ keys.swapaxes(-1, -2)).reshape(rows, heads, width, columns)
    # Nobody may read what is behind itself, which only the last columns are: the others need not be touched.
    own = mx.where(_lower_triangle(width), scores[..., columns - width :], -mx.inf)
    scores[..., columns - width :] = own
    weights = mx.softmax(scores, axis=-1, precise=True)
    found = weights.reshape(rows, key_heads, heads // key_heads * width, columns) @ values
    return found.reshape(rows, heads, width, values.shape[3])


@functools.lru_cache(maxsize=16)
def _lower_triangle(width: int) -> mx.array:
    return mx.tri(width, dtype=mx.bool_)
