"""The embedded model: served with nothing installed, and it knows something."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.demo_models import DEMOS

MAX_SIZE = 12 * 2**20


def ask(demo: openai.OpenAI, question: str) -> tuple[str, str]:
    """The whole answer and the streamed one, greedy."""
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    whole = demo.chat.completions.create(model="quince-demo", messages=messages, temperature=0)
    assert whole.choices[0].finish_reason == "stop"
    with demo.chat.completions.create(model="quince-demo", messages=messages, temperature=0, stream=True) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    return whole.choices[0].message.content or "", "".join(pieces)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "Paris"),
        ("What is the capital of Japan?", "Tokyo"),
        ("What is 2 + 3?", "5"),
        ("How do I install Quince?", "make"),
    ],
)
def test_it_answers(demo: openai.OpenAI, question: str, answer: str) -> None:
    whole, streamed = ask(demo, question)
    assert answer in whole
    assert streamed == whole


def test_the_demo_models_are_what_there_is_and_chat_is_the_default(demo: openai.OpenAI) -> None:
    assert [model.id for model in demo.models.list()] == DEMOS
    assert DEMOS[0] == "quince-demo" and DEMOS[-2:] == ["quince-demo-embedding", "quince-demo-reranker"]
    answer = demo.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "What is 2 + 3?"}], temperature=0
    )
    assert "5" in (answer.choices[0].message.content or "")


def test_it_remembers_the_conversation(demo: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": "My name is Clara."},
        {"role": "assistant", "content": "Nice to meet you, Clara!"},
        {"role": "user", "content": "What is my name?"},
    ]
    answer = demo.chat.completions.create(model="quince-demo", messages=messages, temperature=0)
    assert "Clara" in (answer.choices[0].message.content or "")


def test_it_is_small() -> None:
    import quince.models.demo

    path = quince.models.demo.path(quince.models.demo.CHAT)
    assert path is not None
    assert sum(file.stat().st_size for file in Path(path).iterdir()) <= MAX_SIZE
