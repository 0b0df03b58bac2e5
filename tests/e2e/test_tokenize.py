"""/v1/tokenize and /v1/detokenize, for models of every type, without their engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.helpers import CONTEXT, assert_error_shape, chat_body
from tests.e2e.pooling_server import MODELS, pooling_server
from tests.e2e.server_process import ServerProcess
from tests.pooling_models import BOS, EOS

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather", "parameters": {"type": "object", "properties": {}}},
}


def tokenize(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = server.post("/v1/tokenize", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_text_and_a_list(pooling: ServerProcess) -> None:
    assert tokenize(pooling, model="bert", input="abc") == {"model": "bert", "count": 5}
    assert tokenize(pooling, model="bert", input=["abc", "d"], return_tokens=True) == {
        "model": "bert",
        "count": 8,
        "counts": [5, 3],
        "tokens": [[BOS, 97, 98, 99, EOS], [BOS, 100, EOS]],
    }
    bare = tokenize(pooling, model="bert", prompt="a b", add_special_tokens=False, return_token_strs=True)
    assert bare == {"model": "bert", "count": 3, "token_strs": ["a", "Ġ", "b"]}


def test_there_and_back_for_every_model_without_its_engine(model_dir: Path, tmp_path: Path) -> None:
    with pooling_server(tmp_path, model_dir) as server:
        for name in ("chat", *MODELS):
            found = tokenize(server, model=name, input="a quince", add_special_tokens=False, return_tokens=True)
            answer = server.post("/v1/detokenize", {"model": name, "tokens": found["tokens"]})
            assert answer.json() == {"model": name, "text": "a quince"}
        assert server.engines() == []
        assert all(one["state"] == "unloaded" for one in server.get("/v1/models").json()["data"])


def test_a_conversation_counts_as_chat_counts_it(pooling: ServerProcess) -> None:
    for extra in ({}, {"tools": [TOOL]}):
        body = {**chat_body("Count the quinces.", max_tokens=1), **extra, "model": "chat"}
        used = pooling.post("/v1/chat/completions", body).json()["usage"]["prompt_tokens"]
        assert tokenize(pooling, model="chat", messages=body["messages"], **extra)["count"] == used < CONTEXT


def test_several_lists_of_tokens(pooling: ServerProcess) -> None:
    answer = pooling.post("/v1/detokenize", {"model": "bert", "tokens": [[97], [], [BOS, 98]]})
    assert answer.json() == {"model": "bert", "texts": ["a", "", "<s>b"]}
    assert pooling.post("/v1/detokenize", {"model": "bert", "tokens": []}).json() == {"model": "bert", "text": ""}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tokenize", {}),
        ("/v1/tokenize", {"input": "x", "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/tokenize", {"input": "x", "tools": [TOOL]}),
        ("/v1/tokenize", {"input": 5}),
        ("/v1/tokenize", {"input": []}),
        ("/v1/tokenize", {"messages": [{"role": "user", "content": "x"}]}),  # an encoder has no template
        ("/v1/detokenize", {}),
        ("/v1/detokenize", {"tokens": ["x"]}),
        ("/v1/detokenize", {"tokens": [-1]}),
        ("/v1/detokenize", {"tokens": [99999]}),
    ],
)
def test_what_is_wrong_is_a_400(pooling: ServerProcess, path: str, body: dict[str, Any]) -> None:
    assert_error_shape(pooling.post(path, {"model": "bert", **body}), 400)


def test_what_would_take_too_long_is_not_counted(pooling: ServerProcess) -> None:
    body = {"model": "bert", "input": ["x" * 1_500_000] * 6}
    error = assert_error_shape(pooling.post("/v1/tokenize", body), 400)
    assert "there are at least 2" in error["message"]


def test_an_unknown_model_is_a_404(pooling: ServerProcess) -> None:
    assert_error_shape(pooling.post("/v1/tokenize", {"model": "nobody", "input": "x"}), 404)
