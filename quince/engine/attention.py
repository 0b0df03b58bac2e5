"""Attention on CUDA, by kernels of our own (cuda/).

Rows of different lengths need a mask, for which MLX's CUDA build has no decode kernel: it multiplies, masks, takes the
softmax and multiplies again, over all columns of all rows. But what the mask says is only how many columns each row
has filled. A kernel that is told so is one operation and reads no others; it also reads each key once for several
heads, which MLX's own kernel for rows of one length does not.

Chunks of prompts are given to cuDNN there, which builds a kernel for each number of rows, queries and columns that it
has not seen. Where several prompts come together, or a chunk has others before it, those are new ones nearly every
time. A kernel that serves all of them is slower than cuDNN's, but for short prompts and for a turn behind a cached
beginning that is much less than what building takes.

mlx-lm's and mlx-vlm's models import ``scaled_dot_product_attention`` by name. In the modules that a model's layers come
from, that name is bound to a function that asks the kernels first (docs/architecture.md says why). A mask is known by
being the very object that the cache gave, so models that cut a piece off it are left to MLX. What is gained is in
benchmarks/README.md. Metal's kernels take masks and all numbers of columns: there is nothing to do there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import mlx.core as mx
from mlx.nn.layers.base import Module

from quince.engine.kv_cache import RowKVCache

NAME = "scaled_dot_product_attention"
LIBRARIES = ("mlx_lm.models.base", "mlx_vlm.models.base")  # whose function of that name it is
Attention = Callable[..., mx.array]

MANY = 2**14  # columns of all rows: with fewer, and no mask, MLX's kernel is as fast
# More scores of a layer take longer by our kernel than by cuDNN's and building that (36 layers, heads of 128). And
# chunks of more tokens are long prompts and their pieces, whose numbers of rows and columns come again.
MOST_SCORES = 2**30
WIDEST = 1024


class DecodeKernel(Protocol):
    """Attention of one query over the first ``lengths`` (int32 [rows], none of them 0) columns of each row.

    queries [rows, heads, 1, head_dim]; keys and values [rows, key heads, columns, head_dim]; the result is like the
    queries. In all three, the last axis is contiguous and each vector along it begins at a multiple of 16 bytes: keys
    and values are slices of contiguous buffers, and models' queries have strides that are multiples of head_dim. Lazy.
    ``takes``: whether it is made for such arrays; when it is asked about a kind for the first time, it may compute.
    """

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool: ...
    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, lengths: mx.array, scale: float
    ) -> mx.array: ...


class ChunkKernel(Protocol):
    """Causal attention of each row's last ``width`` tokens over all columns, of which the last ones are their own; the
    rest as with a DecodeKernel, queries being [rows, heads, width, head_dim]. ``in_use``: whether it takes any."""

    @property
    def in_use(self) -> bool: ...
    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool: ...
    def __call__(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array: ...


class KernelAttention:
    """What models call ``scaled_dot_product_attention``: theirs, but for what the kernels take."""

    def __init__(self, otherwise: Attention, decode: DecodeKernel, chunk: ChunkKernel) -> None:
        self._otherwise = otherwise
        self._decode = decode
        self.chunk = chunk

    def __call__(  # noqa: PLR0913  # theirs
        self,
        queries: mx.array,
        keys: Any,
        values: Any,
        cache: Any,
        scale: float,
        mask: Any,
        sinks: mx.array | None = None,
    ) -> mx.array:
        if type(cache) is RowKVCache and sinks is None and keys.shape[2] == cache.columns:
            # Asked first, for them to be compiled when the model is tried, whatever that has for masks and lengths.
            if isinstance(mask, str):
                if mask == "causal" and self.chunk.takes(queries, keys, values) and _is_worth_it(queries, keys):
                    return self.chunk(queries, keys, values, scale)
            elif self._decode.takes(queries, keys, values):
                lengths = _lengths(keys, cache, mask)
                if lengths is not None:
                    return self._decode(queries, keys, values, lengths, scale)
        return self._otherwise(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)


def replace_attention(model: Module, decode: DecodeKernel, chunk: ChunkKernel) -> int:
    """Let a model's layers attend by these kernels where they can. Returns in how many modules of code they do."""
    replaced = 0
    for module in _code(model):
        attention: Any = getattr(module, NAME, None)
        if getattr(attention, "__module__", None) in LIBRARIES:
            setattr(module, NAME, KernelAttention(attention, decode, chunk))
            replaced += 1
    return replaced


def widest_chunk(model: Module) -> int | None:
    """Most tokens of a chunk for which a kernel is there whatever is before it. None: for no more than for others.
    Asked when the model has been tried."""
    found = (getattr(module, NAME, None) for module in _code(model))
    in_use = any(isinstance(attention, KernelAttention) and attention.chunk.in_use for attention in found)
    return WIDEST if in_use else None


def _code(model: Module) -> list[ModuleType]:
    """The modules of code that a model's layers come from."""
    names = {type(layer).__module__ for layer in model.modules()}  # type: ignore[no-untyped-call]
    return [sys.modules[name] for name in names]


def _is_worth_it(queries: mx.array, keys: mx.array) -> bool:
    """Whether a chunk is computed sooner than a kernel for its size is built."""
    rows, heads, width = queries.shape[:3]
    return width <= WIDEST and rows * heads * width * keys.shape[2] <= MOST_SCORES


def _lengths(keys: mx.array, cache: RowKVCache, mask: mx.array | None) -> mx.array | None:
    """How many columns the token of each row may read, where the kernel gains."""
    if mask is None and keys.shape[0] * keys.shape[2] < MANY:
        return None
    return cache.visible_columns(mask)
