"""A runner without MLX: rows hold token ids in place of keys and values, and every promise of a Batch is checked."""

from __future__ import annotations

import numpy as np

from quince.engine.batch import (
    Batch,
    Drop,
    LoadSegment,
    LoadSnapshot,
    Restore,
    SampledToken,
    SaveSegment,
    SaveSnapshot,
    SplitSegment,
)
from quince.engine.disk_tier import DiskTier
from quince.engine.host_arrays import HostArrays
from quince.engine.kv_layout import KVLayout, columns_for

FIRST_ANSWER = 1000


class FakeRunner:
    """Answers one step late, as the real one. The n-th token that a request says is FIRST_ANSWER + n."""

    def __init__(self, layout: KVLayout, tier: DiskTier | None = None) -> None:
        self.layout = layout
        self.tier = tier
        self.prefilled: dict[str, list[int]] = {}
        self.rows: dict[str, list[int]] = {}
        self.kept: dict[int, list[int]] = {}
        self.snapshots: set[int] = set()
        self.inputs: dict[str, int] = {}
        self.said: dict[str, int] = {}
        self.lanes: dict[str, int] = {}
        self.columns: dict[int, int] = {}  # of the lanes' buffers
        self.in_flight: list[SampledToken] = []
        self.computed = 0  # prompt tokens
        self.lane = 0

    def run(self, batch: Batch) -> list[SampledToken]:
        self._operate(batch)
        for name in batch.free:
            assert (name in self.prefilled) != (name in self.rows), f"{name} is freed but has no row"
            self.prefilled.pop(name, None)
            self.rows.pop(name, None)
        for row in batch.join:
            assert row.request_id not in self.rows
            self.rows[row.request_id] = self.prefilled.pop(row.request_id, [])
            self.inputs[row.request_id] = row.token_id
            self.said[row.request_id] = len(row.generated_token_ids)
        self._write(batch)
        done, self.in_flight = self.in_flight, [self._decode(name) for name in self.rows]
        assert batch.decoding == len(self.rows)
        self._prefill(batch)
        return done

    def _decode(self, name: str) -> SampledToken:
        self.rows[name].append(self.inputs[name])
        token = SampledToken(name, FIRST_ANSWER + self.said[name])
        self.inputs[name] = token.token_id
        self.said[name] += 1
        return token

    def _prefill(self, batch: Batch) -> None:
        for chunk in batch.prefill:
            held = self.prefilled.setdefault(chunk.request_id, [])
            assert len(held) == chunk.start and chunk.token_ids
            held += chunk.token_ids
            assert len(held) <= chunk.length
            self.computed += len(chunk.token_ids)
            lane = self.lanes.setdefault(chunk.request_id, self.lane)
            self.columns[lane] = max(self.columns.get(lane, 0), columns_for(chunk.length + 1))
        self.lane += 1
        assert len({self.lanes[chunk.request_id] for chunk in batch.prefill}) <= 1, "they began together"
        if batch.prefill:
            end = max(chunk.start for chunk in batch.prefill) + batch.prefill_width
            assert end <= self.columns[self.lanes[batch.prefill[0].request_id]], "the lane's buffers are too small"

    def _write(self, batch: Batch) -> None:
        for write in batch.write:
            assert self.tier is not None
            tokens = self.kept[write.handle]
            if not write.entry.snapshot:
                tokens = tokens[write.start : write.stop]
                assert np.array(tokens).tobytes() == write.entry.tokens
            self.tier.write(write.entry, HostArrays([0], [np.array([[tokens]])[..., None]], ["int64"]), write.used)

    def _operate(self, batch: Batch) -> None:
        for operation in batch.cache:
            match operation:
                case SaveSegment(handle, name, start, stop):
                    held = self.prefilled[name] if name in self.prefilled else self.rows[name]
                    assert start < stop <= len(held)
                    self.kept[handle] = held[start:stop]
                case SaveSnapshot(handle, name):
                    self.kept[handle] = list(self.prefilled[name] if name in self.prefilled else self.rows[name])
                    self.snapshots.add(handle)
                case SplitSegment(handle, at, head):
                    self.kept[head], self.kept[handle] = self.kept[handle][:at], self.kept[handle][at:]
                case LoadSegment(handle, host) | LoadSnapshot(handle, host):
                    self.kept[handle] = host.arrays[0].ravel().tolist()
                    if isinstance(operation, LoadSnapshot):
                        self.snapshots.add(handle)
                case Drop(handle):
                    del self.kept[handle]
                    self.snapshots.discard(handle)
                case Restore(name, length, segments, snapshot):
                    tokens = [token for handle, count in segments for token in self.kept[handle][:count]]
                    assert len(tokens) == length and name not in self.prefilled
                    assert snapshot is None or self.kept[snapshot] == tokens
                    self.prefilled[name] = tokens
                    self.lanes.pop(name, None)

    def check_row(self, name: str, tokens: list[int]) -> None:
        """The row of a request that decodes holds exactly these tokens."""
        if name in self.rows:
            assert self.rows[name] == tokens

    @property
    def held(self) -> int:
        return len(self.prefilled) + len(self.rows)

    @property
    def kept_bytes(self) -> int:
        return sum(
            self.layout.snapshot_bytes(len(tokens))
            if handle in self.snapshots
            else self.layout.segment_bytes(len(tokens))
            for handle, tokens in self.kept.items()
        )
