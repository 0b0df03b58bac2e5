"""Runs Batches on the model: forward passes, KV caches and sampling for all rows at once.

One step overlaps with the next: a step's graph is built while the one before is still computing, then the runner waits
for that one's tokens (the step's only host sync) and starts the new evaluation. The order matters: buffers that nobody
reads any more are updated in place (see kv_cache).

If some row's next token depends on what it has said (a grammar), the forward pass is started first, the tokens it
forbids are computed meanwhile, and sampling is a second evaluation behind it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import mlx.core as mx
import msgspec

from quince.engine.batch import (
    Batch,
    CacheOperation,
    DecodeRow,
    DiskWrite,
    Drop,
    LoadSegment,
    LoadSnapshot,
    PrefillChunk,
    Restore,
    SampledToken,
    SaveSegment,
    SaveSnapshot,
    SplitSegment,
)
from quince.engine.batch_cache import BatchCache, RowChange
from quince.engine.decode_group import DecodeGroup
from quince.engine.forward import Forward
from quince.engine.host_arrays import HostArrays
from quince.engine.prefill import rounded_width
from quince.engine.sampler import Sampled, SampleKernel
from quince.engine.snapshots import SnapshotStore
from quince.engine.structured import Constraint
from quince.engine.token_masks import TokenMasks
from quince.sampling import SamplingParams


@dataclass
class _Prefill:
    """Requests whose prompts are in (or on their way into) the rows of ``cache``, in this order.

    ``restored``: the one row may be read only, since it may be what is kept.
    """

    cache: BatchCache
    request_ids: list[str]
    restored: bool = False


@dataclass
class _Part:
    """One group's share of a step that has been started: whose tokens ``sampled`` holds.

    ``logits`` [rows, vocabulary] are there while sampling waits for constraints.
    """

    group: DecodeGroup
    request_ids: list[str]
    sampling: list[SamplingParams]
    logits: mx.array | None = None
    sampled: Sampled | None = None

    def tokens(self) -> list[SampledToken]:
        """Waits for them."""
        assert self.sampled is not None
        tokens = cast(list[int], self.sampled.token_ids.tolist())
        logprobs = self.sampled.row_logprobs(self.sampling)
        return [SampledToken(*row) for row in zip(self.request_ids, tokens, logprobs, strict=True)]


@dataclass
class _Launched:
    """A step that has been started: what to wait for."""

    parts: list[_Part] = field(default_factory=list)
    prefilled: list[mx.array] = field(default_factory=list)

    def start(self) -> None:
        mx.async_eval([(part.sampled, part.logits) for part in self.parts], self.prefilled)  # type: ignore[no-untyped-call]
        self.prefilled = self.prefilled[-1:]  # whoever holds a buffer makes its next update a copy

    def wait(self) -> list[SampledToken]:
        mx.eval(self.prefilled)
        return [token for part in self.parts for token in part.tokens()]


class NewCache(Protocol):
    """A BatchCache for the runner's model."""

    def __call__(self, *, max_width: int, expected_length: int = 0) -> BatchCache: ...


class ModelRunner:
    """``run`` starts one Batch and returns the tokens of the Batch before. Used by one thread only."""

    def __init__(
        self,
        forward: Forward,
        vocab_size: int,
        new_cache: NewCache,
        *,
        prefill_chunk_size: int,
        write: Callable[[DiskWrite, HostArrays], None] | None = None,
        sample_kernel: SampleKernel | None = None,
    ) -> None:
        """``write``: takes what is to be written to the disk; without it, no Batch asks for that."""
        self.started_at = (
            0.0  # time.perf_counter() when the step that is computing began, since the one before had ended
        )
        self.store = SnapshotStore()
        self._write = write or _no_disk
        self._sample_kernel = sample_kernel
        self._forward = forward
        self._vocab_size = vocab_size
        self._constraints: dict[str, Constraint] = {}
        self._new_cache = new_cache
        self._prefill_chunk_size = prefill_chunk_size
        self.reset()

    def reset(self) -> None:
        """Forget every row and all that was kept, after a failed step."""
        self.store.clear()
        self._forward.reset()
        self._masks = TokenMasks(self._vocab_size)
        self._prefills: dict[str, _Prefill] = {}
        self._groups: dict[int, DecodeGroup] = {}
        self._launched = _Launched()

    def run(self, batch: Batch) -> list[SampledToken]:
        self._operate(batch.cache)
        if batch.free or batch.join or batch.tight:
            self._change_rows(batch)
        launched = _Launched([self._decode(group) for group in self._groups.values()])
        if batch.prefill:
            self._prefill(batch, launched)
        tokens = self._launched.wait()
        self.started_at = time.perf_counter()
        self.store.settle()
        for write in batch.write:
            self._write(write, self.store.host_copy(write))
        if any(part.logits is not None for part in launched.parts):
            tokens = self._start_constrained(launched, tokens)
        else:
            launched.start()
        self._launched = launched
        return tokens

    def constrain(self, request_id: str, constraint: Constraint) -> None:
        """What this request, which is about to join, may say. Holds until ``release``."""
        self._constraints[request_id] = constraint

    def release(self, request_id: str) -> None:
        """The request is finished."""
        self._constraints.pop(request_id, None)
        self._forward.release(request_id)

    def release_memory(self) -> None:
        """Give MLX's pooled buffers back to the system; for when there is nothing to do."""
        mx.clear_cache()

    @property
    def kv_bytes(self) -> int:
        """What the rows' caches take now."""
        caches = {id(prefill.cache): prefill.cache for prefill in self._prefills.values()}
        return sum(cache.nbytes for cache in [*caches.values(), *(group.cache for group in self._groups.values())])

    # Rows

    def _change_rows(self, batch: Batch) -> None:
        for request_id in batch.free:
            self._prefills.pop(request_id, None)
        joining: dict[int, list[tuple[DecodeRow, BatchCache, int]]] = defaultdict(list)
        for row in batch.join:
            if row.generated_token_ids and row.request_id in self._constraints:
                self._constraints[row.request_id].restart(row.generated_token_ids)
            joining[row.group].append((row, *self._take_prefilled(row.request_id)))
        leaving = set(batch.free)
        for number in [*self._groups, *(number for number in joining if number not in self._groups)]:
            group = self._groups.setdefault(number, DecodeGroup(self._new_cache(max_width=1), self._sample_kernel))
            group.change(leaving, joining.get(number, ()), tight=batch.tight)
            if not group.rows:
                del self._groups[number]

    def _take_prefilled(self, request_id: str) -> tuple[BatchCache, int]:
        """Where the row's prompt is."""
        prefill = self._prefills.pop(request_id, None)
        if prefill is not None:
            return prefill.cache, prefill.request_ids.index(request_id)
        empty = self._new_cache(max_width=1)  # a prompt of one token
        empty.add_empty_rows(1)
        return empty, 0

    def _find_row(self, request_id: str) -> tuple[BatchCache, int]:
        prefill = self._prefills.get(request_id)
        if prefill is not None:
            return prefill.cache, prefill.request_ids.index(request_id)
        for group in self._groups.values():
            for index, row in enumerate(group.rows):
                if row.request_id == request_id:
                    return group.cache, index
        raise KeyError(f"{request_id} has no row")

    # What is kept across requests

    def _operate(self, operations: list[CacheOperation]) -> None:
        """Lazily, on the rows as the step before leaves them; ``settle`` computes it before they change."""
        for operation in operations:
            match operation:
                case SaveSegment(handle, request_id, start, stop):
                    cache, index = self._find_row(request_id)
                    self.store.put(handle, cache.segment(index, start, stop))
                case SaveSnapshot(handle, request_id):
                    cache, index = self._find_row(request_id)
                    self.store.put(handle, cache.snapshot(index))
                case SplitSegment(handle, at, head):
                    self.store.split(handle, at, head)
                case Drop(handle):
                    self.store.drop(handle)
                case LoadSegment(handle, host) | LoadSnapshot(handle, host):
                    self.store.load(handle, host)
                case Restore(request_id, length, segments, snapshot):
                    cache = self._new_cache(max_width=1)
                    parts = [self.store.first(handle, count) for handle, count in segments]
                    cache.restore(length, parts, None if snapshot is None else self.store.get(snapshot))
                    self._prefills[request_id] = _Prefill(cache, [request_id], restored=True)

    # Decode

    def _decode(self, group: DecodeGroup) -> _Part:
        part = _Part(group, [row.request_id for row in group.rows], [row.sampling for row in group.rows])
        logits = group.forward(self._forward)
        if self._constraints and any(request_id in self._constraints for request_id in part.request_ids):
            part.logits = logits
        else:
            part.sampled = group.sample(logits, None)
        return part

    def _start_constrained(self, launched: _Launched, tokens: list[SampledToken]) -> list[SampledToken]:
        """Start the step in two parts. Returns ``tokens``, the last step's, with what is wrong with them."""
        said = {token.request_id: token.token_id for token in tokens}
        parts = [part for part in launched.parts if part.logits is not None]
        rows = [request_id for part in parts for request_id in part.request_ids]
        self._masks.start([self._constraints.get(name) for name in rows], [said.get(name) for name in rows])
        launched.start()
        allowed, first = self._masks.result(), 0
        for part in parts:
            logits, part.logits = part.logits, None
            assert logits is not None
            part.sampled = part.group.sample(logits, allowed.tokens[first : first + len(part.request_ids)])
            first += len(part.request_ids)
        mx.async_eval([part.sampled for part in parts])  # type: ignore[no-untyped-call]
        if not allowed.errors:
            return tokens
        errors = {rows[index]: error for index, error in allowed.errors.items()}
        return [msgspec.structs.replace(token, error=errors.get(token.request_id)) for token in tokens]

    # Prefill

    def _prefill(self, batch: Batch, launched: _Launched) -> None:
        chunks = batch.prefill
        prefill = self._prefills.get(chunks[0].request_id)
        if prefill is None or prefill.restored:
            prefill = self._start_prefill(chunks)
        chunks = self._keep_only(prefill, chunks)
        cache = prefill.cache
        counts = [len(chunk.token_ids) for chunk in chunks]
        _, width, _ = batch.prefill_shape
        cache.begin(width, counts if min(counts) < width else None)
        self._forward.prefill(chunks, cache)  # the logits are not evaluated, the caches are
        cache.commit()
        arrays = cache.arrays()
        launched.prefilled = [*arrays, arrays[-1].flatten()[:1] * 1]  # the last is what to wait for

    def _start_prefill(self, chunks: list[PrefillChunk]) -> _Prefill:
        """A row for every chunk: empty, or what was restored."""
        longest = max(chunk.length for chunk in chunks) + 1  # one more, for the first step of decoding
        widest = rounded_width(max(chunk.length - chunk.start for chunk in chunks))
        cache = self._new_cache(max_width=min(widest, self._prefill_chunk_size), expected_length=longest)
        if all(chunk.start == 0 for chunk in chunks):
            cache.add_empty_rows(len(chunks))
        else:
            cache.change(RowChange.plan(0, [], len(chunks)), [self._take_prefilled(c.request_id) for c in chunks])
        prefill = _Prefill(cache, [chunk.request_id for chunk in chunks])
        for chunk in chunks:
            self._prefills[chunk.request_id] = prefill
        return prefill

    def _keep_only(self, prefill: _Prefill, chunks: list[PrefillChunk]) -> list[PrefillChunk]:
        """Drop the rows of those that have left, and bring the chunks into the order of the rows."""
        by_id = {chunk.request_id: chunk for chunk in chunks}
        left = [index for index, request_id in enumerate(prefill.request_ids) if request_id not in by_id]
        if left:
            change = RowChange.plan(len(prefill.request_ids), left, 0)
            prefill.cache.change(change, [])
            prefill.request_ids = [prefill.request_ids[number] for number in change.order]
        return [by_id[request_id] for request_id in prefill.request_ids]


def _no_disk(write: DiskWrite, host: HostArrays) -> None:
    raise RuntimeError("there is no disk tier to write to")
