"""The embedded model: served with nothing installed, and it knows something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.helpers import sync_client
from tests.e2e.server_process import ServerProcess

MAX_SIZE = 12 * 2**20


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("demo") / "log") as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def client(demo: ServerProcess) -> Iterator[openai.OpenAI]:
    with sync_client(demo.base_url) as made:
        yield made


def ask(client: openai.OpenAI, question: str) -> tuple[str, str]:
    """The whole answer and the streamed one, greedy."""
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    whole = client.chat.completions.create(model="quince-demo", messages=messages, temperature=0)
    assert whole.choices[0].finish_reason == "stop"
    with client.chat.completions.create(model="quince-demo", messages=messages, temperature=0, stream=True) as stream:
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
def test_it_answers(client: openai.OpenAI, question: str, answer: str) -> None:
    whole, streamed = ask(client, question)
    assert answer in whole
    assert streamed == whole


def test_it_is_the_default_and_the_only_one(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["quince-demo"]


def test_it_remembers_the_conversation(client: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "user", "content": "My name is Clara."},
        {"role": "assistant", "content": "Nice to meet you, Clara!"},
        {"role": "user", "content": "What is my name?"},
    ]
    answer = client.chat.completions.create(model="quince-demo", messages=messages, temperature=0)
    assert "Clara" in (answer.choices[0].message.content or "")


def test_it_is_small() -> None:
    import quince.models.demo

    path = quince.models.demo.path(quince.models.demo.CHAT)
    assert path is not None
    assert sum(file.stat().st_size for file in Path(path).iterdir()) <= MAX_SIZE
