"""decode_kernel.cu: attention of one query a row, for rows of different lengths, on CUDA."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from importlib.resources import files
from typing import cast

import mlx.core as mx

logger = logging.getLogger(__name__)

BLOCK = 256  # threads; the source's WARP * WARPS
HEAD_DIMS = (64, 128, 256)
DTYPES = (mx.bfloat16, mx.float16)
MOST_HEADS = 4  # of a block: more take more registers than threads have
BLOCKS = 256  # as many as keep a GPU busy; fewer share a row's columns out among more
FEW_COLUMNS = 1024  # are not shared out: to merge the parts is a kernel of its own
SHARE = 512  # columns of the longest row in a part, at least
MOST_COLUMNS = 4096  # of a part
TOLERANCE = 0.02  # between values of about 1 in bfloat16
# Seconds after each attempt at trying it: what MLX has compiled is in files that another engine may be writing.
PAUSES = (1.0, 0.0)


class CudaKernel:
    """A DecodeKernel (attention.py). Compiled for each kind of arrays when it first comes, and tried before it
    is relied on."""

    def __init__(self) -> None:
        inputs = ["queries", "keys", "values", "lengths", "scale"]
        self._whole = _compiled("whole", inputs, ["out"], _CALL.format("false", "out, nullptr, nullptr"))
        self._parts = _compiled("parts", inputs, ["outputs", "sums"], _CALL.format("true", "nullptr, outputs, sums"))
        self._merge = _compiled(
            "merge", ["outputs", "sums"], ["out"], "quince::merge_parts<T, D>(outputs, sums, outputs_shape[2], out);"
        )
        self._scales: dict[float, mx.array] = {}
        self._works: dict[tuple[mx.Dtype, int, int], bool] = {}

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool:
        if queries.ndim != 4 or queries.shape[2] != 1 or keys.shape != values.shape:
            return False
        dtype, head_dim = queries.dtype, queries.shape[3]
        if dtype not in DTYPES or keys.dtype != dtype or values.dtype != dtype or head_dim not in HEAD_DIMS:
            return False
        kind = (dtype, head_dim, _heads_together(queries, keys))
        if kind not in self._works:
            self._works[kind] = self._works_for(*kind)
        return self._works[kind]

    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, lengths: mx.array, scale: float
    ) -> mx.array:
        rows, heads, _, head_dim = queries.shape
        together = _heads_together(queries, keys)
        parts = parts_for(rows * heads // together, keys.shape[2])
        if scale not in self._scales:
            self._scales[scale] = mx.array([scale], dtype=mx.float32)
        types = [("T", queries.dtype), ("D", head_dim)]
        result = {"output_shapes": [queries.shape], "output_dtypes": [queries.dtype]}
        work = {
            "inputs": [queries, keys, values, lengths, self._scales[scale]],
            "template": [*types, ("HEADS", together)],
            "grid": (BLOCK * parts, heads // together, rows),
            "threadgroup": (BLOCK, 1, 1),
        }
        if parts == 1:
            return self._whole(**work, **result)[0]
        partial = self._parts(
            **work,
            output_shapes=[(rows, heads, parts, head_dim), (rows, heads, parts, 2)],
            output_dtypes=[mx.float32, mx.float32],
        )
        grid = {"grid": (head_dim * rows * heads, 1, 1), "threadgroup": (head_dim, 1, 1)}
        return self._merge(inputs=partial, template=types, **grid, **result)[0]

    def _works_for(self, dtype: mx.Dtype, head_dim: int, together: int) -> bool:
        for pause in PAUSES:
            try:
                self._try(dtype, head_dim, together)
                return True
            except (RuntimeError, ValueError, TypeError) as error:
                reason = error
            time.sleep(pause)
        logger.warning("rows of different lengths are decoded without a kernel of their own: %s", reason)
        return False

    def _try(self, dtype: mx.Dtype, head_dim: int, together: int) -> None:
        """Raises RuntimeError unless it gives what MLX's own operations give, whole and in parts."""
        columns = FEW_COLUMNS + SHARE
        queries = mx.random.normal((3, 2 * together, 1, head_dim)).astype(dtype)
        all_keys, all_values = (mx.random.normal((3, 2, columns, head_dim)).astype(dtype) for _ in range(2))
        scale = head_dim**-0.5
        for count in (100, columns):
            keys, values = all_keys[:, :, :count], all_values[:, :, :count]
            lengths = mx.array([1, 77, count])
            mask = (mx.arange(count)[None] < lengths[:, None])[:, None, None]
            expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
            if not bool(mx.allclose(self(queries, keys, values, lengths, scale), expected, atol=TOLERANCE)):
                raise RuntimeError("it gives other numbers")


_CALL = """
quince::decode_attention<T, D, HEADS, {0}>(
    queries, queries_strides[0], queries_strides[1],
    keys, keys_strides[0], keys_strides[1], keys_strides[2],
    values, values_strides[0], values_strides[1], values_strides[2],
    lengths, scale, queries_shape[1] / keys_shape[1], {1});
"""


def parts_for(blocks: int, columns: int) -> int:
    """Into how many parts the columns of each row are cut. ``blocks``: how many each part has."""
    if columns <= FEW_COLUMNS:
        return 1
    wanted = max(BLOCKS // blocks, (columns + MOST_COLUMNS - 1) // MOST_COLUMNS)
    return max(1, min(wanted, columns // SHARE))


def _heads_together(queries: mx.array, keys: mx.array) -> int:
    """How many of the query heads that share a key head a block has."""
    group = queries.shape[1] // keys.shape[1]
    return next(heads for heads in (MOST_HEADS, 2, 1) if group % heads == 0)


def _compiled(part: str, inputs: list[str], outputs: list[str], body: str) -> Callable[..., list[mx.array]]:
    # MLX keeps what it has compiled on the disk, by name only.
    source = _source()
    name = f"quince_{part}_{hashlib.sha256((source + body).encode()).hexdigest()[:16]}"
    return cast(
        Callable[..., list[mx.array]],
        mx.fast.cuda_kernel(name, inputs, outputs, body, source, ensure_row_contiguous=False),
    )


def _source() -> str:
    return files("quince.engine").joinpath("decode_kernel.cu").read_text(encoding="utf-8")
