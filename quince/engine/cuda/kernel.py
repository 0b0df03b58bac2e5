"""What the kernels have in common: MLX compiles them, and each is tried before it is relied on."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from importlib.resources import files
from typing import cast

import mlx.core as mx

logger = logging.getLogger(__name__)

DTYPES = (mx.bfloat16, mx.float16)
TOLERANCE = 0.02  # between values of up to 2 in bfloat16
# Seconds after each attempt at trying one: what MLX has compiled is in files that another engine may be writing.
PAUSES = (1.0, 0.0)

Compiled = Callable[..., list[mx.array]]


class CudaKernel:
    """One for arrays of some kinds."""

    def __init__(self, purpose: str) -> None:
        """``purpose``: what is done without it if it does not work, for the log."""
        self._purpose = purpose
        self._works: dict[Hashable, bool] = {}

    @staticmethod
    def compiled(
        name: str, inputs: list[str], outputs: list[str], body: str, sources: Sequence[str], shared_memory: int = 0
    ) -> Compiled:
        """What MLX compiles for each kind of arrays that it is called with. ``sources``: files beside this one;
        ``shared_memory``: bytes for each block."""
        source = "\n".join(files(__package__).joinpath(file).read_text(encoding="utf-8") for file in sources)
        # MLX keeps what it has compiled on the disk, by name only.
        unique = f"quince_{name}_{hashlib.sha256((source + body).encode()).hexdigest()[:16]}"
        return cast(
            Compiled,
            mx.fast.cuda_kernel(
                unique, inputs, outputs, body, source, ensure_row_contiguous=False, shared_memory=shared_memory
            ),
        )

    def works(self, kind: Hashable, attempt: Callable[[], None]) -> bool:
        """Whether it works for arrays of a ``kind``: whether ``attempt`` at it did not raise when that was new."""
        if kind not in self._works:
            self._works[kind] = self._succeeds(attempt)
        return self._works[kind]

    @property
    def in_use(self) -> bool:
        return any(self._works.values())

    def _succeeds(self, attempt: Callable[[], None]) -> bool:
        for pause in PAUSES:
            try:
                attempt()
                return True
            except (RuntimeError, ValueError, TypeError) as error:
                reason = error
            time.sleep(pause)
        logger.warning("%s without a kernel of their own: %s", self._purpose, reason)
        return False


class CudaAttentionKernel(CudaKernel):
    """One that can give each query's attention in parts (common.cu)."""

    def __init__(self, purpose: str) -> None:
        super().__init__(purpose)
        self._merge = self.compiled("merge", ["outputs", "sums"], ["out"], _MERGE, ["common.cu"])
        self._scales: dict[float, mx.array] = {}

    def scale(self, value: float) -> mx.array:
        """What scores are multiplied by, as an array."""
        if value not in self._scales:
            self._scales[value] = mx.array([value], dtype=mx.float32)
        return self._scales[value]

    def merged(self, outputs: mx.array, sums: mx.array, dtype: mx.Dtype) -> mx.array:
        """Attention [rows, heads, width, head_dim] of ``outputs`` [rows, heads, width, parts, head_dim] and ``sums``
        [rows, heads, width, parts, 2], both float32."""
        rows, heads, width, _, head_dim = outputs.shape
        return self._merge(
            inputs=[outputs, sums],
            template=[("T", dtype), ("D", head_dim)],
            grid=(head_dim * rows * heads * width, 1, 1),
            threadgroup=(head_dim, 1, 1),
            output_shapes=[(rows, heads, width, head_dim)],
            output_dtypes=[dtype],
        )[0]


_MERGE = "quince::merge_parts<T, D>(outputs, sums, outputs_shape[3], out);"


def are_alike(queries: mx.array, keys: mx.array, values: mx.array, head_dims: Collection[int]) -> bool:
    """Whether all are of one type that kernels are made for, and heads of one size among ``head_dims``."""
    dtype = queries.dtype
    return (
        queries.ndim == 4
        and queries.shape[3] in head_dims
        and keys.shape == values.shape
        and keys.shape[3] == queries.shape[3]
        and dtype in DTYPES
        and keys.dtype == values.dtype == dtype
    )


def check_like_mlx(found: mx.array, expected: mx.array) -> None:
    """Raises RuntimeError unless a kernel gives what MLX's own operations give."""
    if not bool(mx.allclose(found, expected, atol=TOLERANCE)):
        raise RuntimeError("it gives other numbers")
