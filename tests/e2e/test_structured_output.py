"""Answers held to a form: the official client, every kind of format, hundreds of schemas, and what a hard one costs."""

from __future__ import annotations

import asyncio
import enum
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.e2e.demo_chat import DEMO, MULTIPLY, WEATHER, Ask, comparable, streamed, user, whole
from tests.e2e.helpers import assert_error_shape, async_client, eventually, http_client
from tests.e2e.server_process import ServerProcess
from tests.text import json_schemas
from tests.text.json_schemas import Schema, assert_valid

CHAT = "/v1/chat/completions"
TOM_IS = "Tom is 34 years old, lives in Lyon and speaks French and German."
EXTRACT = f"Give me JSON with name, age, city and languages: {TOM_IS}"
ABOUT_TOM = "Tom is 34 years old. Give me JSON with the keys name and age."

ways = pytest.mark.parametrize("ask", [whole, streamed], ids=["whole", "streamed"])


def schema_format(schema: Schema | bool) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


# The client's own helpers


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Home(BaseModel):
    city: str
    colour: Colour | None


class Person(BaseModel):
    name: str
    age: int
    home: Home
    languages: list[str]
    pet: str | None


TOM = Person(name="Tom", age=34, home=Home(city="Lyon", colour=None), languages=["French", "German"], pet=None)


def test_parse_gives_models(demo: openai.OpenAI) -> None:
    """Nested, a list, an enum, and what may be null."""
    made = demo.chat.completions.parse(
        model=DEMO, messages=[{"role": "user", "content": EXTRACT}], response_format=Person, temperature=0
    )
    assert made.choices[0].message.parsed == TOM
    assert made.choices[0].finish_reason == "stop"


def test_the_stream_helper_parses_what_there_is_so_far(demo: openai.OpenAI) -> None:
    text, seen = "", []
    with demo.chat.completions.stream(
        model=DEMO, messages=[{"role": "user", "content": EXTRACT}], response_format=Person, temperature=0
    ) as stream:
        for event in stream:
            if event.type == "content.delta":
                text += event.delta
                seen.append(event.parsed)
            if event.type == "content.done":
                assert (event.content, event.parsed) == (text, TOM)
        assert stream.get_final_completion().choices[0].message.parsed == TOM
    # How many parts there are between these two depends on how busy the machine is.
    assert not seen[0] and seen[-1] == TOM.model_dump(), seen


def test_parse_of_a_cut_answer_says_so(demo: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        demo.chat.completions.parse(
            model=DEMO,
            messages=[{"role": "user", "content": EXTRACT}],
            response_format=Person,
            temperature=0,
            max_tokens=9,
        )


# Every kind of format


@ways
def test_json_object(demo: openai.OpenAI, ask: Ask) -> None:
    choice = ask(demo, ABOUT_TOM, response_format={"type": "json_object"})
    assert choice.finish_reason == "stop"
    assert json.loads(choice.message.content or "") == {"name": "Tom", "age": 34}


@ways
def test_text_is_no_format(demo: openai.OpenAI, ask: Ask) -> None:
    question = "What is the capital of France?"
    assert comparable(ask(demo, question, response_format={"type": "text"})) == comparable(ask(demo, question))


@ways
@pytest.mark.parametrize(
    ("guided", "expected"),
    [
        ({"guided_choice": ["Rome", "Paris", "Berlin"]}, "Paris"),
        ({"guided_choice": ["It is Rome.", "It is 🍐."]}, "It is (Rome|🍐)\\."),
        ({"guided_regex": "[A-Z][a-z]{3,9}!"}, "[A-Z][a-z]{3,9}!"),
        ({"guided_grammar": 'start: "Answer: " WORD\nWORD: /[A-Z][a-z]+/'}, "Answer: [A-Z][a-z]+"),
        (
            {"guided_json": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}},
            r"\[[12], [12]\]",
        ),
        ({"guided_json": '{"const": "yes"}'}, '"yes"'),
    ],
    ids=str,
)
def test_guided(demo: openai.OpenAI, ask: Ask, guided: dict[str, Any], expected: str) -> None:
    choice = ask(demo, "What is the capital of France?", extra_body=guided, max_tokens=60)
    assert re.fullmatch(expected, choice.message.content or ""), choice.message.content
    assert choice.finish_reason == "stop"


def test_completions_take_formats_too(demo: openai.OpenAI) -> None:
    made = demo.completions.create(
        model=DEMO,
        prompt=["The capital of France is", "2 + 3 ="],
        max_tokens=30,
        extra_body={"guided_regex": " [A-Z][a-z]+\\.| [0-9]\\."},
    )
    assert [bool(re.fullmatch(" [A-Z][a-z]+\\.| [0-9]\\.", choice.text)) for choice in made.choices] == [True, True]


@ways
def test_a_stop_string_ends_what_is_held_to_a_form(demo: openai.OpenAI, ask: Ask) -> None:
    choice = ask(demo, EXTRACT, response_format=schema_format(Person.model_json_schema()), stop=['"home"'])
    assert choice.finish_reason == "stop"
    assert choice.message.content == '{"name": "Tom", "age": 34, '


@ways
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_max_tokens_cuts(demo: openai.OpenAI, ask: Ask, count: int) -> None:
    fields: dict[str, Any] = {"response_format": schema_format(Person.model_json_schema())}
    complete = ask(demo, EXTRACT, **fields).message.content or ""
    choice = ask(demo, EXTRACT, max_tokens=count, **fields)
    assert choice.finish_reason == "length"
    assert choice.message.content and complete.startswith(choice.message.content)


@ways
def test_a_format_with_tools_answers_or_calls(demo: openai.OpenAI, ask: Ask) -> None:
    fields: dict[str, Any] = {"tools": [WEATHER, MULTIPLY], "response_format": schema_format({"enum": ["yes", "no"]})}
    called = ask(demo, "What is the weather in Paris?", **fields)
    assert called.finish_reason == "tool_calls"
    said = ask(demo, "What is the capital of France?", **fields, tool_choice="none")
    assert json.loads(said.message.content or "") in ("yes", "no")


def test_ignore_eos_does_not_go_on_behind_the_form(demo: openai.OpenAI) -> None:
    choice = whole(demo, "Hi", extra_body={"guided_choice": ["done"], "ignore_eos": True}, max_tokens=50)
    assert (choice.message.content, choice.finish_reason) == ("done", "stop")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}}, "response_format"),
        ({"response_format": schema_format(False)}, "response_format"),
        ({"response_format": schema_format({"type": "text"})}, "response_format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [5]}, "guided_choice"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"guided_grammar": ""}, "guided_grammar"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_followed_is_refused_by_name(
    demo_server: ServerProcess, fields: dict[str, Any], param: str, stream: bool
) -> None:
    body = {"model": DEMO, "messages": [user("hi")], "max_tokens": 4, "stream": stream, **fields}
    error = assert_error_shape(demo_server.post(CHAT, body), 400)
    assert error["param"].split(".")[0] == param
    assert param in error["message"]


# Many schemas, many at once


async def post_all(server: ServerProcess, bodies: list[dict[str, Any]]) -> list[httpx2.Response]:
    """Sixteen at a time."""
    slots = asyncio.Semaphore(16)

    async def post(http: httpx2.AsyncClient, body: dict[str, Any]) -> httpx2.Response:
        async with slots:
            return await http.post(CHAT, json=body)

    async with http_client(server.base_url) as http:
        return list(await asyncio.gather(*(post(http, body) for body in bodies)))


def noise(schema: Schema, seed: int = 1) -> dict[str, Any]:
    return {
        "messages": [user("Go.")],
        "response_format": schema_format(schema),
        "temperature": 1,
        "seed": seed,
        "max_tokens": 200,
    }


async def test_answers_through_http_are_valid(random_server: ServerProcess) -> None:
    """Some schemas of each topic (tests/text/test_output_format.py has all of them), by a model that knows nothing."""
    schemas = [schema for topic in json_schemas.topics() for schema in json_schemas.answered(topic)[1::9][:4]]
    assert len(schemas) >= 40
    ended = 0
    for schema, answer in zip(schemas, await post_all(random_server, list(map(noise, schemas))), strict=True):
        assert answer.status_code == 200, (schema, answer.text)
        (choice,) = answer.json()["choices"]
        if choice["finish_reason"] == "stop":
            assert_valid(choice["message"]["content"], schema)
            ended += 1
        else:
            assert choice["finish_reason"] == "length"
    assert ended > len(schemas) / 2


async def test_refusals_through_http(random_server: ServerProcess) -> None:
    cases = [case for topic in json_schemas.topics() for case in json_schemas.refused(topic)[::4][:4]]
    assert len(cases) >= 20
    answers = await post_all(random_server, [noise(schema) for schema, _ in cases])
    for (schema, because), answer in zip(cases, answers, strict=True):
        assert answer.status_code == 400, (schema, answer.text)
        error = assert_error_shape(answer, 400)
        assert error["param"] == "response_format"
        assert error["message"].startswith("response_format") and because in error["message"]


PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}, "required": ["name"]}
ALL_KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1, "seed": 1},
    {"temperature": 1, "seed": 2, "top_p": 0.8, "top_k": 50},
    {"temperature": 0, "frequency_penalty": 1.5},
    {"temperature": 0.8, "seed": 3, "presence_penalty": 1.0, "repetition_penalty": 1.2},
    {"temperature": 0, "repetition_penalty": 1.5, "max_tokens": 70},
    {"temperature": 0, "logit_bias": {"300": 5, "301": -100}, "max_tokens": 13},
    {"temperature": 0, "logprobs": True, "top_logprobs": 3},
    {"temperature": 1, "seed": 4, "logprobs": True, "frequency_penalty": 0.5},
    {"temperature": 1, "seed": 5, "response_format": schema_format(PERSON), "max_tokens": 80},
    {"temperature": 1, "seed": 6, "response_format": {"type": "json_object"}, "logprobs": True, "top_logprobs": 2},
    {"temperature": 1, "seed": 7, "guided_regex": "[a-z ]{20,60}", "presence_penalty": 0.7},
    {"temperature": 1, "seed": 8, "tools": [WEATHER, MULTIPLY], "tool_choice": "required"},
    {"temperature": 0, "tools": [MULTIPLY], "parallel_tool_calls": False},
    {"temperature": 1, "seed": 9, "reasoning_effort": "high", "thinking_budget": 7},
    {"temperature": 1.3, "seed": 10, "min_p": 0.05, "n": 2, "stop": ["e"]},
]


@pytest.mark.parametrize("fixture", ["random_server", "demo_server"])
async def test_all_of_it_at_once_is_what_each_is_alone(fixture: str, request: pytest.FixtureRequest) -> None:
    server: ServerProcess = request.getfixturevalue(fixture)
    bodies = [
        {"messages": [user("Count from 1 to 20." + " pear" * (7 * number % 30))], "max_tokens": 30 + number, **fields}
        for number, fields in enumerate(ALL_KINDS)
    ]
    assert len(bodies) == 16
    alone = [answer_of(server.post(CHAT, body)) for body in bodies]
    for _ in range(2):
        assert [answer_of(answer) for answer in await post_all(server, bodies)] == alone


def answer_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """The choices, without what differs every time."""
    assert response.status_code == 200, response.text
    choices: list[dict[str, Any]] = response.json()["choices"]
    for choice in choices:
        for call in choice["message"].get("tool_calls", []):
            del call["id"]
        for entry in (choice["logprobs"] or {}).get("content", []):  # the same to the last bits of a float
            entry["logprob"] = round(entry["logprob"], 2)
            entry["top_logprobs"] = [round(top["logprob"], 2) for top in entry["top_logprobs"]]
    return choices


# What is hard is hard for itself alone

STALL = 2.0  # seconds that a stream may pause on a busy machine; 0.2 was seen beside four other processes


@asynccontextmanager
async def undisturbed(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    """A stream runs beside the block: it goes on all the time, says what it says alone, in the same engine."""
    body: dict[str, Any] = {
        "model": "default",
        "messages": [{"role": "user", "content": "Go on."}],
        "max_tokens": 8000,  # more than the block takes
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    engine = server.engine().pid
    pauses, text = [0.0], []
    leave = asyncio.Event()

    async def follow(client: AsyncOpenAI) -> None:
        before = time.monotonic()
        async with await client.chat.completions.create(stream=True, **body) as stream:
            async for chunk in stream:
                now = time.monotonic()
                pauses.append(now - before)
                before = now
                text.append(chunk.choices[0].delta.content or "")
                if leave.is_set():
                    return

    async def begun() -> bool:
        return len(text) > 3

    async with async_client(server.base_url) as client:
        following = asyncio.create_task(follow(client))
        await eventually(begun, within=30, what="the stream begins")
        yield client
        assert not following.done(), "the stream ended before the block did"
        leave.set()
        await following
        said = "".join(text)
        alone = await client.chat.completions.create(**{**body, "max_tokens": 60})
    shorter, longer = sorted((said, alone.choices[0].message.content or ""), key=len)  # by how long the block took
    assert longer.startswith(shorter.rstrip("\ufffd")) and shorter
    assert max(pauses) < STALL
    assert server.engine().pid == engine


async def status(client: AsyncOpenAI, **fields: Any) -> int:
    """The status of a request with a format of any kind."""
    try:
        await client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "Go."}],
            max_tokens=8,
            extra_body={"ignore_eos": True, **fields},
        )
    except openai.APIStatusError as error:
        assert "Traceback" not in error.message and "<state>" not in error.message
        return error.status_code
    return 200


HARD = [
    {"guided_regex": "(a{1,1000}){1,1000}b"},
    {"guided_regex": "x(a?){500}a{500}"},
    {"guided_regex": "(a|b)*a(a|b){200}"},
    {"guided_regex": "(.*a){40}"},
    {"guided_choice": [f"option {number} of many" for number in range(1000)]},
    {"guided_grammar": "start: " + " ".join(f"r{number}" for number in range(500)) + "\n"
     + "\n".join(f'r{number}: "a" | "b"' for number in range(500))},
    {"response_format": schema_format({"enum": [f"value {number}" for number in range(20000)]})},
    {"response_format": schema_format({"type": "object", "properties": {f"p{number}": {} for number in range(2000)}})},
    {"response_format": schema_format({"type": "integer", "multipleOf": 99999989, "minimum": 1})},
    {"response_format": schema_format({"enum": ["x" * 2**20]})},
    {"response_format": schema_format({"description": "y" * 2**20})},
]  # fmt: skip


async def test_hard_formats_disturb_nobody(random_server: ServerProcess) -> None:
    async with undisturbed(random_server) as client:
        statuses = [await status(client, **fields) for fields in HARD]
        assert set(statuses) <= {200, 400}, statuses
        assert set(await asyncio.gather(*(status(client, **fields) for fields in HARD))) <= {200, 400}


async def test_fifty_schemas_at_once_disturb_nobody(random_server: ServerProcess) -> None:
    schemas = [
        {"type": "object", "properties": {f"field_{number}": {"type": "integer"}}, "required": [f"field_{number}"]}
        for number in range(50)
    ]
    async with undisturbed(random_server) as client:
        statuses = await asyncio.gather(*(status(client, response_format=schema_format(each)) for each in schemas))
    assert statuses == [200] * 50


async def test_leaving_while_a_grammar_compiles(random_server: ServerProcess) -> None:

    async def idle() -> bool:
        stats = random_server.stats()
        return stats["open_requests"] == 1 and stats["waiting"] == 0 and stats["running"] == 1

    async with undisturbed(random_server) as client:
        for fields in HARD[:8]:
            asked = asyncio.create_task(status(client, **fields))
            await asyncio.sleep(0.02)
            asked.cancel()
        await eventually(idle, within=30, what="only the stream is left")
        assert await status(client, guided_choice=["fine"]) == 200
