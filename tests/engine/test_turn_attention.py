"""Attention without a kernel of its own: the same as mlx's, and only where it is meant for."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from quince.engine import turn_attention
from quince.engine.turn_attention import TurnAttention, attend

fused = mx.fast.scaled_dot_product_attention
SCALE = 0.3


def arrays(*, rows: int = 1, heads: int = 4, kv_heads: int = 2, queries: int = 7, keys: int = 40, dim: int = 16) -> Any:
    mx.random.seed(heads * keys)
    return [
        mx.random.normal(shape)
        for shape in ((rows, heads, queries, dim), (rows, kv_heads, keys, dim), (rows, kv_heads, keys, dim))
    ]


def masks(rows: int, queries: int, keys: int) -> list[mx.array | str]:
    random = [mx.random.uniform(shape=shape) > 0.3 for shape in ((queries, keys), (rows, 1, queries, keys))]
    return ["causal", *random, mx.random.uniform(shape=(1, 1, queries, keys)) > 0.3]


@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "queries", "keys"), [(1, 4, 2, 7, 40), (2, 4, 4, 5, 9), (3, 8, 1, 6, 7)]
)
def test_equals_what_mlx_computes(rows: int, heads: int, kv_heads: int, queries: int, keys: int) -> None:
    q, k, v = arrays(rows=rows, heads=heads, kv_heads=kv_heads, queries=queries, keys=keys)
    for mask in masks(rows, queries, keys):
        expected = fused(q, k, v, scale=SCALE, mask=mask)
        assert mx.allclose(attend(q, k, v, SCALE, mask), expected, atol=1e-6)
        low = [array.astype(mx.bfloat16) for array in (q, k, v)]
        assert mx.allclose(attend(*low, SCALE, mask).astype(mx.float32), expected, atol=3e-2)


def test_values_may_be_narrower_than_keys() -> None:
    q, k, v = arrays()
    expected = fused(q, k, v[..., :8], scale=SCALE, mask="causal")
    assert mx.allclose(attend(q, k, v[..., :8], SCALE, "causal"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options", "own"),
    [
        ({}, {"mask": "causal"}, True),
        ({"queries": 4}, {"mask": mx.ones((4, 40), dtype=mx.bool_)}, True),
        ({"queries": 3}, {"mask": "causal"}, False),  # MLX's own kernel
        ({"queries": 40}, {"mask": "causal"}, False),  # a prompt that begins: widths come again
        ({}, {"mask": None}, False),
        ({"dim": 136}, {"mask": "causal"}, False),
        ({"keys": 72}, {"mask": "causal"}, False),  # too many scores
        ({}, {"mask": "causal", "sinks": mx.zeros(4)}, False),
        ({}, {"mask": mx.zeros((7, 40))}, False),  # a sum
        ({}, {"mask": mx.ones((1, 4, 7, 40), dtype=mx.bool_)}, False),  # one for each head
    ],
)
def test_only_short_turns_are_computed_without_a_kernel(
    shape: dict[str, int], options: dict[str, Any], own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(turn_attention, "attend", lambda *_: calls.append("own"))
    attention = TurnAttention(lambda *_, **__: calls.append("fused"), most_scores=4 * 7 * 71)
    attention(*arrays(**shape), scale=SCALE, **options)
    assert calls == ["own" if own else "fused"]


def test_it_stands_in_for_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", fused)  # put back afterwards
    turn_attention.install()
    q, k, v = arrays()
    with monkeypatch.context() as patch:
        patch.setattr(turn_attention, "attend", lambda *_: "own")
        assert mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask="causal") == "own"
    assert mx.allclose(
        mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE), fused(q, k, v, scale=SCALE), atol=1e-6
    )
