"""Requests that are wrong: each gets its 4xx in OpenAI's shape, and a stream beside all of them never notices."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.helpers import assert_error_shape, chat_body, sse_events
from tests.e2e.server_process import ServerProcess, wait_for

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
JSON = {"content-type": "application/json"}
USER = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
HUGE = 10**30


class Bystander(threading.Thread):
    """Streams one long answer after another, so that a stream is open at any moment, and keeps what they said."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__()
        self._server = server
        self._leave = threading.Event()
        self.texts: list[str] = []
        self.pieces = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with httpx2.Client(trust_env=False, timeout=60) as http:
                while not self._leave.is_set():
                    self.texts.append(self._stream(http))
        except (httpx2.HTTPError, AssertionError) as error:
            self.error = error

    def _stream(self, http: httpx2.Client) -> str:
        body = chat_body("I stand by.", max_tokens=1500, stream=True)
        text = ""
        with http.stream("POST", self._server.base_url + CHAT, json=body) as response:
            assert response.status_code == 200
            for piece in response.iter_text():
                self.pieces += 1
                text += piece
        assert text.endswith("data: [DONE]\n\n")
        return "".join(event["choices"][0]["delta"].get("content", "") for event in sse_events(text))

    def leave(self) -> None:
        self._leave.set()
        self.join(60)
        assert not self.is_alive()


@pytest.fixture(scope="module", autouse=True)
def undisturbed(server: ServerProcess) -> Iterator[Bystander]:
    """Around the whole file: the stream goes on, says what it says alone, and the engine stays the same."""
    answer = server.post(CHAT, chat_body("I stand by.", max_tokens=1500)).json()
    engine = server.engine().pid
    bystander = Bystander(server)
    bystander.start()
    wait_for(lambda: bystander.pieces > 5, within=10, what="the bystander's stream runs")
    yield bystander
    bystander.leave()
    assert bystander.error is None
    assert bystander.texts and set(bystander.texts) == {answer["choices"][0]["message"]["content"]}
    assert server.engine().pid == engine
    assert server.health().json()["models"]["tiny-chat"]["restarts"] == 0
    assert "Traceback" not in server.logs()
    wait_for(lambda: (stats := server.stats())["running"] == stats["waiting"] == 0, within=2, what="nothing runs")


@pytest.fixture(autouse=True)
def goes_on(undisturbed: Bystander) -> Iterator[None]:
    """After each test the bystander still gets text."""
    yield
    before = undisturbed.pieces
    wait_for(lambda: undisturbed.pieces > before or undisturbed.error, within=5, what="the bystander goes on")
    assert undisturbed.error is None


def raw(server: ServerProcess, content: bytes, path: str = CHAT, headers: dict[str, str] = JSON) -> httpx2.Response:
    return server.http.post(server.base_url + path, content=content, headers=headers)


# Bodies


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"messages": [}',
        b"not json",
        b'{"messages": [{"role": "user", "content": "hi"}]} trailing',
        b"\x00",
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b"\xef\xbb\xbf\xff",
        b"[1, 2, 3]",
        b"[]",
        b'"messages"',
        b"17",
        b"null",
        b"{}",
    ],
    ids=repr,
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_bodies_that_are_no_request(server: ServerProcess, path: str, content: bytes) -> None:
    error = assert_error_shape(raw(server, content, path), 400)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deeply_nested_json(server: ServerProcess, opening: str) -> None:
    nested = opening * 100_000
    assert_error_shape(raw(server, nested.encode()), 400)
    closing = "]" if opening == "[" else "}"
    whole = '{"messages": ' + opening * 5000 + "1" + closing * 5000 + "}"
    assert_error_shape(raw(server, whole.encode()), 400)


@pytest.mark.parametrize("field", ["messages", "model", "stop", "metadata", "unknown"])
def test_lone_surrogates(server: ServerProcess, field: str) -> None:
    """No UTF-8 can carry them: not in a prompt or a name. Where they are of no consequence they may pass."""
    value = "half \\ud83d of a pair"
    parts = {"messages": json.dumps(USER), "max_tokens": "2"}
    parts |= {
        "messages": {"messages": f'[{{"role": "user", "content": "{value}"}}]'},
        "model": {"model": f'"{value}"'},
        "stop": {"stop": f'["{value}"]'},
        "metadata": {"metadata": f'{{"a": "{value}"}}'},
        "unknown": {value: f'"{value}"'},
    }[field]
    content = "{" + ", ".join(f'"{name}": {part}' for name, part in parts.items()) + "}"
    answer = raw(server, content.encode("ascii"))
    if field in ("messages", "model"):
        assert answer.status_code in (400, 404)
    if answer.status_code != 200:
        assert answer.status_code in (400, 404)
        assert_error_shape(answer, answer.status_code)


def test_a_body_of_50_mb(server: ServerProcess) -> None:
    content = json.dumps(chat_body("a" * 50_000_000)).encode()
    error = assert_error_shape(raw(server, content), 413)
    assert error["type"] == "invalid_request_error"


def test_a_body_of_50_mb_in_chunks(server: ServerProcess) -> None:
    """Without a content-length: counted as it comes."""

    def chunks() -> Iterator[bytes]:
        yield b'{"messages": [{"role": "user", "content": "'
        for _ in range(50):
            yield b"a" * 1_000_000
        yield b'"}]}'

    answer = server.http.post(server.base_url + CHAT, content=chunks(), headers=JSON)
    assert_error_shape(answer, 413)


def test_a_body_that_never_ends(server: ServerProcess) -> None:
    """A client that announces more than it sends waits for itself alone, and leaving frees everything."""
    url = httpx2.URL(server.base_url)
    with socket.create_connection((url.host, url.port or 80), timeout=5) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b'{"messages": ')
        assert server.health().status_code == 200


def test_no_content_type(server: ServerProcess) -> None:
    """As with OpenAI's server, JSON is asked for; taking it without its name is as good."""
    content = json.dumps(chat_body(max_tokens=2)).encode()
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        answer = raw(server, content, headers=headers)
        if answer.status_code != 200:
            assert answer.status_code in (400, 415)
            assert_error_shape(answer, answer.status_code)


# Routes


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/cancel"])
def test_a_get_of_a_post_route(server: ServerProcess, path: str) -> None:
    answer = server.get(path)
    assert_error_shape(answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/chat/completions/x", "/v1/models/../../etc/passwd"])
def test_unknown_paths(server: ServerProcess, path: str) -> None:
    if path != "/" or server.get(path).status_code != 200:  # the built-in page's place
        assert_error_shape(server.get(path), 404)


@pytest.mark.parametrize("name", ["gpt-4o", "", "tiny-chat/", "../tiny-chat", "a" * 500, "\u2603"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_unknown_model(server: ServerProcess, path: str, name: str) -> None:
    body = chat_body(model=name) if path == CHAT else {"model": name, "prompt": "hi"}
    error = assert_error_shape(server.post(path, body), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("body", [{"request_id": 5}, {"request_id": ["a"]}, [1], "x"])
def test_a_wrong_cancel(server: ServerProcess, body: Any) -> None:
    assert_error_shape(server.post("/v1/cancel", body), 400)


def test_cancel_of_an_unknown_request(server: ServerProcess) -> None:
    assert server.post("/v1/cancel", {"request_id": "chatcmpl-nothing"}).json() == {"cancelled": []}


# Messages


@pytest.mark.parametrize(
    "messages",
    [
        [],
        None,
        {},
        "hi",
        5,
        [None],
        ["hi"],
        [[]],
        [{}],
        [{"content": "hi"}],
        [{"role": "wizard", "content": "hi"}],
        [{"role": None, "content": "hi"}],
        [{"role": 5, "content": "hi"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": {"type": "text", "text": "hi"}}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 5}]}],
        [{"role": "user", "content": [{"type": "smell", "smell": "quince"}]}],
        [{"role": "user", "content": [{"text": "hi"}]}],
        [{"role": "user", "content": [5]}],
        [{"role": "user", "content": [IMAGE]}],
        [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}],
        [{"role": "assistant", "content": None, "tool_calls": "x"}],
        [{"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}],
        [*USER, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": 5}}]}],
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_wrong_messages(server: ServerProcess, messages: Any) -> None:
    for stream in (False, True):
        error = assert_error_shape(server.post(CHAT, chat_body(messages=messages, stream=stream)), 400)
        assert error["type"] == "invalid_request_error"
        assert (error["param"] or "").startswith("messages")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_prompt_of_60000_words(server: ServerProcess, path: str, stream: bool) -> None:
    text = "quince and pear " * 20_000
    body = chat_body(text, stream=stream) if path == CHAT else {"prompt": text, "stream": stream}
    error = assert_error_shape(server.post(path, body), 400)
    assert error["code"] == "context_length_exceeded"
    assert "8192" in error["message"]


# Parameters

INTEGER_FIELDS = ("max_tokens", "max_completion_tokens", "top_k", "seed", "n", "top_logprobs")
NUMBER_FIELDS = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty")
NO_NUMBERS: tuple[Any, ...] = ("7", "x", [], {}, [1], {"a": 1})
WRONG: list[tuple[str, Any]] = [
    *((field, value) for field in (*INTEGER_FIELDS, *NUMBER_FIELDS) for value in NO_NUMBERS),
    *((field, 1.5) for field in INTEGER_FIELDS),
    *((field, True) for field in ("max_tokens", "top_k", "temperature")),
    *((field, value) for field in ("max_tokens", "max_completion_tokens") for value in (0, -1, -HUGE)),
    *(("n", value) for value in (0, -1, HUGE)),
    *(("top_k", value) for value in (-2, -HUGE)),
    *(("temperature", value) for value in (-0.1, 2.1, 1e300, -HUGE)),
    *(("top_p", value) for value in (0, -0.1, 1.1, 1e300)),
    *(("min_p", value) for value in (-0.1, 1.1)),
    *((field, value) for field in ("frequency_penalty", "presence_penalty") for value in (-2.1, 2.1, 1e300)),
    *(("repetition_penalty", value) for value in (-1, -1e300)),
    *(("logit_bias", value) for value in (5, "x", [], [1], {"x": 1}, {"5": "x"}, {"5": 101}, {"5": -101})),
    *(("logit_bias", {token: 5}) for token in ("99999999", "-1", "4096", str(HUGE), "1.5")),
    *(("stop", value) for value in (5, 1.5, True, {}, {"a": 1}, [5], ["a", None], [["a"]], ["a"] * 1000)),
    *(("stream", value) for value in ("yes", 5, [], {})),
    *(("stream_options", value) for value in (5, "x", [], {"include_usage": "x"}, {"include_usage": 5})),
    *(("logprobs", value) for value in ("x", [], {})),
    *(("top_logprobs", value) for value in (-1, 1000, HUGE)),
    *(("model", value) for value in (5, [], {}, True)),
    *(("ignore_eos", value) for value in (5, "x", [])),
    *(("user", value) for value in (5, [], {})),
    *(("metadata", value) for value in (5, "x", [])),
    *(("chat_template_kwargs", value) for value in (5, "x", [])),
    *(("response_format", value) for value in (5, "json", [], {}, {"type": "xml"}, {"type": "json_schema"})),
    *(("tools", value) for value in (5, "x", {}, [5], [{}], [{"type": "function"}])),
    *(("tool_choice", value) for value in (5, [], "whatever", {"type": "function"})),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: json.dumps(value)[:40])
def test_a_wrong_parameter(server: ServerProcess, field: str, value: Any) -> None:
    """The answer names the parameter, streamed and not."""
    for stream in (False, True):
        body = {**chat_body(max_tokens=2, stream=stream), field: value}
        error = assert_error_shape(server.post(CHAT, body), 400)
        assert error["type"] == "invalid_request_error"
        assert (error["param"] or "").startswith(field)
        assert field in error["message"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", [*NUMBER_FIELDS, "max_tokens", "seed", "top_k", "n", "logit_bias"])
def test_not_a_number(server: ServerProcess, field: str, value: str) -> None:
    written = f'{{"5": {value}}}' if field == "logit_bias" else value
    content = f'{{"messages": {json.dumps(USER)}, "{field}": {written}}}'
    assert_error_shape(raw(server, content.encode()), 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": HUGE},
        {"seed": -HUGE},
        {"top_k": HUGE, "temperature": 1},
        {"top_k": 2**63, "temperature": 1},
        {"top_k": -1},
        {"max_tokens": HUGE, "stop": ["e"]},
        {"max_completion_tokens": 2**40, "stop": ["e"]},
        {"user": "me", "metadata": {"a": "b"}, "stop": []},
        {"stop": ""},
        {"stop": [""]},
        {"stop": None, "stream": None, "temperature": None, "top_p": None, "seed": None, "max_tokens": 2},
        {"n": 1, "logprobs": False, "logit_bias": {}, "tools": [], "frequency_penalty": 0, "presence_penalty": 0.0},
        {"n": None, "logprobs": None, "logit_bias": None, "tools": None, "tool_choice": None, "response_format": None},
        {"response_format": {"type": "text"}, "tool_choice": "auto", "parallel_tool_calls": True, "store": False},
        {"somebody_elses_extension": {"deep": [1, 2, 3]}},
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_looks_odd_and_is_right(server: ServerProcess, fields: dict[str, Any]) -> None:
    """Clients send large defaults, nulls and extensions: none of them may fail."""
    answer = server.post(CHAT, {**chat_body(max_tokens=4), **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")


def test_a_number_of_too_many_digits(server: ServerProcess) -> None:
    for field in ("max_tokens", "seed", "temperature"):
        content = f'{{"messages": {json.dumps(USER)}, "{field}": {"9" * 10_000}}}'
        answer = raw(server, content.encode())
        assert_error_shape(answer, 400)


@pytest.mark.parametrize(
    "prompt",
    [None, 5, {}, "", [], [None], [4096], [-1], [HUGE], [1.5], [True], ["a", 5], [[]], [[1], ["a"]], [1] * 8192],
    ids=lambda value: json.dumps(value)[:20],
)
def test_a_wrong_prompt(server: ServerProcess, prompt: Any) -> None:
    for stream in (False, True):
        error = assert_error_shape(server.post(COMPLETIONS, {"prompt": prompt, "max_tokens": 2, "stream": stream}), 400)
        assert (error["param"] or "").startswith("prompt")


def test_no_prompt(server: ServerProcess) -> None:
    assert assert_error_shape(server.post(COMPLETIONS, {"max_tokens": 2}), 400)["param"] == "prompt"
