"""A model as the runner calls it: rows of tokens in, logits out.

``TextForward`` is one of mlx-lm's models. ``VisionForward`` (vision.py) is one of mlx-vlm's, whose prompts may hold
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache

from quince.engine.batch import PrefillChunk
from quince.engine.batch_cache import BatchCache
from quince.engine.messages import AddRequest
from quince.engine.rotations import forget_rotations


class Forward(Protocol):
    """Calls stand between ``begin`` and ``commit`` of ``cache``, whose rows they continue; all are lazy.

    ``logits`` [rows, width, vocabulary] follow ``tokens`` [rows, width]; ``request_ids`` name the rows, or nothing if
    none of them is a request's. ``prefill`` is the same for chunks of prompts, one for each row, padded to one width.

    A request with media or an adapter is known from ``add``, which raises ValueError for what this model has not, to
    ``release``. Between them ``encode`` does a bounded part of what can be done with media before its prompt is
    computed from ``start`` on, and tells whether that was the last; it raises ValueError for media that the model
    cannot take.
    ``encoded_media`` counts what was computed, ``reserved_bytes`` may be kept of it. ``reset`` forgets it: a step has
    failed, and what it was computing may never get its values.

    ``mixes_adapters``: whether the rows of a call may have different adapters. ``model``: the code and weights of all
    this.
    """

    @property
    def model(self) -> Module: ...
    @property
    def reserved_bytes(self) -> int: ...
    @property
    def encoded_media(self) -> int: ...
    @property
    def mixes_adapters(self) -> bool: ...
    def make_cache(self) -> list[Any]: ...
    def logits(self, tokens: mx.array, cache: BatchCache, request_ids: Sequence[str] = ()) -> mx.array: ...
    def prefill(self, chunks: Sequence[PrefillChunk], cache: BatchCache) -> mx.array: ...
    def add(self, request: AddRequest) -> None: ...
    def encode(self, request_id: str, start: int) -> bool: ...
    def release(self, request_id: str) -> None: ...
    def reset(self) -> None: ...


class TextForward:
    """A model that knows tokens only."""

    encoded_media = reserved_bytes = 0
    mixes_adapters = True

    def __init__(self, model: Module) -> None:
        self.model = model

    def make_cache(self) -> list[Any]:
        """One row's caches, of mlx-lm's classes."""
        return cast(list[Any], make_prompt_cache(self.model))

    def logits(self, tokens: mx.array, cache: BatchCache, request_ids: Sequence[str] = ()) -> mx.array:
        logits: mx.array = self.model(tokens, cache=cache.layers)
        return logits

    def prefill(self, chunks: Sequence[PrefillChunk], cache: BatchCache) -> mx.array:
        return self.logits(mx.array(padded(chunks, cache.width)), cache, [chunk.request_id for chunk in chunks])

    def add(self, request: AddRequest) -> None:
        raise ValueError("this model reads text only, and has no adapters")

    def encode(self, request_id: str, start: int) -> bool:
        return True

    def release(self, request_id: str) -> None:
        pass

    def reset(self) -> None:
        forget_rotations(self.model)


def padded(chunks: Sequence[PrefillChunk], width: int) -> list[list[int]]:
    """The chunks' tokens as rows of this width."""
    return [chunk.token_ids + [0] * (width - len(chunk.token_ids)) for chunk in chunks]
