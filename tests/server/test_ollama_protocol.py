"""Ollama's spellings: durations, names, sizes."""

from __future__ import annotations

import math

import pytest

from quince.errors import InvalidRequest
from quince.models.model_type import ModelType
from quince.server.protocol import ollama


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        ("0", 0),
        (30, 30),
        (1.5, 1.5),
        ("30", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("100ms", 0.1),
        ("5m ", 300),
        ("0s", 0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1s", math.inf),
        (math.inf, math.inf),
    ],
)
def test_keep_alive(value: float | str | None, seconds: float | None) -> None:
    assert ollama.keep_alive(value) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize("value", ["", "soon", "5 minutes", "m5", "1h-3m", "--5m", math.nan])
def test_what_is_no_duration(value: float | str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ollama.keep_alive(value)
    assert refused.value.param == "keep_alive"


@pytest.mark.parametrize(
    ("name", "plain"),
    [("a", "a"), ("a:latest", "a"), ("qwen3:0.6b", "qwen3:0.6b"), ("hf.co/o/m", "o/m"), ("hf.co/o/m:latest", "o/m")],
)
def test_names(name: str, plain: str) -> None:
    assert ollama.plain_name(name) == plain


@pytest.mark.parametrize(("count", "size"), [(5_200_000, "5.2M"), (7_600_000_000, "7.6B"), (1500, "1.5K"), (12, "12")])
def test_parameter_sizes(count: int, size: str) -> None:
    assert ollama.parameter_size(count) == size


def test_capabilities() -> None:
    template = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}"
    assert ollama.capabilities(ModelType.LLM, template) == ["completion", "tools", "thinking"]
    assert ollama.capabilities(ModelType.VLM, "") == ["completion", "vision"]
    assert ollama.capabilities(ModelType.EMBEDDING, template) == ["embedding"]
