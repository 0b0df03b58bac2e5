from __future__ import annotations

import pytest

from quince.chat.client import ChatClient, Ending, Piece
from quince.errors import RemoteError
from tests.chat.fake_server import END, USAGE, fake_server, says

QUESTION = [{"role": "user", "content": "Well?"}]


def test_an_answer_with_thinking_and_figures() -> None:
    script = (says("", reasoning_content="hm"), says("Ye"), says("s"), END, USAGE, "[DONE]")
    with fake_server(*script) as server, ChatClient(server.url + "/v1/", "secret") as client:
        *pieces, ending = client.chat("talker", QUESTION, {"temperature": 0.5})
    assert pieces == [Piece("hm", thinking=True), Piece("Ye"), Piece("s")]
    assert isinstance(ending, Ending)
    assert (ending.finish_reason, ending.prompt_tokens, ending.cached_tokens, ending.completion_tokens) == (
        "stop",
        7,
        4,
        3,
    )
    assert server.keys == ["Bearer secret"]
    (body,) = server.bodies
    assert body["messages"] == QUESTION
    assert (body["model"], body["temperature"], body["stream"]) == ("talker", 0.5, True)


def test_without_a_model_none_is_named() -> None:
    with fake_server(says("Yes"), END, "[DONE]") as server, ChatClient(server.url) as client:
        assert [one.text for one in client.chat(None, QUESTION, {}) if isinstance(one, Piece)] == ["Yes"]
    assert "model" not in server.bodies[0]
    assert server.keys == [None]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ((says("Ye"), {"error": {"message": "it\x1b[2J broke"}}), "broke off: it␛[2J broke"),
        ((says("Ye"),), "without a reason"),
        (("no json",), "does not speak"),
    ],
)
def test_an_answer_that_breaks(script: tuple[object, ...], said: str) -> None:
    with (
        fake_server(*script) as server,
        ChatClient(server.url) as client,
        pytest.raises(RemoteError, match=said.replace("[", r"\[")),
    ):
        list(client.chat(None, QUESTION, {}))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": {"message": "too hot"}}', "refuses: too hot"),
        (502, b"<html>", "502 Bad Gateway"),
        (500, b'"text"', "500 Internal Server Error"),
    ],
)
def test_a_refusal(status: int, body: bytes, said: str) -> None:
    with fake_server() as server, ChatClient(server.url) as client:
        server.refusal = (status, body)
        with pytest.raises(RemoteError, match=said):
            list(client.chat(None, QUESTION, {}))


def test_leaving_closes_the_connection() -> None:
    with fake_server(says("on and on "), None) as server, ChatClient(server.url) as client:
        pieces = client.chat(None, QUESTION, {})
        assert next(pieces) == Piece("on and on ")
        pieces.close()
        assert server.left.wait(10)


def test_nobody_there() -> None:
    with fake_server() as server:
        url = server.url
    with ChatClient(url) as client:
        assert client.health() is None
        assert not client.wait_ready()
        with pytest.raises(RemoteError, match=f"no server answers at {url}"):
            list(client.chat(None, QUESTION, {}))


LOADING = {"status": "unavailable", "reason": "loading", "models": {"one": {"last_error": None}}}


def test_a_server_that_is_loading_is_waited_for() -> None:
    with fake_server() as server, ChatClient(server.url) as client:
        server.healths = [LOADING, LOADING, *server.healths]
        assert client.wait_ready()
        assert len(server.healths) == 1


def test_a_model_that_cannot_be_loaded_is_not_waited_for() -> None:
    with fake_server() as server, ChatClient(server.url) as client:
        server.healths = [LOADING, {**LOADING, "models": {"one": {"last_error": "no\x1b weights"}}}]
        with pytest.raises(RemoteError, match="no␛ weights"):
            client.wait_ready()


def test_what_is_no_quince() -> None:
    with fake_server() as server, ChatClient(server.url) as client:
        server.healths = [{"status": "ok"}]
        assert client.health() is None


def test_models() -> None:
    with fake_server() as server, ChatClient(server.url) as client:
        assert client.models() == ["talker"]
        assert client.knows("talker")
        assert not client.knows("../health")
        assert client.wait_ready()
