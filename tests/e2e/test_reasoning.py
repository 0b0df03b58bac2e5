"""Thinking aloud: apart from the answer, streamed and not, as much of it as was asked for."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e.demo_chat import DEMO, WEATHER, Ask, calls_of, comparable, completion, streamed, user, whole
from tests.e2e.helpers import assert_error_shape
from tests.e2e.server_process import ServerProcess

CHAT = "/v1/chat/completions"
CAPITAL = "What is the capital of France?"
EXTRACT = "Tom is 34 years old. Give me JSON with the keys name and age."
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}

ways = pytest.mark.parametrize("ask", [whole, streamed], ids=["whole", "streamed"])


def thoughts(choice: Any) -> str | None:
    found: str | None = getattr(choice.message, "reasoning_content", None)
    return found


@ways
@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
    ],
    ids=str,
)
def test_thinking_is_apart_from_the_answer(demo: openai.OpenAI, ask: Ask, fields: dict[str, Any]) -> None:
    choice = ask(demo, CAPITAL, **fields)
    assert choice.message.content == "The capital of France is Paris."
    assert "capital" in (thoughts(choice) or "")
    assert "think>" not in (thoughts(choice) or "") + choice.message.content


@ways
@pytest.mark.parametrize("fields", [{}, {"reasoning_effort": "none"}], ids=str)
def test_no_thinking(demo: openai.OpenAI, ask: Ask, fields: dict[str, Any]) -> None:
    choice = ask(demo, CAPITAL, **fields)
    assert thoughts(choice) is None
    assert "reasoning_content" not in choice.message.model_dump(exclude_unset=True)
    assert choice.message.content == "The capital of France is Paris."


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 5},
        {"max_tokens": 12},
        {"stop": ["is"]},
        {"temperature": 1.5, "seed": 8, "max_tokens": 60},
        {"extra_body": {"thinking_budget": 3}},
        {"response_format": FORMAT},
        {"tools": [WEATHER]},
    ],
    ids=str,
)
def test_deltas_joined_are_the_whole_answer(demo: openai.OpenAI, fields: dict[str, Any]) -> None:
    fields = {"reasoning_effort": "high", **fields}
    expected = comparable(whole(demo, EXTRACT, **fields))
    assert expected["message"].get("reasoning_content")
    assert comparable(streamed(demo, EXTRACT, **fields)) == expected


def test_reasoning_tokens_are_counted(demo: openai.OpenAI) -> None:
    made = completion(demo, CAPITAL, reasoning_effort="high")
    assert made.usage is not None and made.usage.completion_tokens_details is not None
    thought = made.usage.completion_tokens_details.reasoning_tokens
    assert thought is not None and 5 < thought < made.usage.completion_tokens
    silent = completion(demo, CAPITAL, reasoning_effort="none")
    assert silent.usage is not None and silent.usage.completion_tokens_details is not None
    assert silent.usage.completion_tokens_details.reasoning_tokens == 0
    # The rest is the answer: as many tokens as without thinking, and the marks.
    marks = made.usage.completion_tokens - thought - silent.usage.completion_tokens
    assert 0 <= marks <= 5


@ways
def test_an_answer_that_is_all_thinking(demo: openai.OpenAI, ask: Ask) -> None:
    choice = ask(demo, CAPITAL, reasoning_effort="high", max_tokens=6)
    assert choice.finish_reason == "length"
    assert thoughts(choice)
    assert not choice.message.content


@ways
@pytest.mark.parametrize("budget", [0, 1, 4])
def test_a_budget_ends_the_thinking(demo: openai.OpenAI, ask: Ask, budget: int) -> None:
    free = thoughts(ask(demo, CAPITAL, reasoning_effort="high")) or ""
    choice = ask(demo, CAPITAL, reasoning_effort="high", extra_body={"thinking_budget": budget})
    thought = thoughts(choice) or ""
    assert free.startswith(thought) and len(thought) < len(free)
    assert len(thought.split()) <= budget
    assert choice.finish_reason == "stop"
    assert "Paris" in (choice.message.content or "")


def test_a_budget_that_is_not_used_up_changes_nothing(demo: openai.OpenAI) -> None:
    free = comparable(whole(demo, CAPITAL, reasoning_effort="high"))
    assert comparable(whole(demo, CAPITAL, reasoning_effort="high", extra_body={"thinking_budget": 500})) == free
    silent = comparable(whole(demo, CAPITAL))
    assert comparable(whole(demo, CAPITAL, extra_body={"thinking_budget": 3})) == silent


@ways
@pytest.mark.parametrize("fields", [{}, {"extra_body": {"thinking_budget": 2}}], ids=str)
def test_a_format_begins_after_the_thinking(demo: openai.OpenAI, ask: Ask, fields: dict[str, Any]) -> None:
    choice = ask(demo, EXTRACT, reasoning_effort="high", response_format=FORMAT, **fields)
    assert json.loads(choice.message.content or "") == {"name": "Tom", "age": 34}
    assert thoughts(choice) and "{" not in (thoughts(choice) or "")


@ways
def test_calls_come_after_the_thinking(demo: openai.OpenAI, ask: Ask) -> None:
    for choice_of_tools in ("auto", "required"):
        question = "What is the weather in Paris?"
        choice = ask(demo, question, reasoning_effort="high", tools=[WEATHER], tool_choice=choice_of_tools)
        assert calls_of(choice) == [("get_weather", {"city": "Paris"})]
        assert "get_weather" in (thoughts(choice) or "")
        assert not choice.message.content


def test_a_stop_string_is_not_looked_for_in_thinking(demo: openai.OpenAI) -> None:
    free = whole(demo, CAPITAL, reasoning_effort="high")
    choice = whole(demo, CAPITAL, reasoning_effort="high", stop=["Paris"])
    assert thoughts(choice) == thoughts(free) and "Paris" in (thoughts(free) or "")
    assert choice.message.content == "The capital of France is "


def test_thoughts_may_be_sent_back(demo: openai.OpenAI) -> None:
    first = whole(demo, CAPITAL, reasoning_effort="high").message.model_dump(exclude_none=True)
    messages = [user(CAPITAL), first, user("What is the capital of Japan?")]
    assert "Tokyo" in (whole(demo, messages, reasoning_effort="high").message.content or "")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": "3"}, "thinking_budget"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
    ids=str,
)
def test_what_is_malformed_is_refused_by_name(demo_server: ServerProcess, fields: dict[str, Any], param: str) -> None:
    body = {"model": DEMO, "messages": [user("hi")], "max_tokens": 4, **fields}
    assert assert_error_shape(demo_server.post(CHAT, body), 400)["param"] == param
