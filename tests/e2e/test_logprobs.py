"""Logprobs of both shapes: exact, of what is shown, streamed and not; several answers; what moves logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat.chat_completion import Choice
from tokenizers import Tokenizer

from tests.e2e.conftest import DEMO as DEMO_DIR
from tests.e2e.demo_chat import DEMO, WEATHER, comparable, completion, streamed, user, whole
from tests.e2e.helpers import assert_error_shape, sync_client
from tests.e2e.server_process import ServerProcess

CAPITAL = "What is the capital of France?"
COUNT = "Count from 1 to 20."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(Path(DEMO_DIR) / "tokenizer.json"))


@pytest.fixture(scope="module")
def noise(random_server: ServerProcess) -> Iterator[openai.OpenAI]:
    """A model of random weights: nothing is certain there."""
    with sync_client(random_server.base_url) as made:
        yield made


def entries(choice: Choice) -> list[Any]:
    assert choice.logprobs is not None
    return choice.logprobs.content or []


def shown(choice: Choice) -> bytes:
    return b"".join(bytes(entry.bytes) for entry in entries(choice))


# Chat


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stop": ["Paris"]},
        {"stop": ["capital of"]},
        {"max_tokens": 3},
        {"reasoning_effort": "high"},
        {"temperature": 1.5, "seed": 4, "max_tokens": 60},
        {"temperature": 2, "seed": 5, "max_tokens": 60},
        {"response_format": {"type": "json_object"}, "max_tokens": 30},
    ],
    ids=str,
)
def test_there_is_one_for_every_token_that_is_shown(demo: openai.OpenAI, fields: dict[str, Any]) -> None:
    choice = whole(demo, CAPITAL, logprobs=True, **fields)
    text = (choice.message.content or "").encode()
    assert entries(choice)
    if "stop" in fields:  # a stop string may begin in the middle of a token, which is shown in part
        assert shown(choice).startswith(text)
    elif "\ufffd" not in (choice.message.content or ""):
        assert shown(choice) == text
    assert all(entry.logprob <= 0 for entry in entries(choice))
    assert all(entry.token == bytes(entry.bytes).decode(errors="replace") for entry in entries(choice))
    assert comparable(streamed(demo, CAPITAL, logprobs=True, **fields)) == comparable(choice)


def test_greedy_tokens_are_the_likeliest(demo: openai.OpenAI) -> None:
    for entry in entries(whole(demo, COUNT, logprobs=True, top_logprobs=20, max_tokens=40)):
        likeliest = [top.logprob for top in entry.top_logprobs]
        assert len(likeliest) == 20
        assert likeliest == sorted(likeliest, reverse=True)
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, likeliest[0])
        assert 0.2 < sum(map(math.exp, likeliest)) <= 1 + 1e-4
        assert len({top.token for top in entry.top_logprobs if "\ufffd" not in top.token}) == len(
            [top for top in entry.top_logprobs if "\ufffd" not in top.token]
        )


def test_sampled_tokens_have_their_own(noise: openai.OpenAI) -> None:
    """Not the likeliest one's: what was chosen is found among the alternatives with the same value, if at all."""
    fields: dict[str, Any] = {"model": "default", "temperature": 1, "seed": 6, "max_tokens": 60}
    chosen = entries(whole(noise, "Hello", logprobs=True, top_logprobs=20, **fields))
    other = 0
    for entry in chosen:
        values = {bytes(top.bytes): top.logprob for top in entry.top_logprobs}
        lowest = min(values.values())
        assert values.get(bytes(entry.bytes), entry.logprob) == entry.logprob
        assert bytes(entry.bytes) in values or entry.logprob <= lowest
        other += entry.logprob < max(values.values())
    assert other > 10


def test_they_are_what_the_model_says(demo: openai.OpenAI, tokenizer: Tokenizer) -> None:
    """Asked again for each token by itself, behind all those before it."""
    prompt = tokenizer.encode("1, 2, 3, 4,", add_special_tokens=False).ids
    fields: dict[str, Any] = {"model": DEMO, "temperature": 0, "logprobs": 3, "extra_body": {"ignore_eos": True}}
    made = demo.completions.create(prompt=prompt, max_tokens=12, **fields).choices[0].logprobs
    assert made is not None and made.tokens and made.token_logprobs
    known = {tokenizer.decode([number]): number for number in range(tokenizer.get_vocab_size())}
    for token, logprob in zip(made.tokens, made.token_logprobs, strict=True):
        alone = demo.completions.create(prompt=prompt, max_tokens=1, **fields).choices[0].logprobs
        assert alone is not None and alone.tokens == [token] and alone.token_logprobs
        assert alone.token_logprobs[0] == pytest.approx(logprob, abs=0.1)
        prompt.append(known[token])


def test_calls_have_none(demo: openai.OpenAI) -> None:
    choice = whole(demo, "What is the weather in Paris?", tools=[WEATHER], logprobs=True, top_logprobs=2)
    assert choice.finish_reason == "tool_calls"
    assert entries(choice) == []


def test_nobody_who_does_not_ask_gets_them(demo: openai.OpenAI) -> None:
    assert whole(demo, CAPITAL).logprobs is None
    assert whole(demo, CAPITAL, logprobs=False).logprobs is None
    assert all(entry.top_logprobs == [] for entry in entries(whole(demo, CAPITAL, logprobs=True)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"4096": 1}}, "logit_bias"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": "x"}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused_by_name(
    demo_server: ServerProcess, fields: dict[str, Any], param: str
) -> None:
    body = {"model": DEMO, "messages": [user("hi")], "max_tokens": 4, **fields}
    error = assert_error_shape(demo_server.post("/v1/chat/completions", body), 400)
    assert error["param"].split(".")[0] == param


# Several answers


@pytest.mark.parametrize("fields", [{}, {"frequency_penalty": 1.0}, {"logprobs": True, "top_logprobs": 2}], ids=str)
def test_n_answers_are_those_of_the_seeds_that_follow(demo: openai.OpenAI, fields: dict[str, Any]) -> None:
    fields = {"temperature": 1.5, "max_tokens": 24, **fields}
    several = completion(demo, "Say something.", n=3, seed=11, **fields)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    alone = [completion(demo, "Say something.", seed=11 + number, **fields) for number in range(3)]
    expected = [{**comparable(one.choices[0]), "index": index} for index, one in enumerate(alone)]
    assert [comparable(choice) for choice in several.choices] == expected
    assert len({choice.message.content for choice in several.choices}) == 3
    assert several.usage is not None
    assert several.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone if one.usage)
    assert several.usage.prompt_tokens == alone[0].usage.prompt_tokens if alone[0].usage else 0


def test_n_answers_streamed(demo: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "max_tokens": 24, "n": 3, "seed": 11}
    several = completion(demo, "Say something.", **fields)
    texts, ends = [""] * 3, [""] * 3
    with demo.chat.completions.create(
        model=DEMO, messages=[{"role": "user", "content": "Say something."}], stream=True, **fields
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                ends[choice.index] += choice.finish_reason or ""
    assert texts == [choice.message.content for choice in several.choices]
    assert ends == [choice.finish_reason for choice in several.choices]


# What moves logits


def test_penalties_show(demo: openai.OpenAI) -> None:
    plain = whole(demo, COUNT, max_tokens=80).message.content or ""
    assert plain.endswith("19, 20")
    assert whole(demo, COUNT, max_tokens=80, frequency_penalty=2).message.content != plain
    fond = whole(demo, COUNT, max_tokens=80, frequency_penalty=-2).message.content or ""
    assert fond.count(",") > plain.count(",")


@pytest.mark.parametrize("fields", [{"presence_penalty": 2}, {"extra_body": {"repetition_penalty": 1.3}}], ids=str)
def test_penalties_make_repetition_rarer(noise: openai.OpenAI, fields: dict[str, Any]) -> None:
    sampled: dict[str, Any] = {"model": "default", "temperature": 0.7, "max_tokens": 200, "logprobs": True}
    plain, penalized = (
        [whole(noise, "Hi", seed=seed, **sampled, **more) for seed in range(3)] for more in ({}, fields)
    )
    assert repeated(penalized) < 0.8 * repeated(plain)


def repeated(choices: Sequence[Choice]) -> float:
    tokens = [[entry.token for entry in entries(choice)] for choice in choices]
    return sum(len(one) - len(set(one)) for one in tokens) / sum(map(len, tokens))


def test_a_bias_forces_and_bans(demo: openai.OpenAI, tokenizer: Tokenizer) -> None:
    (paris,) = tokenizer.encode(" Paris", add_special_tokens=False).ids
    assert "Paris" in (whole(demo, CAPITAL).message.content or "")
    banned = whole(demo, CAPITAL, logit_bias={str(paris): -100}, logprobs=True, max_tokens=20)
    assert " Paris" not in [entry.token for entry in entries(banned)]
    for fields in ({}, {"temperature": 1, "seed": 3}):
        forced = whole(demo, CAPITAL, logit_bias={str(paris): 100}, max_tokens=5, **fields)
        assert forced.message.content == " Paris" * 5


# Completions


def legacy(client: openai.OpenAI, prompt: Any, **fields: Any) -> Completion:
    made: Completion = client.completions.create(
        **{"model": DEMO, "temperature": 0, "max_tokens": 12, "prompt": prompt, **fields}
    )
    return made


@pytest.mark.parametrize("fields", [{}, {"temperature": 2, "seed": 3}, {"stop": ["."]}], ids=str)
def test_legacy_logprobs(demo: openai.OpenAI, fields: dict[str, Any]) -> None:
    (choice,) = legacy(demo, "The capital of France is", logprobs=2, **fields).choices
    found = choice.logprobs
    assert found is not None and found.tokens and found.token_logprobs and found.top_logprobs and found.text_offset
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    for token, logprob, top, offset in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset, strict=True
    ):
        if "\ufffd" not in token + choice.text:
            assert choice.text[offset:].startswith(token)
        assert top[token] == logprob
        assert 2 <= len(top) <= 3


def test_legacy_logprobs_streamed(demo: openai.OpenAI) -> None:
    (choice,) = legacy(demo, "The capital of France is", logprobs=2).choices
    assert choice.logprobs is not None
    tokens: list[str] = []
    offsets: list[int] = []
    with demo.completions.create(
        model=DEMO, prompt="The capital of France is", temperature=0, max_tokens=12, logprobs=2, stream=True
    ) as stream:
        for chunk in stream:
            if chunk.choices[0].logprobs:
                tokens += chunk.choices[0].logprobs.tokens or []
                offsets += chunk.choices[0].logprobs.text_offset or []
    assert (tokens, offsets) == (choice.logprobs.tokens, choice.logprobs.text_offset)


def test_several_prompts_and_several_answers(demo: openai.OpenAI) -> None:
    prompts = ["The capital of France is", "The capital of Japan is"]
    together = legacy(demo, prompts, n=2, temperature=1.5, seed=7)
    alone = [legacy(demo, prompt, temperature=1.5, seed=7 + number) for prompt in prompts for number in range(2)]
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in together.choices] == [one.choices[0].text for one in alone]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone[::2] if one.usage)


def test_prompts_as_token_ids(demo: openai.OpenAI, tokenizer: Tokenizer) -> None:
    texts = ["The capital of France is", "The capital of Japan is"]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    expected = [choice.text for choice in legacy(demo, texts).choices]
    assert [choice.text for choice in legacy(demo, ids).choices] == expected
    assert [choice.text for choice in legacy(demo, ids[0]).choices] == expected[:1]


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_comes_first(demo: openai.OpenAI, stream: bool) -> None:
    prompts = ["The capital of France is", "The capital of Japan is"]
    expected = [prompt + choice.text for prompt, choice in zip(prompts, legacy(demo, prompts).choices, strict=True)]
    texts = ["", ""]
    made: Any = legacy(demo, prompts, echo=True, stream=stream)
    for part in made if stream else [made]:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"prompt": [[5, -1]]}, "prompt"),
        ({"prompt": [4096]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
    ],
    ids=str,
)
def test_completions_that_cannot_be_honoured(demo_server: ServerProcess, fields: dict[str, Any], param: str) -> None:
    body = {"model": DEMO, "prompt": "a", "max_tokens": 4, **fields}
    error = assert_error_shape(demo_server.post("/v1/completions", body), 400)
    assert error["param"].split(".")[0] == param
