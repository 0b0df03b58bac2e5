"""The official ``openai`` client, synchronous and asynchronous, against a model of random weights."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.e2e.helpers import CONTEXT, arguments, chat_body, sse_events
from tests.e2e.server_process import ServerProcess

CHAT = "/v1/chat/completions"


def answer(client: openai.OpenAI, body: dict[str, Any]) -> str:
    completion = client.chat.completions.create(**arguments(body))
    text = completion.choices[0].message.content
    assert text is not None
    return text


def chunks_of(client: openai.OpenAI, body: dict[str, Any]) -> list[ChatCompletionChunk]:
    with client.chat.completions.create(stream=True, **arguments(body)) as stream:
        return list(stream)


def joined(chunks: Iterable[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# Chat


def test_chat(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**arguments(chat_body(max_tokens=20)))
    assert completion.object == "chat.completion"
    assert completion.id.startswith("chatcmpl-")
    (choice,) = completion.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    assert choice.message.content
    usage = completion.usage
    assert usage is not None
    assert usage.completion_tokens == 20
    assert usage.total_tokens == usage.prompt_tokens + 20 > 20


def test_streamed_equals_not_streamed(client: openai.OpenAI) -> None:
    body = chat_body("Name three fruits.", max_tokens=200)
    chunks = chunks_of(client, body)
    assert joined(chunks) == answer(client, body)
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].delta.role] == ["assistant"]
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert [reason for reason in reasons if reason] == ["length"]
    assert reasons[-1] == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" and chunk.usage is None for chunk in chunks)


async def test_async_client(aclient: openai.AsyncOpenAI) -> None:
    body = chat_body("Name three fruits.", max_tokens=64)
    whole = await aclient.chat.completions.create(**arguments(body))
    async with await aclient.chat.completions.create(stream=True, **arguments(body)) as stream:
        chunks = [chunk async for chunk in stream]
    assert joined(chunks) == whole.choices[0].message.content


def test_usage_comes_in_the_last_chunk(client: openai.OpenAI) -> None:
    chunks = chunks_of(client, chat_body(max_tokens=12, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 12
    assert usage.total_tokens == usage.prompt_tokens + 12
    assert all(chunk.usage is None for chunk in chunks[:-1])
    whole = client.chat.completions.create(**arguments(chat_body(max_tokens=12)))
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == usage.prompt_tokens


def test_the_model_may_stop_by_itself(client: openai.OpenAI) -> None:
    """An end-of-text token ends the answer, is not shown, and is left to ignore_eos to ignore."""
    ends: list[str] = []
    for seed in range(8):
        body = chat_body(max_tokens=40, temperature=1, seed=seed)
        completion = client.chat.completions.create(**arguments({**body, "ignore_eos": False}))
        assert completion.usage is not None
        reason = completion.choices[0].finish_reason
        whole = answer(client, body)
        if reason == "stop":
            assert completion.usage.completion_tokens <= 40
            assert whole.startswith(completion.choices[0].message.content or "")
        else:
            assert completion.usage.completion_tokens == 40
            assert whole == completion.choices[0].message.content
        ends.append(reason)
    assert set(ends) == {"stop", "length"}


# Completions and models


def test_completions_of_text_and_of_token_ids(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(model="default", prompt="Once upon a time", **fields)
    assert whole.id.startswith("cmpl-")
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None and whole.usage.completion_tokens == 24
    with client.completions.create(model="default", prompt="Once upon a time", stream=True, **fields) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"

    ids = client.completions.create(model="default", prompt=[5, 6, 7, 8], **fields)
    assert ids.usage is not None and ids.usage.prompt_tokens == 4
    assert ids.choices[0].text != whole.choices[0].text


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert (model.id, model.object) == ("tiny-chat", "model")
    assert client.models.retrieve("tiny-chat") == model
    with pytest.raises(openai.NotFoundError) as failure:
        client.models.retrieve("nobody")
    assert failure.value.code == "model_not_found"


@pytest.mark.parametrize("name", ["default", "model", "tiny-chat"])
def test_names_that_mean_the_only_model(client: openai.OpenAI, name: str) -> None:
    assert answer(client, chat_body(model=name, max_tokens=4)) == answer(client, chat_body(max_tokens=4))


def test_no_model_name(server: ServerProcess) -> None:
    body = chat_body(max_tokens=4)
    del body["model"]
    assert server.post(CHAT, body).status_code == 200


# Limits and stop strings


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("count", [1, 7])
def test_max_tokens(client: openai.OpenAI, field: str, count: int) -> None:
    body = {name: value for name, value in chat_body().items() if name != "max_tokens"}
    completion = client.chat.completions.create(**arguments({**body, field: count}))
    assert completion.usage is not None
    assert completion.usage.completion_tokens == count
    assert completion.choices[0].finish_reason == "length"


def test_max_tokens_is_cut_to_the_context(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**arguments(chat_body("quince " * 8000, max_tokens=10**9)))
    assert completion.usage is not None
    assert 8000 < completion.usage.prompt_tokens < CONTEXT
    assert completion.usage.total_tokens == CONTEXT


def stop_cases() -> list[tuple[int, int]]:
    """Offsets and lengths in the answer's characters, of no relation to its tokens."""
    draw = random.Random(2)
    return [(draw.randrange(0, 500), draw.randrange(1, 24)) for _ in range(12)]


@pytest.fixture(scope="module")
def known(client: openai.OpenAI) -> tuple[dict[str, Any], str]:
    body = chat_body("Tell me a long story.", max_tokens=200)
    text = answer(client, body)
    assert len(text) > 600
    return body, text


@pytest.mark.parametrize(("offset", "length"), stop_cases())
def test_stop_string(client: openai.OpenAI, known: tuple[dict[str, Any], str], offset: int, length: int) -> None:
    body, text = known
    stop = text[offset : offset + length]
    expected = text[: text.find(stop)]
    chunks = chunks_of(client, {**body, "stop": stop})
    assert joined(chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"
    completion = client.chat.completions.create(**arguments({**body, "stop": ["never in there", stop]}))
    assert completion.choices[0].message.content == expected
    assert completion.choices[0].finish_reason == "stop"


def test_the_earliest_of_several_stop_strings_wins(client: openai.OpenAI, known: tuple[dict[str, Any], str]) -> None:
    body, text = known
    stops = [text[300:312], text[120:129], text[200:207], text[400:401] + "\u2603"]
    expected = text[: min(at for stop in stops if (at := text.find(stop)) >= 0)]
    assert answer(client, {**body, "stop": stops}) == expected


def test_the_beginning_of_a_stop_string_is_no_stop(client: openai.OpenAI, known: tuple[dict[str, Any], str]) -> None:
    """Held back while it may become one, and given out after all, at the very end too."""
    body, text = known
    stops = [text[100:120] + "\u2603", text[-5:] + "\u2603"]
    chunks = chunks_of(client, {**body, "stop": stops})
    assert joined(chunks) == text
    assert chunks[-1].choices[0].finish_reason == "length"


# Sampling


def sampled(seed: int, *, max_tokens: int = 40) -> dict[str, Any]:
    return chat_body("Say something.", max_tokens=max_tokens, temperature=1, top_p=0.95, seed=seed)


@pytest.mark.parametrize("temperature", [0, 1])
async def test_the_same_text_alone_and_beside_15_others(aclient: openai.AsyncOpenAI, temperature: float) -> None:
    """Greedy or with a seed; prompts and answers of different lengths, so that requests join and leave all the time."""

    async def text(seed: int) -> str:
        prompt = f"{seed} " + "pear " * (12 * seed % 97)
        body = chat_body(prompt, max_tokens=20 + 3 * seed, temperature=temperature, seed=seed)
        completion = await aclient.chat.completions.create(**arguments(body))
        return completion.choices[0].message.content or ""

    seeds = range(16)
    alone = [await text(seed) for seed in seeds]
    assert await text(7) == alone[7]
    assert await asyncio.gather(*(text(seed) for seed in seeds)) == alone
    assert len(set(alone)) == 16


def test_different_seeds_give_different_texts(client: openai.OpenAI) -> None:
    assert len({answer(client, sampled(seed)) for seed in range(5)}) == 5


def test_without_a_seed_texts_differ(client: openai.OpenAI) -> None:
    body = {name: value for name, value in sampled(0).items() if name != "seed"}
    assert answer(client, body) != answer(client, body)


def test_a_huge_or_negative_seed_is_a_seed(client: openai.OpenAI) -> None:
    for seed in (-1, 2**63, 10**30):
        assert answer(client, sampled(seed, max_tokens=8)) == answer(client, sampled(seed, max_tokens=8))


@pytest.mark.parametrize(
    "filters", [{"top_k": 1}, {"top_p": 1e-6}, {"top_p": 1e-10}, {"min_p": 1.0}, {"temperature": 1e-45}], ids=str
)
def test_filters_that_leave_one_token_are_greedy(client: openai.OpenAI, filters: dict[str, Any]) -> None:
    """Clients ask for greedy answers in all these ways."""
    greedy = answer(client, chat_body("Say something.", max_tokens=24))
    for seed in (1, 2):
        body = chat_body("Say something.", max_tokens=24, seed=seed)
        assert answer(client, {**body, "temperature": 1, **filters}) == greedy


# Ids, roles and text


def test_the_request_id_is_the_answers_id(server: ServerProcess, client: openai.OpenAI) -> None:
    whole = server.post(CHAT, chat_body(max_tokens=2))
    assert whole.headers["x-request-id"] == whole.json()["id"]
    raw = client.chat.completions.with_raw_response.create(**arguments(chat_body(max_tokens=2)))
    assert raw.headers["x-request-id"] == raw.parse().id
    with server.http.stream("POST", server.base_url + CHAT, json=chat_body(max_tokens=2, stream=True)) as streamed:
        streamed.read()
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert f'"id":"{streamed.headers["x-request-id"]}"' in streamed.text
        assert streamed.text.endswith("data: [DONE]\n\n")


def prompt_tokens(client: openai.OpenAI, messages: list[dict[str, Any]]) -> int:
    completion = client.chat.completions.create(**arguments(chat_body(max_tokens=1, messages=messages)))
    assert completion.usage is not None
    return completion.usage.prompt_tokens


def test_roles(client: openai.OpenAI) -> None:
    """Every role reaches the prompt; developer is system by another name."""
    question = {"role": "user", "content": "What is the weather in Lyon?"}
    alone = prompt_tokens(client, [question])
    system = prompt_tokens(client, [{"role": "system", "content": "Answer in French."}, question])
    developer = prompt_tokens(client, [{"role": "developer", "content": "Answer in French."}, question])
    assert system == developer > alone
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Lyon"}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 degrees"}
    called = prompt_tokens(client, [question, asked, {"role": "user", "content": "Well?"}])
    assert prompt_tokens(client, [question, {"role": "user", "content": "Well?"}]) < called
    assert prompt_tokens(client, [question, asked, result]) > alone


def test_content_parts_are_the_text(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Count "}, {"type": "text", "text": "the quinces."}]
    body = chat_body(messages=[{"role": "user", "content": parts}])
    assert answer(client, body) == answer(client, chat_body("Count the quinces."))


@pytest.mark.parametrize("text", ["Grüße, 世界", "🍐🍏 👩‍👩‍👧 naïve", "\u0000\u200b\ufffd", "عربي"])
def test_unicode_in(client: openai.OpenAI, text: str) -> None:
    body = chat_body(text, max_tokens=24)
    assert joined(chunks_of(client, body)) == answer(client, body)


def test_unicode_out_is_never_cut(server: ServerProcess) -> None:
    """Sampled bytes of a random model: what is not a character comes as U+FFFD, and every chunk is valid UTF-8."""
    for seed in range(4):
        body = chat_body("🍐", max_tokens=300, temperature=2, seed=seed)
        whole = server.post(CHAT, body).json()["choices"][0]["message"]["content"]
        parts: list[str] = []
        with server.http.stream("POST", server.base_url + CHAT, json={**body, "stream": True}) as streamed:
            parts.extend(part.decode("utf-8") for part in streamed.iter_bytes())
        assert len(whole) > 300
        assert streamed_text("".join(parts)) == whole


def streamed_text(body: str) -> str:
    choices = [choice for event in sse_events(body) for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_the_docs_pages_need_no_network(server: ServerProcess, path: str) -> None:
    page = server.get(path)
    assert page.status_code == 200
    assert CHAT in page.text or path != "/openapi.json"
    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']*""", page.text) == []
