"""What changes logits before a token is chosen: penalties on tokens that were there, and the client's own bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from quince.sampling import SamplingParams


@dataclass(frozen=True)
class RowHistory:
    """Where a row of the new batch comes from: row ``previous`` of the old one, or, if None, it has just joined.

    ``prompt_token_ids`` count for rows that have just joined and whose parameters penalize the prompt;
    ``generated_token_ids`` for those that join with a part of their answer.
    """

    params: SamplingParams
    previous: int | None
    prompt_token_ids: Sequence[int] = ()
    generated_token_ids: Sequence[int] = ()


class Penalties:
    """Keeps how often each row has generated each token, on the device. Costs nothing while nobody asks."""

    def __init__(self) -> None:
        self._active = False
        self._counts: mx.array | None = None  # float32 [rows, vocabulary]
        self._prompts: mx.array | None = None  # bool [rows, vocabulary]: in the prompt
        self._bias: mx.array | None = None  # float32 [rows, vocabulary]
        self._rows: list[RowHistory] = []
        self._stale = True

    def set_rows(self, rows: Sequence[RowHistory]) -> None:
        self._rows = list(rows)
        self._active = any(row.params.penalizes or row.params.logit_bias for row in rows)
        self._stale = True
        if not self._active:
            self._counts = self._prompts = self._bias = None

    def apply(self, logits: mx.array) -> mx.array:
        """Logits [rows, vocabulary] as the rows' parameters change them: repetition, frequency, presence, bias."""
        if not self._active:
            return logits
        if self._stale:
            self._arrange(logits.shape[-1])
        logits = logits.astype(mx.float32)
        if self._counts is not None:
            generated = self._counts > 0
            if self._prompts is not None:
                seen = mx.logical_or(generated, self._prompts)
                penalized = mx.where(logits > 0, logits / self._repetition, logits * self._repetition)
                logits = mx.where(seen, penalized, logits)
            logits = logits - self._frequency * self._counts - self._presence * generated
        return logits if self._bias is None else logits + self._bias

    def count(self, tokens: mx.array) -> None:
        """These tokens, int32 [rows], were sampled."""
        if self._counts is not None:
            rows = mx.arange(tokens.shape[0])
            self._counts = self._counts.at[rows, tokens].add(1.0)

    def _arrange(self, vocabulary: int) -> None:
        """Bring the arrays into the order of the new rows, and fill those of rows that have joined."""
        self._stale = False
        params = [row.params for row in self._rows]
        self._bias = _bias(params, vocabulary) if any(row.logit_bias for row in params) else None
        if not any(row.penalizes for row in params):
            self._counts = self._prompts = None
            return
        self._repetition = _column([row.repetition_penalty for row in params])
        self._frequency = _column([row.frequency_penalty for row in params])
        self._presence = _column([row.presence_penalty for row in params])
        joined = [row.prompt_token_ids for row in self._rows if row.previous is None]
        said = [row.generated_token_ids for row in self._rows if row.previous is None]
        self._counts = self._carried(self._counts, _counts(said, vocabulary))
        if any(row.repetition_penalty != 1 for row in params):
            self._prompts = self._carried(self._prompts, _occurrences(joined, vocabulary))
        else:
            self._prompts = None

    def _carried(self, old: mx.array | None, joined: mx.array) -> mx.array:
        """Rows that stay take their part of ``old`` with them; without it they had no need of one yet."""
        if old is None:
            rows = sum(row.previous is not None for row in self._rows)
            old, places = mx.zeros((rows, joined.shape[1]), dtype=joined.dtype), iter(range(rows))
        else:
            places = iter([row.previous for row in self._rows if row.previous is not None])
        fresh = iter(range(old.shape[0], old.shape[0] + joined.shape[0]))
        order = [next(fresh if row.previous is None else places) for row in self._rows]
        return mx.concatenate([old, joined])[mx.array(order)]


def _occurrences(rows: Sequence[Sequence[int]], vocabulary: int) -> mx.array:
    """Which tokens occur in each row, bool [rows, vocabulary]."""
    found = np.zeros((len(rows), vocabulary), dtype=np.bool_)
    for index, token_ids in enumerate(rows):
        found[index, np.asarray(token_ids, dtype=np.int64)] = True
    return mx.array(found)


def _counts(rows: Sequence[Sequence[int]], vocabulary: int) -> mx.array:
    """How often each token occurs in each row, float32 [rows, vocabulary]."""
    found = np.zeros((len(rows), vocabulary), dtype=np.float32)
    for index, token_ids in enumerate(rows):
        np.add.at(found[index], np.asarray(token_ids, dtype=np.int64), 1.0)
    return mx.array(found)


def _bias(params: Sequence[SamplingParams], vocabulary: int) -> mx.array:
    bias = np.zeros((len(params), vocabulary), dtype=np.float32)
    for index, row in enumerate(params):
        for token_id, value in row.logit_bias:
            bias[index, token_id] += value
    return mx.array(bias)


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(list(values), dtype=mx.float32)[:, None]
