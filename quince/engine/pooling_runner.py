"""Runs the batches of a pooling engine on MLX."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from quince.engine.messages import PoolInput
from quince.engine.pooling_model import Beginning, Decoder, Head, Rows
from quince.engine.pooling_scheduler import PoolBatch

PADDING_TOKEN_ID = 0  # seen by no token of the text
# Keys and values of so many beginnings are kept while there is work: of requests that take turns.
KEPT_BEGINNINGS = 4


class PoolingRunner:
    """Used by the engine thread alone. ``decoder``: of a head whose rows may share a beginning."""

    def __init__(self, head: Head, decoder: Decoder | None = None) -> None:
        self._head = head
        self._decoder = decoder
        self._beginnings: collections.OrderedDict[tuple[int, ...], Beginning] = collections.OrderedDict()

    @property
    def shares(self) -> bool:
        """Whether batches may have a beginning in common."""
        return self._decoder is not None

    def has_read(self, shared: tuple[int, ...]) -> bool:
        return shared in self._beginnings

    def read(self, shared: tuple[int, ...]) -> None:
        """Compute what batches that begin with this need. Blocks until it is there."""
        assert self._decoder is not None, "no row shares anything otherwise"
        while len(self._beginnings) >= KEPT_BEGINNINGS:
            self._beginnings.popitem(last=False)
        self._beginnings[shared] = beginning = self._decoder.read(mx.array(np.array(shared, np.int32)))
        mx.eval(beginning)

    def run(self, batch: PoolBatch) -> list[bytes]:
        """The result of every row: float32 numbers, little-endian. Blocks until they are computed.

        What the rows share must have been read.
        """
        beginning = None
        if batch.shared:
            self._beginnings.move_to_end(batch.shared)
            beginning = self._beginnings[batch.shared]
        labels = [row.job.label_token_ids for row in batch.rows]
        rows = _rows([row.input for row in batch.rows], labels, len(batch.shared), beginning)
        values = np.asarray(self._head(rows).astype(mx.float32)).astype("<f4", copy=False)
        return [row.tobytes() for row in values]

    def release_memory(self) -> None:
        """Give freed buffers back. Called when there is nothing to do."""
        self._beginnings.clear()
        mx.clear_cache()


def _rows(
    inputs: Sequence[PoolInput], labels: Sequence[tuple[int, int] | None], skip: int, beginning: Beginning | None
) -> Rows:
    """Of every input, what comes after its first ``skip`` tokens, which are the beginning."""
    lengths = np.array([len(one.token_ids) - skip for one in inputs], np.int32)
    token_ids = np.full((len(inputs), lengths.max()), PADDING_TOKEN_ID, np.int32)
    for row, one in enumerate(inputs):
        token_ids[row, : lengths[row]] = one.token_ids[skip:]
    second_from = [
        length if one.second_from is None else one.second_from for one, length in zip(inputs, lengths, strict=True)
    ]
    return Rows(
        token_ids=mx.array(token_ids),
        lengths=mx.array(lengths),
        second_from=mx.array(np.array(second_from, np.int32)),
        prompt_tokens=mx.array(np.array([max(0, one.prompt_tokens - skip) for one in inputs], np.int32)),
        labels=None if None in labels else mx.array(np.array(labels, np.int32)),
        beginning=beginning,
    )
