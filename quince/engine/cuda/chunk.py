"""chunk.cu: attention of a prompt's chunk over itself and what is before it."""

from __future__ import annotations

import mlx.core as mx

from quince.engine.cuda.kernel import Compiled, CudaAttentionKernel, are_alike, check_like_mlx

BLOCK = 128  # threads; the source's WARP * CHUNK_WARPS
QUERIES = 128  # of a block, as in the source
TILE = 64  # columns, as in the source
HEAD_DIMS = (64, 128)  # 128 take all the registers that a thread can have
BLOCKS = 256  # as many as keep a GPU busy; fewer share the columns out among more
SHARE = 512  # columns of a part, at least


class CudaChunkKernel(CudaAttentionKernel):
    """A ChunkKernel (attention.py)."""

    def __init__(self) -> None:
        super().__init__("chunks of prompts are computed")
        self._whole = {
            size: self._compiled("chunk", size, ["out"], "false", "out, nullptr, nullptr") for size in HEAD_DIMS
        }
        self._parts = {
            size: self._compiled("chunk_parts", size, ["outputs", "sums"], "true", "nullptr, outputs, sums")
            for size in HEAD_DIMS
        }

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool:
        if not are_alike(queries, keys, values, HEAD_DIMS):
            return False
        dtype, head_dim = queries.dtype, queries.shape[3]
        return self.works((dtype, head_dim), lambda: self._try(dtype, head_dim))

    def __call__(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        rows, heads, width, head_dim = queries.shape
        key_heads, columns = keys.shape[1:3]
        blocks = (heads // key_heads * width + QUERIES - 1) // QUERIES
        parts = parts_for(blocks * rows * key_heads, columns)
        work = {
            "inputs": [queries, keys, values, self.scale(scale)],
            "template": [("T", queries.dtype), ("D", head_dim)],
            "grid": (BLOCK * blocks, parts, rows * key_heads),
            "threadgroup": (BLOCK, 1, 1),
        }
        if parts == 1:
            shape = (rows, width, heads, head_dim)
            return self._whole[head_dim](**work, output_shapes=[shape], output_dtypes=[queries.dtype])[0].swapaxes(1, 2)
        outputs, sums = self._parts[head_dim](
            **work,
            output_shapes=[(rows, heads, width, parts, head_dim), (rows, heads, width, parts, 2)],
            output_dtypes=[mx.float32, mx.float32],
        )
        return self.merged(outputs, sums, queries.dtype)

    def _compiled(self, name: str, head_dim: int, outputs: list[str], split: str, targets: str) -> Compiled:
        return self.compiled(
            f"{name}_{head_dim}",
            ["queries", "keys", "values", "scale"],
            outputs,
            _CALL.format(split, targets),
            ["common.cu", "chunk.cu"],
            shared_memory=(QUERIES + 4 * TILE) * head_dim * 2,
        )

    def _try(self, dtype: mx.Dtype, head_dim: int) -> None:
        """Whole and in parts, with nothing before the chunk and with others."""
        queries = mx.random.normal((2, 4, 100, head_dim)).astype(dtype)
        scale = head_dim**-0.5
        for columns in (100, 130, 3 * SHARE):  # with few of them, each of them matters
            keys, values = (mx.random.normal((2, 2, columns, head_dim)).astype(dtype) for _ in range(2))
            expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask="causal")
            check_like_mlx(self(queries, keys, values, scale), expected)


_CALL = """
extern __shared__ __align__(128) char quince_tiles[];
quince::chunk_attention<T, D, {0}>(
    queries, queries_strides[0], queries_strides[1], queries_strides[2],
    keys, keys_strides[0], keys_strides[1], keys_strides[2],
    values, values_strides[0], values_strides[1], values_strides[2],
    scale, queries_shape[1], keys_shape[1], queries_shape[2], keys_shape[2],
    {1}, reinterpret_cast<T*>(quince_tiles));
"""


def parts_for(blocks: int, columns: int) -> int:
    """Into how many parts the columns are cut. ``blocks``: how many each part has."""
    return max(1, min(BLOCKS // blocks, columns // SHARE))
