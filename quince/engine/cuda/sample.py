"""sample.cu: the next token of every row that is sampled."""

from __future__ import annotations

import mlx.core as mx

from quince.engine.cuda.kernel import CudaKernel
from quince.engine.sampler import Filters

THREADS = 1024  # of a block, which has a row
DTYPES = (mx.bfloat16, mx.float16, mx.float32)
# Of the rows that it is tried on: another order of summing moves a draw where two tokens meet.
ALIKE = 0.95


class CudaSampleKernel(CudaKernel):
    """A SampleKernel (sampler.py)."""

    def __init__(self) -> None:
        super().__init__("tokens are sampled")
        inputs = ["logits", "temperature", "top_k", "top_p", "min_p", "draws"]
        self._sample = self.compiled("sample", inputs, ["out"], _CALL, ["common.cu", "sample.cu"])

    def takes(self, logits: mx.array) -> bool:
        dtype = logits.dtype
        return dtype in DTYPES and self.works(dtype, lambda: self._try(dtype))

    def __call__(self, logits: mx.array, filters: Filters, draws: mx.array) -> mx.array:
        rows = logits.shape[0]
        return self._sample(
            inputs=[logits, *filters, draws],
            template=[("T", logits.dtype), ("THREADS", THREADS)],
            grid=(THREADS * rows, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(rows,)],
            output_dtypes=[mx.int32],
        )[0]

    def _try(self, dtype: mx.Dtype) -> None:
        """Draws of all tokens, and with filters that leave one."""
        rows, vocabulary = 64, 3001
        logits = (3 * mx.random.normal((rows, vocabulary))).astype(dtype)
        draws, ones = mx.random.uniform(shape=(rows, 1)), mx.ones((rows, 1))
        mass = mx.softmax(logits.astype(mx.float32), axis=-1)
        drawn = mx.argmax(mx.cumsum(mass, axis=-1) > draws, axis=-1)
        every = mx.zeros((rows, 1), dtype=mx.int32)
        found = self(logits, Filters(ones, every, ones, 0 * ones), draws)
        if int(mx.sum(found == drawn)) < ALIKE * rows:
            raise RuntimeError("it draws other tokens")
        for top_k, top_p, min_p in (
            (every + 1, ones, 0 * ones),
            (every, 1e-6 * ones, 0 * ones),
            (every, ones, ones),
        ):
            found = self(logits, Filters(ones, top_k, top_p, min_p), draws)
            if not mx.array_equal(mx.take_along_axis(logits, found[:, None], axis=-1)[:, 0], mx.max(logits, axis=-1)):
                raise RuntimeError("it draws tokens that are filtered out")


_CALL = """
quince::sample<T, THREADS>(
    logits, logits_strides[0], logits_shape[1], temperature, top_k, top_p, min_p, draws, out);
"""
