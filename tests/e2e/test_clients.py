"""LangChain and Instructor, unmodified, against the demo model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import httpx2
import instructor
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from tests.e2e.demo_chat import DEMO
from tests.e2e.server_process import ServerProcess

WEATHER_QUESTION = "What is the weather in Paris?"
ABOUT_TOM = "Tom is 34 years old. Give me JSON with the keys name and age."


class Person(BaseModel):
    """A person"""

    name: str = Field(description="The name")
    age: int


class Answer(BaseModel):
    """An answer with what may be missing and what is chosen from a list"""

    name: str
    age: int | None
    kind: Literal["person", "animal"]
    languages: list[str]


TOM = Person(name="Tom", age=34)


# LangChain


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with openai.DefaultHttpxClient(trust_env=False) as client:
        yield client


@pytest.fixture
async def ahttp() -> AsyncIterator[httpx2.AsyncClient]:
    async with openai.DefaultAsyncHttpxClient(trust_env=False) as client:
        yield client


@pytest.fixture
def chat(demo_server: ServerProcess, http: httpx2.Client) -> ChatOpenAI:
    return ChatOpenAI(
        model=DEMO,
        base_url=demo_server.base_url + "/v1",
        api_key="none",
        temperature=0,
        max_retries=0,
        http_client=http,
    )


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city"""
    return json.dumps({"temperature": 21, "condition": "sunny"} if city == "Paris" else {"temperature": 8})


@tool
def multiply(a: float, b: float) -> str:
    """Multiply two numbers"""
    return json.dumps({"result": a * b})


TOOLS: dict[str, BaseTool] = {"get_weather": get_weather, "multiply": multiply}


def test_langchain_invokes_and_streams(chat: ChatOpenAI) -> None:
    answer = chat.invoke("What is the capital of France?")
    assert answer.content == "The capital of France is Paris."
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 5
    runs = [list(chat.stream("What is the capital of France?")) for _ in range(5)]
    assert all("".join(str(piece.content) for piece in pieces) == answer.content for pieces in runs)
    assert any(len(pieces) > 5 for pieces in runs), "a reader that the machine holds up gets several tokens at once"


async def test_langchain_asynchronously(demo_server: ServerProcess, ahttp: httpx2.AsyncClient) -> None:
    url = demo_server.base_url + "/v1"
    chat = ChatOpenAI(model=DEMO, base_url=url, api_key="none", temperature=0, http_async_client=ahttp)
    answer = await chat.ainvoke("What is the capital of France?")
    assert answer.content == "The capital of France is Paris."


def streamed(model: Any, messages: list[BaseMessage]) -> AIMessage:
    whole: AIMessageChunk | None = None
    for piece in model.stream(messages):
        whole = piece if whole is None else whole + piece
    assert whole is not None
    return AIMessage(content=whole.content, tool_calls=whole.tool_calls)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_langchain_runs_two_tools(chat: ChatOpenAI, stream: bool) -> None:
    model = chat.bind_tools(list(TOOLS.values()))
    messages: list[BaseMessage] = [HumanMessage(WEATHER_QUESTION + " After that, what is 17 times 4?")]
    called = []
    for _ in range(4):
        answer = streamed(model, messages) if stream else model.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            break
        for call in answer.tool_calls:
            called.append((call["name"], call["args"]))
            result = TOOLS[call["name"]].invoke(call["args"])
            messages.append(ToolMessage(result, tool_call_id=call["id"] or ""))
    assert called == [("get_weather", {"city": "Paris"}), ("multiply", {"a": 17, "b": 4})]
    assert "21" in str(messages[-1].content) and "68" in str(messages[-1].content)


@pytest.mark.parametrize("choice", ["any", "required", "get_weather", True])
def test_langchain_forces_tools(chat: ChatOpenAI, choice: Any) -> None:
    tools = [get_weather] if choice is True else list(TOOLS.values())
    (call,) = chat.bind_tools(tools, tool_choice=choice, parallel_tool_calls=False).invoke(WEATHER_QUESTION).tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})


def test_langchain_strict_tools(chat: ChatOpenAI) -> None:
    (call,) = chat.bind_tools([get_weather], strict=True).invoke(WEATHER_QUESTION).tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_langchain_structured_output(chat: ChatOpenAI, method: Any) -> None:
    assert chat.with_structured_output(Person, method=method).invoke(ABOUT_TOM) == TOM
    wrapped = chat.with_structured_output(Person, method=method, include_raw=True).invoke(ABOUT_TOM)
    assert isinstance(wrapped, dict)
    assert (wrapped["parsed"], wrapped["parsing_error"]) == (TOM, None)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_langchain_structured_output_of_a_larger_model(chat: ChatOpenAI, method: Any) -> None:
    answer = chat.with_structured_output(Answer, method=method).invoke("Tom is 34 years old and speaks French.")
    assert isinstance(answer, Answer)


def test_langchain_streams_structured_output(chat: ChatOpenAI) -> None:
    schema = {**Person.model_json_schema(), "title": "person"}
    structured = chat.with_structured_output(schema, method="json_schema")
    runs = [list(structured.stream(ABOUT_TOM)) for _ in range(5)]
    assert all(seen[-1] == {"name": "Tom", "age": 34} for seen in runs)
    assert any(len(seen) > 1 for seen in runs), "a reader that the machine holds up gets all at once, but not always"


def test_langchain_logprobs(chat: ChatOpenAI) -> None:
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke("What is the capital of France?")
    content = answer.response_metadata["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == answer.content


# Instructor


def instructed(server: ServerProcess, http: httpx2.Client, mode: instructor.Mode) -> instructor.Instructor:
    client = openai.OpenAI(base_url=server.base_url + "/v1", api_key="none", max_retries=0, http_client=http)
    return instructor.from_openai(client, mode=mode)


modes = pytest.mark.parametrize(
    "mode", [instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA], ids=lambda mode: mode.value
)
REQUEST: dict[str, Any] = {
    "model": DEMO,
    "messages": [{"role": "user", "content": ABOUT_TOM}],
    "response_model": Person,
    "temperature": 0,
    "max_retries": 0,
}


@modes
def test_instructor(demo_server: ServerProcess, http: httpx2.Client, mode: instructor.Mode) -> None:
    made = instructed(demo_server, http, mode).chat.completions.create(**REQUEST)
    assert made.model_dump() == TOM.model_dump()


@modes
def test_instructor_streams(demo_server: ServerProcess, http: httpx2.Client, mode: instructor.Mode) -> None:
    *_, last = instructed(demo_server, http, mode).chat.completions.create_partial(**REQUEST)
    assert last.model_dump() == TOM.model_dump()
