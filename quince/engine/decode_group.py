"""Rows that decode in one rectangle: their requests, caches and sampling state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from quince.engine.batch import DecodeRow
from quince.engine.batch_cache import BatchCache, RowChange
from quince.engine.forward import Forward
from quince.engine.penalties import RowHistory
from quince.engine.sampler import Sampled, SampleKernel, Sampler
from quince.sampling import SamplingParams


@dataclass(slots=True)
class Row:
    """A request in a group. ``input`` is where its next input token is: an index into the tokens of the step before,
    or, for a row that has just joined, the token itself as ``-1 - token_id``."""

    request_id: str
    sampling: SamplingParams
    input: int
    generated: int
    prompt_token_ids: list[int] = field(default_factory=list)
    generated_token_ids: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, row: DecodeRow) -> Row:
        return cls(
            row.request_id,
            row.sampling,
            -1 - row.token_id,
            len(row.generated_token_ids),
            row.prompt_token_ids,
            row.generated_token_ids,
        )

    @property
    def history(self) -> RowHistory:
        if self.input >= 0:
            return RowHistory(self.sampling, self.input)
        return RowHistory(self.sampling, None, self.prompt_token_ids, self.generated_token_ids)


class DecodeGroup:
    """``change`` its rows between steps; a step is ``forward`` and then ``sample``, both lazy."""

    def __init__(self, cache: BatchCache, sample_kernel: SampleKernel | None = None) -> None:
        self.cache = cache
        self.rows: list[Row] = []
        self._sampler = Sampler(sample_kernel)
        self._tokens: mx.array | None = None
        self._rows_changed = False

    def change(
        self, leaving: set[str], join: Sequence[tuple[DecodeRow, BatchCache, int]], *, tight: bool = False
    ) -> None:
        """``join``: requests, each with the row of another batch that holds its prompt. ``tight``: see BatchCache."""
        removed = [index for index, row in enumerate(self.rows) if row.request_id in leaving]
        if not removed and not join and not tight:
            return
        change = RowChange.plan(len(self.rows), removed, len(join))
        self.cache.change(change, [(cache, index) for _, cache, index in join], tight=tight)
        rows = [*self.rows, *(Row.of(row) for row, _, _ in join)]
        self.rows = [rows[number] for number in change.order]
        self._rows_changed = True

    def forward(self, model: Forward) -> mx.array:
        """Logits [rows, vocabulary] after one more token of every row."""
        inputs = self._gather_inputs()
        self.cache.begin(1)
        logits = model.logits(inputs[:, None], self.cache, [row.request_id for row in self.rows])[:, -1, :]
        self.cache.commit()
        return logits

    def sample(self, logits: mx.array, allowed: mx.array | None) -> Sampled:
        sampled = self._sampler.sample(logits, [row.generated for row in self.rows], allowed)
        self._tokens = sampled.token_ids
        for row in self.rows:
            row.generated += 1
        return sampled

    def _gather_inputs(self) -> mx.array:
        """The input token of every row, int32 [rows], still on the device for rows that go on."""
        if not self._rows_changed and self._tokens is not None:
            return self._tokens
        self._sampler.set_rows([row.history for row in self.rows])
        previous = [] if self._tokens is None else [self._tokens]
        count = sum(tokens.size for tokens in previous)
        joined = [-1 - row.input for row in self.rows if row.input < 0]
        fresh = iter(range(count, count + len(joined)))
        order = [row.input if row.input >= 0 else next(fresh) for row in self.rows]
        for index, row in enumerate(self.rows):
            row.input = index
        self._rows_changed = False
        known = mx.concatenate([*previous, mx.array(joined, dtype=mx.int32)])
        return known[mx.array(order)]
