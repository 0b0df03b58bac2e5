"""Attention of a step's new tokens on CUDA, by a kernel of our own.

Rows of different lengths need a mask, for which MLX's CUDA build has no decode kernel: it multiplies, masks, takes the
softmax and multiplies again, over all columns of all rows. But what the mask says is only how many columns each row
has filled. A kernel that is told so (decode_kernel.py) is one operation and reads no others; it also reads each key
once for several heads, which MLX's own kernel for rows of one length does not.

mlx-lm's and mlx-vlm's models import ``scaled_dot_product_attention`` by name. In the modules that a model's layers come
from, that name is bound to a function that asks the kernel first (docs/architecture.md says why). A mask is known by
being the very object that the cache gave, so models that cut a piece off it are left to MLX. What is gained is in
benchmarks/README.md. Metal's kernels take masks: there is nothing to do there.
"""

from __future__ import annotations

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


class DecodeKernel(Protocol):
    """Attention of one query over the first ``lengths`` (int32 [rows], none of them 0) columns of each row.

    queries [rows, heads, 1, head_dim]; keys and values [rows, key heads, columns, head_dim]; the result is like the
    queries. In all three, the last axis is contiguous and each head begins at a multiple of 16 bytes. Lazy. ``takes``:
    whether it is made for such arrays; when it is asked about a kind for the first time, it may compute.
    """

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool: ...
    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, lengths: mx.array, scale: float
    ) -> mx.array: ...


def replace_attention(model: Module, kernel: DecodeKernel) -> int:
    """Let a model's layers attend by ``kernel`` where they can. Returns in how many modules of code they do."""
    names = {type(layer).__module__ for layer in model.modules()}  # type: ignore[no-untyped-call]
    replaced = 0
    for module in (sys.modules[name] for name in names):
        attention: Any = getattr(module, NAME, None)
        if getattr(attention, "__module__", None) in LIBRARIES:
            setattr(module, NAME, _attention(attention, kernel))
            replaced += 1
    return replaced


def _attention(otherwise: Attention, kernel: DecodeKernel) -> Attention:
    def scaled_dot_product_attention(  # noqa: PLR0913  # theirs
        queries: mx.array, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: mx.array | None = None
    ) -> mx.array:
        if type(cache) is RowKVCache and sinks is None and keys.shape[2] == cache.columns:
            # Asked first, for it to be compiled when the model is tried, whatever that has for masks.
            takes = kernel.takes(queries, keys, values)
            if takes and (mask is not None or keys.shape[0] * keys.shape[2] >= MANY):
                lengths = cache.visible_columns(mask)
                if lengths is not None:
                    return kernel(queries, keys, values, lengths, scale)
        return otherwise(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)

    return scaled_dot_product_attention
