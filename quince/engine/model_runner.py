"""Runs Batches on the model: forward passes, KV caches and sampling for all rows at once.

One step overlaps with the next: a step's graph is built while the one before is still computing, then the runner waits
for that one's tokens (the step's only host sync) and starts the new evaluation. The order matters: buffers that nobody
reads any more are updated in place (see kv_cache).

If some row's next token depends on what it has said (a grammar), the forward pass is started first, the tokens it
forbids are computed meanwhile, and sampling is a second evaluation behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import mlx.core as mx
import msgspec
from mlx.nn.layers.base import Module

from quince.engine.batch import Batch, DecodeRow, PrefillChunk, SampledToken
from quince.engine.batch_cache import BatchCache, RowChange
from quince.engine.penalties import RowHistory
from quince.engine.sampler import Sampled, Sampler
from quince.engine.structured import Constraint, TokenMasks
from quince.sampling import SamplingParams


@dataclass(slots=True)
class _Row:
    """A request in the decode batch. ``input`` is where its next input token is: an index into the tokens of the
    step before, or, for a row that has just joined, the token itself as ``-1 - token_id``."""

    request_id: str
    sampling: SamplingParams
    input: int
    prompt_token_ids: list[int] = field(default_factory=list)
    generated: int = 0

    @classmethod
    def of(cls, row: DecodeRow) -> _Row:
        return cls(row.request_id, row.sampling, -1 - row.token_id, row.prompt_token_ids)

    @property
    def history(self) -> RowHistory:
        if self.input >= 0:
            return RowHistory(self.sampling, self.input)
        return RowHistory(self.sampling, None, self.prompt_token_ids)


@dataclass(frozen=True)
class _Prefilled:
    """A request whose prompt is in (or on its way into) row ``index`` of ``cache``."""

    cache: BatchCache
    index: int


@dataclass
class _Launched:
    """A step that has been started: what to wait for, and whose tokens they are.

    ``logits`` [rows, vocabulary] are there while sampling waits for constraints.
    """

    sampled: Sampled | None = None
    logits: mx.array | None = None
    request_ids: list[str] = field(default_factory=list)
    sampling: list[SamplingParams] = field(default_factory=list)
    prefilled: list[mx.array] = field(default_factory=list)

    def start(self) -> None:
        mx.async_eval(self.sampled, self.logits, self.prefilled)  # type: ignore[no-untyped-call]
        self.prefilled = self.prefilled[-1:]  # whoever holds a buffer makes its next update a copy

    def wait(self) -> list[SampledToken]:
        mx.eval(self.prefilled)
        if self.sampled is None:
            return []
        tokens = cast(list[int], self.sampled.token_ids.tolist())
        logprobs = self.sampled.row_logprobs(self.sampling)
        return [SampledToken(*row) for row in zip(self.request_ids, tokens, logprobs, strict=True)]


class ModelRunner:
    """``run`` starts one Batch and returns the tokens of the Batch before. Used by one thread only."""

    def __init__(self, model: Module, vocab_size: int, *, prefill_chunk_size: int, mask_axes: int = 4) -> None:
        self._model = model
        self._masks = TokenMasks(vocab_size)
        self._constraints: dict[str, Constraint] = {}
        self._mask_axes = mask_axes
        self._prefill_chunk_size = prefill_chunk_size
        self._sampler = Sampler()
        self.reset()

    def reset(self) -> None:
        """Forget every row, after a failed step."""
        self._prefilled: dict[str, _Prefilled] = {}
        self._rows: list[_Row] = []
        self._cache = self._new_cache(max_width=1)
        self._tokens: mx.array | None = None
        self._launched = _Launched()
        self._rows_changed = False

    def run(self, batch: Batch) -> list[SampledToken]:
        if batch.free or batch.join:
            self._change_rows(batch.free, batch.join)
        launched = _Launched()
        if self._rows:
            self._decode(launched)
        if batch.prefill:
            self._prefill(batch.prefill, launched)
        tokens = self._launched.wait()
        if launched.logits is None:
            launched.start()
        else:
            tokens = self._start_constrained(launched, launched.logits, tokens)
        self._launched = launched
        return tokens

    def constrain(self, request_id: str, constraint: Constraint) -> None:
        """What this request, which is about to join, may say. Holds until ``release``."""
        self._constraints[request_id] = constraint

    def release(self, request_id: str) -> None:
        """The request is finished."""
        self._constraints.pop(request_id, None)

    def release_memory(self) -> None:
        """Give MLX's pooled buffers back to the system; for when there is nothing to do."""
        mx.clear_cache()

    def _change_rows(self, free: list[str], join: list[DecodeRow]) -> None:
        for request_id in free:
            self._prefilled.pop(request_id, None)
        leaving = set(free)
        removed = [index for index, row in enumerate(self._rows) if row.request_id in leaving]
        change = RowChange.plan(len(self._rows), removed, len(join))
        self._cache.change(change, [self._take_prefilled(row) for row in join])
        rows = [*self._rows, *(_Row.of(row) for row in join)]
        self._rows = [rows[number] for number in change.order]
        self._rows_changed = True

    def _take_prefilled(self, row: DecodeRow) -> tuple[BatchCache, int]:
        """Where the row's prompt is."""
        prefilled = self._prefilled.pop(row.request_id, None)
        if prefilled is not None:
            return prefilled.cache, prefilled.index
        empty = self._new_cache(max_width=1)  # a prompt of one token
        empty.add_empty_rows(1)
        return empty, 0

    def _decode(self, launched: _Launched) -> None:
        inputs = self._gather_inputs()
        self._cache.begin(1)
        logits = self._model(inputs[:, None], cache=self._cache.layers)[:, -1, :]
        self._cache.commit()
        launched.request_ids = [row.request_id for row in self._rows]
        launched.sampling = [row.sampling for row in self._rows]
        if self._constraints and any(row.request_id in self._constraints for row in self._rows):
            launched.logits = logits
        else:
            self._sample(launched, logits, None)

    def _sample(self, launched: _Launched, logits: mx.array, allowed: mx.array | None) -> None:
        launched.sampled = self._sampler.sample(logits, [row.generated for row in self._rows], allowed)
        self._tokens = launched.sampled.token_ids
        for row in self._rows:
            row.generated += 1

    def _start_constrained(
        self, launched: _Launched, logits: mx.array, tokens: list[SampledToken]
    ) -> list[SampledToken]:
        """Start the step in two parts. Returns ``tokens``, the last step's, with what is wrong with them."""
        said = {token.request_id: token.token_id for token in tokens}
        rows = [row.request_id for row in self._rows]
        self._masks.start([self._constraints.get(name) for name in rows], [said.get(name) for name in rows])
        launched.start()
        launched.logits = None
        allowed = self._masks.result()
        self._sample(launched, logits, allowed.tokens)
        mx.async_eval(launched.sampled)  # type: ignore[no-untyped-call]
        if not allowed.errors:
            return tokens
        errors = {rows[index]: error for index, error in allowed.errors.items()}
        return [msgspec.structs.replace(token, error=errors.get(token.request_id)) for token in tokens]

    def _gather_inputs(self) -> mx.array:
        """The input token of every row, int32 [rows], still on the device for rows that go on."""
        if not self._rows_changed and self._tokens is not None:
            return self._tokens
        self._sampler.set_rows([row.history for row in self._rows])
        previous = [] if self._tokens is None else [self._tokens]
        count = sum(tokens.size for tokens in previous)
        joined = [-1 - row.input for row in self._rows if row.input < 0]
        fresh = iter(range(count, count + len(joined)))
        order = [row.input if row.input >= 0 else next(fresh) for row in self._rows]
        for index, row in enumerate(self._rows):
            row.input = index
        self._rows_changed = False
        known = mx.concatenate([*previous, mx.array(joined, dtype=mx.int32)])
        return known[mx.array(order)]

    def _prefill(self, chunks: list[PrefillChunk], launched: _Launched) -> None:
        width = max(len(chunk.token_ids) for chunk in chunks)
        counts = [len(chunk.token_ids) for chunk in chunks]
        first = chunks[0]
        cache = self._prefilled[first.request_id].cache if first.start > 0 else self._start_prefill(chunks)
        tokens = mx.array([chunk.token_ids + [0] * (width - len(chunk.token_ids)) for chunk in chunks])
        cache.begin(width, counts if min(counts) < width else None)
        self._model(tokens, cache=cache.layers)  # the logits are not evaluated, the caches are
        cache.commit()
        arrays = cache.arrays()
        launched.prefilled = [*arrays, arrays[-1].flatten()[:1] * 1]  # the last is what to wait for

    def _new_cache(self, *, max_width: int, expected_length: int = 0) -> BatchCache:
        return BatchCache(self._model, max_width=max_width, expected_length=expected_length, mask_axes=self._mask_axes)

    def _start_prefill(self, chunks: list[PrefillChunk]) -> BatchCache:
        expected_length = max(chunk.prompt_len for chunk in chunks)
        cache = self._new_cache(max_width=self._prefill_chunk_size, expected_length=expected_length)
        cache.add_empty_rows(len(chunks))
        for index, chunk in enumerate(chunks):
            self._prefilled[chunk.request_id] = _Prefilled(cache, index)
        return cache
