"""Runs the batches of a pooling engine on MLX."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from quince.engine.messages import PoolInput
from quince.engine.pooling_model import Head, Rows
from quince.engine.pooling_scheduler import PoolBatch

PADDING_TOKEN_ID = 0  # seen by no token of the text


class PoolingRunner:
    """Used by the engine thread alone."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def run(self, batch: PoolBatch) -> list[bytes]:
        """The result of every row: float32 numbers, little-endian. Blocks until they are computed."""
        results = self._head(_rows([row.input for row in batch.rows], [row.job.label_token_ids for row in batch.rows]))
        values = np.asarray(results.astype(mx.float32)).astype("<f4", copy=False)
        return [row.tobytes() for row in values]

    def release_memory(self) -> None:
        """Give freed buffers back. Called when there is nothing to do."""
        mx.clear_cache()


def _rows(inputs: Sequence[PoolInput], labels: Sequence[tuple[int, int] | None]) -> Rows:
    lengths = np.array([len(one.token_ids) for one in inputs], np.int32)
    token_ids = np.full((len(inputs), lengths.max()), PADDING_TOKEN_ID, np.int32)
    for row, one in enumerate(inputs):
        token_ids[row, : lengths[row]] = one.token_ids
    second_from = [
        length if one.second_from is None else one.second_from for one, length in zip(inputs, lengths, strict=True)
    ]
    return Rows(
        token_ids=mx.array(token_ids),
        lengths=mx.array(lengths),
        second_from=mx.array(np.array(second_from, np.int32)),
        prompt_tokens=mx.array(np.array([one.prompt_tokens for one in inputs], np.int32)),
        labels=None if None in labels else mx.array(np.array(labels, np.int32)),
    )
