from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from quince.engine.penalties import Penalties, RowHistory
from quince.sampling import SamplingParams

VOCABULARY = 12


def row(previous: int | None = None, prompt: tuple[int, ...] = (), **params: object) -> RowHistory:
    return RowHistory(SamplingParams(max_tokens=1, **params), previous, prompt)  # type: ignore[arg-type]


def expected(logits: np.ndarray, params: SamplingParams, prompt: tuple[int, ...], said: list[int]) -> np.ndarray:
    """The definition token by token: repetition as in CTRL, then frequency and presence as OpenAI's API, then bias."""
    wanted = logits.copy()
    for token in set(prompt) | set(said):
        wanted[token] = wanted[token] * params.repetition_penalty
        if logits[token] > 0:
            wanted[token] = logits[token] / params.repetition_penalty
    for token in set(said):
        wanted[token] -= params.frequency_penalty * said.count(token) + params.presence_penalty
    for token, value in params.logit_bias:
        wanted[token] += value
    return wanted


def test_nobody_asks_nobody_pays() -> None:
    penalties = Penalties()
    penalties.set_rows([row(), row()])
    logits = mx.zeros((2, VOCABULARY))
    assert penalties.apply(logits) is logits


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_join_leave_and_move_keep_their_own_counts(seed: int) -> None:
    random = np.random.default_rng(seed)
    asked = [
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.7, "presence_penalty": -0.2},
        {"logit_bias": ((3, 5.0), (4, -100.0))},
        {},
        {"repetition_penalty": 0.8, "frequency_penalty": -1.0, "logit_bias": ((0, 1.5),)},
    ]
    penalties = Penalties()
    rows: list[tuple[SamplingParams, tuple[int, ...], list[int]]] = []
    for _ in range(12):
        kept = [index for index in range(len(rows)) if random.random() < 0.7]
        random.shuffle(kept)
        histories = [RowHistory(rows[index][0], index) for index in kept]
        rows = [rows[index] for index in kept]
        for _ in range(int(random.integers(0 if rows else 1, 3))):
            prompt = tuple(random.integers(0, VOCABULARY, 3).tolist())
            joined = row(None, prompt, **asked[random.integers(len(asked))])
            at = int(random.integers(0, len(rows) + 1))
            histories.insert(at, joined)
            rows.insert(at, (joined.params, prompt, []))
        penalties.set_rows(histories)
        for _ in range(int(random.integers(1, 4))):
            logits = random.normal(size=(len(rows), VOCABULARY)).astype(np.float32) * 3
            got = np.array(penalties.apply(mx.array(logits)))
            for index, (params, prompt, said) in enumerate(rows):
                np.testing.assert_allclose(got[index], expected(logits[index], params, prompt, said), rtol=1e-5)
            tokens = random.integers(0, VOCABULARY, len(rows))
            penalties.count(mx.array(tokens.astype(np.int32)))
            for (_, _, said), token in zip(rows, tokens.tolist(), strict=True):
                said.append(token)
