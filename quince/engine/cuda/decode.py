"""decode.cu: attention of one query a row, for rows of different lengths."""

from __future__ import annotations

import mlx.core as mx

from quince.engine.cuda.kernel import CudaAttentionKernel, are_alike, check_like_mlx

BLOCK = 256  # threads; the source's WARP * WARPS
HEAD_DIMS = (64, 128, 256)
MOST_HEADS = 4  # of a block: more take more registers than threads have
BLOCKS = 256  # as many as keep a GPU busy; fewer share a row's columns out among more
FEW_COLUMNS = 1024  # are not shared out: to merge the parts is a kernel of its own
SHARE = 512  # columns of the longest row in a part, at least
MOST_COLUMNS = 4096  # of a part


class CudaDecodeKernel(CudaAttentionKernel):
    """A DecodeKernel (attention.py)."""

    def __init__(self) -> None:
        super().__init__("rows of different lengths are decoded")
        inputs, sources = ["queries", "keys", "values", "lengths", "scale"], ["common.cu", "decode.cu"]
        self._whole = self.compiled("decode", inputs, ["out"], _CALL.format("false", "out, nullptr, nullptr"), sources)
        self._parts = self.compiled(
            "decode_parts", inputs, ["outputs", "sums"], _CALL.format("true", "nullptr, outputs, sums"), sources
        )

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool:
        if not are_alike(queries, keys, values, HEAD_DIMS) or queries.shape[2] != 1:
            return False
        dtype, head_dim, together = queries.dtype, queries.shape[3], _heads_together(queries, keys)
        return self.works((dtype, head_dim, together), lambda: self._try(dtype, head_dim, together))

    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, lengths: mx.array, scale: float
    ) -> mx.array:
        rows, heads, _, head_dim = queries.shape
        together = _heads_together(queries, keys)
        parts = parts_for(rows * heads // together, keys.shape[2])
        work = {
            "inputs": [queries, keys, values, lengths, self.scale(scale)],
            "template": [("T", queries.dtype), ("D", head_dim), ("HEADS", together)],
            "grid": (BLOCK * parts, heads // together, rows),
            "threadgroup": (BLOCK, 1, 1),
        }
        if parts == 1:
            return self._whole(**work, output_shapes=[queries.shape], output_dtypes=[queries.dtype])[0]
        outputs, sums = self._parts(
            **work,
            output_shapes=[(rows, heads, 1, parts, head_dim), (rows, heads, 1, parts, 2)],
            output_dtypes=[mx.float32, mx.float32],
        )
        return self.merged(outputs, sums, queries.dtype)

    def _try(self, dtype: mx.Dtype, head_dim: int, together: int) -> None:
        """Whole and in parts."""
        columns = FEW_COLUMNS + SHARE
        queries = mx.random.normal((3, 2 * together, 1, head_dim)).astype(dtype)
        all_keys, all_values = (mx.random.normal((3, 2, columns, head_dim)).astype(dtype) for _ in range(2))
        scale = head_dim**-0.5
        for count in (100, columns):
            keys, values = all_keys[:, :, :count], all_values[:, :, :count]
            lengths = mx.array([1, 77, count])
            mask = (mx.arange(count)[None] < lengths[:, None])[:, None, None]
            expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
            check_like_mlx(self(queries, keys, values, lengths, scale), expected)


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
