"""Tool calls: the official client, every tool_choice, streamed and not, forced arguments that are always valid."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from tests.e2e.demo_chat import (
    DEMO,
    MESSAGE,
    MULTIPLY,
    WEATHER,
    Ask,
    Tool,
    calls_of,
    comparable,
    completion,
    converse,
    streamed,
    tool,
    user,
    whole,
)
from tests.e2e.helpers import assert_error_shape, http_client
from tests.e2e.server_process import ServerProcess
from tests.text.json_schemas import assert_valid

CHAT = "/v1/chat/completions"
WEATHER_QUESTION = "What is the weather in Paris?"
TWO_CITIES = "What is the weather in Paris and Rome?"
NAMED = {"type": "function", "function": {"name": "get_weather"}}

ways = pytest.mark.parametrize("ask", [whole, streamed], ids=["whole", "streamed"])


# Conversations


@ways
@pytest.mark.parametrize(
    ("question", "tools", "called", "said"),
    [
        (WEATHER_QUESTION, [WEATHER, MULTIPLY], ["get_weather"], "21"),
        (
            "What is the weather in Paris? After that, what is 17 times 4?",
            [WEATHER, MULTIPLY],
            ["get_weather", "multiply"],
            "68",
        ),
        (
            "First: What is 17 times 4? Then what is the weather in Paris?",
            [WEATHER, MULTIPLY],
            ["multiply", "get_weather"],
            "68",
        ),
        (
            "What is the weather in Paris? Then tell Anna the temperature.",
            [WEATHER, MESSAGE],
            ["get_weather", "send_message"],
            "sent 21 to Anna",
        ),
        (TWO_CITIES, [WEATHER], ["get_weather", "get_weather"], "sunny"),
        ("What is the capital of France?", [WEATHER, MULTIPLY], [], "Paris"),
    ],
)  # fmt: skip
def test_a_conversation_ends_in_the_right_answer(
    demo: openai.OpenAI, ask: Ask, question: str, tools: list[Tool], called: list[str], said: str
) -> None:
    names, answer = converse(demo, ask, question, tools)
    assert names == called
    assert said in answer


def test_results_come_back_by_their_ids(demo: openai.OpenAI) -> None:
    """Every call has an id of its own, in one answer and in the next."""
    ids = [call.id for _ in range(2) for call in whole(demo, TWO_CITIES, tools=[WEATHER]).message.tool_calls or []]
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    "arguments", ['{"city": "Paris"}', {"city": "Paris"}, "", "{}", "no json", None], ids=lambda value: str(value)
)
def test_any_history_of_arguments_is_taken(demo_server: ServerProcess, arguments: Any) -> None:
    """Clients send back strings, some send objects, and models have written worse."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    messages = [
        user(WEATHER_QUESTION),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 21}'},
    ]
    body = {"model": DEMO, "messages": messages, "tools": [WEATHER], "temperature": 0, "max_tokens": 40}
    answer = demo_server.post(CHAT, body)
    assert answer.status_code == 200, answer.text
    if arguments == '{"city": "Paris"}':
        assert "21" in answer.json()["choices"][0]["message"]["content"]


# Streamed and not


@pytest.mark.parametrize(
    ("question", "fields"),
    [
        (WEATHER_QUESTION, {}),
        (TWO_CITIES, {}),
        (TWO_CITIES, {"parallel_tool_calls": False}),
        (WEATHER_QUESTION, {"tool_choice": "required"}),
        ("What is the capital of France?", {"tool_choice": NAMED}),
        ("What is the capital of France?", {}),
        (WEATHER_QUESTION, {"tool_choice": "none"}),
        (WEATHER_QUESTION, {"reasoning_effort": "high"}),
        (WEATHER_QUESTION, {"reasoning_effort": "high", "tool_choice": "required"}),
        (WEATHER_QUESTION, {"max_tokens": 12}),
        (TWO_CITIES, {"max_tokens": 30}),
        (WEATHER_QUESTION, {"stop": ["Paris"]}),
        ("What is 17 times 4?", {"temperature": 1, "seed": 3}),
        ("What is 17 times 4?", {"temperature": 2, "seed": 4, "max_tokens": 60}),
    ],
    ids=str,
)
def test_deltas_joined_are_the_whole_answer(demo: openai.OpenAI, question: str, fields: dict[str, Any]) -> None:
    fields = {"tools": [WEATHER, MULTIPLY], **fields}
    expected = comparable(whole(demo, question, **fields))
    assert comparable(streamed(demo, question, **fields)) == expected


def test_arguments_come_as_they_are_written(demo: openai.OpenAI) -> None:
    runs = []
    for _ in range(5):
        chunks = list(
            demo.chat.completions.create(
                model=DEMO, messages=[user(WEATHER_QUESTION)], tools=[WEATHER], temperature=0, stream=True
            )  # type: ignore[call-overload]
        )
        pieces = [call.function.arguments for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert pieces[0] == ""
        assert json.loads("".join(pieces)) == {"city": "Paris"}
        runs.append(pieces)
    assert any(len(pieces) > 4 for pieces in runs), "a reader that is held up gets several tokens at once"


def test_a_stop_string_is_not_looked_for_in_calls(demo: openai.OpenAI) -> None:
    choice = whole(demo, WEATHER_QUESTION, tools=[WEATHER], stop=["Paris", "city", "{"])
    assert (choice.finish_reason, calls_of(choice)) == ("tool_calls", [("get_weather", {"city": "Paris"})])


def test_a_call_that_is_cut(demo: openai.OpenAI) -> None:
    """Its arguments so far, and finish_reason length: the client can tell."""
    choice = whole(demo, WEATHER_QUESTION, tools=[WEATHER], max_tokens=14)
    assert choice.finish_reason == "length"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert 0 < len(call.function.arguments) < len('{"city": "Paris"}')
    assert '{"city": "Paris"}'.startswith(call.function.arguments)


# The client's own helpers


class GetWeather(BaseModel):
    """Get the weather of a city"""

    city: str


def test_parse_gives_arguments_as_models(demo: openai.OpenAI) -> None:
    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather")]
    made = demo.chat.completions.parse(
        model=DEMO, messages=[{"role": "user", "content": WEATHER_QUESTION}], tools=tools, temperature=0
    )
    (call,) = made.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Paris")


def test_the_stream_helper(demo: openai.OpenAI) -> None:
    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather")]
    kinds: Counter[str] = Counter()
    arguments = ""
    with demo.chat.completions.stream(
        model=DEMO,
        messages=[{"role": "user", "content": WEATHER_QUESTION}],
        tools=tools,
        temperature=0,
        stream_options={"include_usage": True},
    ) as stream:
        for event in stream:
            kinds[event.type] += 1
            if event.type == "tool_calls.function.arguments.delta":
                arguments += event.arguments_delta
            if event.type == "tool_calls.function.arguments.done":
                assert event.parsed_arguments == GetWeather(city="Paris")
        final = stream.get_final_completion()
    assert kinds["tool_calls.function.arguments.done"] == 1
    assert kinds["tool_calls.function.arguments.delta"] >= 1  # the helper is slow: it may get several tokens at once
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.function.parsed_arguments, call.function.arguments) == (GetWeather(city="Paris"), arguments)
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.usage is not None and final.usage.completion_tokens > 10


# What may be called


@ways
def test_parallel_calls_can_be_turned_off(demo: openai.OpenAI, ask: Ask) -> None:
    assert len(calls_of(ask(demo, TWO_CITIES, tools=[WEATHER]))) == 2
    one = ask(demo, TWO_CITIES, tools=[WEATHER], parallel_tool_calls=False)
    assert (one.finish_reason, calls_of(one)) == ("tool_calls", [("get_weather", {"city": "Paris"})])
    forced = ask(demo, TWO_CITIES, tools=[WEATHER], parallel_tool_calls=False, tool_choice="required")
    assert calls_of(forced) == [("get_weather", {"city": "Paris"})]


@ways
def test_none_is_as_if_there_were_no_tools(demo: openai.OpenAI, ask: Ask) -> None:
    choice = ask(demo, WEATHER_QUESTION, tools=[WEATHER], tool_choice="none")
    assert choice.message.tool_calls is None
    assert comparable(choice) == comparable(ask(demo, WEATHER_QUESTION))


@ways
def test_required_and_named_call_where_auto_does_not(demo: openai.OpenAI, ask: Ask) -> None:
    question, tools = "What is the capital of France?", [WEATHER, MULTIPLY]
    auto = ask(demo, question, tools=tools, tool_choice="auto")
    assert (auto.finish_reason, calls_of(auto)) == ("stop", [])
    required = ask(demo, question, tools=tools, tool_choice="required")
    assert required.finish_reason == "tool_calls" and calls_of(required)
    assert required.message.content is None
    for name in ("get_weather", "multiply"):
        chosen = {"type": "function", "function": {"name": name}}
        named = ask(demo, question, tools=tools, tool_choice=chosen)
        assert [called for called, _ in calls_of(named)] == [name]


def test_several_answers_with_calls_each(demo: openai.OpenAI) -> None:
    made = completion(demo, WEATHER_QUESTION, tools=[WEATHER], tool_choice="required", n=3, temperature=1, seed=5)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert [name for choice in made.choices for name, _ in calls_of(choice)] == ["get_weather"] * 3


FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}


@pytest.mark.parametrize(
    ("fields", "param", "because"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice", "nobody"),
        ({"tool_choice": "sometimes"}, "tool_choice", "'none', 'auto' or 'required'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "function"),
        ({"tool_choice": 5}, "tool_choice", "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": None, "tool_choice": NAMED}, "tool_choice", "no tools"),
        ({"tools": "f"}, "tools", "list"),
        ({"tools": [FUNCTION]}, "tools", "type"),
        ({"tools": [{"type": "function"}]}, "tools", "function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools", "name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "name"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools", "name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools", "parameters"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools",
            "object",
        ),
        ({"tools": [{"type": "retrieval"}]}, "tools", "type"),
        ({"tools": [{"type": "function", "function": FUNCTION}] * 2}, "tools", "'f'"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "parallel_tool_calls"),
    ],
    ids=str,
)
def test_what_is_malformed_is_refused_by_name(
    demo_server: ServerProcess, fields: dict[str, Any], param: str, because: str
) -> None:
    body = {"model": DEMO, "messages": [user("hi")], "tools": [WEATHER], "max_tokens": 8, **fields}
    error = assert_error_shape(demo_server.post(CHAT, body), 400)
    assert error["param"].split(".")[0] == param
    assert because in error["message"]


@pytest.mark.parametrize("fields", [{"tool_choice": "required"}, {"strict": True}, {"format": True}], ids=str)
def test_parameters_that_nothing_can_be_held_to_are_refused(demo_server: ServerProcess, fields: dict[str, Any]) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {"type": "integer"}}}}}
    if fields.get("strict"):
        function["strict"] = True
    body = {"model": DEMO, "messages": [user("hi")], "tools": [{"type": "function", "function": function}]}
    if "tool_choice" in fields:
        body["tool_choice"] = fields["tool_choice"]
    if fields.get("format"):
        body["response_format"] = {"type": "json_object"}
    error = assert_error_shape(demo_server.post(CHAT, body), 400)
    assert error["param"].startswith("tools")
    assert '"not" is not supported' in error["message"]


def test_parameters_of_any_kind_are_fine_where_nothing_is_forced(demo: openai.OpenAI) -> None:
    odd = {"type": "object", "properties": {"city": {"type": "string", "not": {"const": "Rome"}}}, "required": ["city"]}
    function = {**WEATHER["function"], "parameters": odd}
    choice = whole(demo, WEATHER_QUESTION, tools=[{"type": "function", "function": function}])
    assert calls_of(choice) == [("get_weather", {"city": "Paris"})]


# Forced calls are valid, whatever the model would rather say

FORCED: dict[str, dict[str, Any]] = {
    "book": {
        "guest": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 5}, "ip": {"type": "string", "format": "ipv4"}},
            "required": ["name", "ip"],
            "additionalProperties": False,
        }
    },
    "paint": {"colours": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 3}},
    "rate": {"stars": {"type": "integer", "minimum": 1, "maximum": 30}, "public": {"type": "boolean"}},
    "plan": {"hours": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 9}, "maxItems": 3}},
    "ship": {"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"}},
    "note": {"text": {"anyOf": [{"type": "string", "maxLength": 6}, {"type": "null"}]}, "id": {"type": "integer"}},
}
TOOLS = [tool(name, "", **properties) for name, properties in FORCED.items()]
SCHEMAS = {entry["function"]["name"]: entry["function"]["parameters"] for entry in TOOLS}
# The demo model reads 35,000 tokens of prompts for 200 requests: set QUINCE_TEST_FORCED_CALLS=200 for all of them.
REQUESTS = {"random_server": 200, "demo_server": int(os.environ.get("QUINCE_TEST_FORCED_CALLS", "48"))}


def forced_body(number: int) -> dict[str, Any]:
    """Half of them name a function, the others offer one or two."""
    chosen = TOOLS[number % len(TOOLS)]
    tools = [chosen, TOOLS[(number + 1) % len(TOOLS)]] if number % 8 == 0 else [chosen]
    named = {"type": "function", "function": {"name": chosen["function"]["name"]}}
    return {
        "messages": [user("Go.")],
        "tools": tools,
        "tool_choice": named if number % 2 else "required",
        "parallel_tool_calls": number % 4 == 0,
        "temperature": 1,
        "seed": number,
        "max_tokens": 1500,
    }


@pytest.mark.parametrize("fixture", REQUESTS)
async def test_all_forced_calls_are_valid(fixture: str, request: pytest.FixtureRequest) -> None:
    served: ServerProcess = request.getfixturevalue(fixture)
    slots = asyncio.Semaphore(16)

    async def post(http: httpx2.AsyncClient, body: dict[str, Any]) -> httpx2.Response:
        async with slots:
            return await http.post(CHAT, json=body)

    bodies = [forced_body(number) for number in range(REQUESTS[fixture])]
    async with http_client(served.base_url) as http:
        answers = await asyncio.gather(*(post(http, body) for body in bodies))
    called: Counter[str] = Counter()
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        assert choice["finish_reason"] == "tool_calls", choice
        calls = choice["message"]["tool_calls"]
        assert body["parallel_tool_calls"] or len(calls) == 1
        for call in calls:
            name = call["function"]["name"]
            assert name in [entry["function"]["name"] for entry in body["tools"]]
            assert_valid(call["function"]["arguments"], SCHEMAS[name])
            called[name] += 1
    assert set(called) == set(FORCED)
