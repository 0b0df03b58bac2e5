"""Every route of the described systems' documents answers as they say, with the requests of their examples."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quince.models import demo
from tests.e2e.helpers import assert_error_shape, chat_body, sse_events
from tests.e2e.server_process import ServerProcess, wait_for
from tests.e2e.test_described_systems import CHAT, MLX_SERVE, MLX_SERVER
from tests.vision_prompts import png

COMPLETIONS = "/v1/chat/completions"
PICTURE = "data:image/png;base64," + base64.b64encode(png(0)).decode()


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """mlx-server with a text model."""
    path = tmp_path_factory.mktemp("launched")
    program = (*MLX_SERVER, "launch", "--port", "0", "--model-path", CHAT, "--model-type", "lm")
    with ServerProcess(path / "log", env={"HOME": str(path)}, program=program) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """mlx-serve with the demo models."""
    path = tmp_path_factory.mktemp("serving")
    program = (*MLX_SERVE, "start", "--foreground", "--port", "0")
    with ServerProcess(path / "log", env={"HOME": str(path)}, program=program) as server:
        yield server.wait_ready()


def ok(server: ServerProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 150, "temperature": 0.7},
        {"model": "model", "temperature": 0.7, "max_tokens": 100},
        {"model": "gemma-3-4b-it-4bit", "stream": False, "max_tokens": 256, "temperature": 0.7},
        {"model": "model", "max_tokens": 100, "stream": False},
        {"max_tokens": 100, "temperature": 0.7, "top_p": 0.9, "stream": False, "stop": ["\n\n"]},
    ],
    ids=["openchat", "jan", "oai-compat", "app", "mlx-serve"],
)
def test_chat(launched: ServerProcess, fields: dict[str, Any]) -> None:
    body = ok(launched, COMPLETIONS, {"messages": MESSAGES, **fields})
    assert body["id"].startswith("chatcmpl-") and body["object"] == "chat.completion"
    assert isinstance(body["created"], int) and isinstance(body["model"], str)
    (choice,) = body["choices"]
    assert (choice["index"], choice["message"]["role"]) == (0, "assistant")
    assert isinstance(choice["message"]["content"], str) and choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("model", [None, "model"])
def test_a_stream(launched: ServerProcess, model: str | None) -> None:
    body = {"messages": [{"role": "user", "content": "Tell me a story."}], "stream": True, "max_tokens": 40}
    answer = launched.post(COMPLETIONS, body if model is None else {**body, "model": model})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.rstrip().endswith("data: [DONE]")
    deltas = [event["choices"][0]["delta"] for event in sse_events(answer.text) if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas)


def test_completions_and_models(launched: ServerProcess) -> None:
    body = ok(launched, "/v1/completions", {"model": "any", "prompt": "The capital of France", "max_tokens": 4})
    assert body["object"] == "text_completion" and body["choices"][0]["text"]
    models = launched.get("/v1/models").json()
    assert models["object"] == "list"
    assert [(one["id"], one["object"]) for one in models["data"]] == [(Path(CHAT).name, "model")]


def test_a_conversation_of_several_turns(launched: ServerProcess) -> None:
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": "The capital of France is Paris."},
        {"role": "user", "content": "Tell me some interesting facts about it."},
    ]
    assert ok(launched, COMPLETIONS, {"messages": turns, "max_tokens": 8})["choices"][0]["message"]["content"]


def test_health_and_pages(launched: ServerProcess) -> None:
    assert (launched.health().status_code, launched.health().json()["status"]) == (200, "ok")
    for path in ("/docs", "/redoc"):
        page = launched.get(path)
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")


def test_mlx_status(launched: ServerProcess) -> None:
    body = launched.get("/v1/mlx/status").json()
    assert body["status"] == "ok" and body["model"] == Path(CHAT).name
    assert body["memory"]["active"] > 0 and {"mlx", "mlx-lm"} <= set(body["versions"])


def test_queue_stats(launched: ServerProcess) -> None:
    before = launched.get("/v1/queue/stats").json()
    ok(launched, COMPLETIONS, chat_body(max_tokens=7))
    body = launched.get("/v1/queue/stats").json()
    assert body["status"] == "ok"
    assert body["queue_stats"] == {
        "running": True,
        "queue_size": 0,
        "max_queue_size": 100,
        "active_requests": 0,
        "max_concurrency": 1,
    }
    metrics = body["metrics"]
    assert metrics["total_tokens"] == before["metrics"]["total_tokens"] + 7
    assert metrics["total_requests"] == before["metrics"]["total_requests"] + 1
    assert {"vision", "vision_stream", "text", "text_stream"} <= set(metrics["request_types"])
    assert metrics["request_types"]["text"] == before["metrics"]["request_types"]["text"] + 1
    assert {"total_time", "error_count"} <= set(metrics)
    assert set(metrics["performance"]) == {"avg_tps", "max_tps", "min_tps", "recent_requests"}


def test_stats(launched: ServerProcess) -> None:
    body = launched.get("/stats").json()
    assert {"uptime", "running", "waiting", "totals", "models"} <= set(body)


def test_cancel(launched: ServerProcess) -> None:
    """Without a body, as the example has it: whatever runs ends."""
    assert launched.http.post(launched.base_url + "/v1/cancel").json() == {"cancelled": []}
    ended: list[int] = []

    def generate() -> None:
        answer = launched.post(COMPLETIONS, chat_body(max_tokens=8000))
        ended.append(answer.json()["usage"]["completion_tokens"] if answer.status_code == 200 else answer.status_code)

    thread = threading.Thread(target=generate)
    thread.start()
    wait_for(lambda: launched.stats()["running"], within=20, what="it runs")
    cancelled = launched.http.post(launched.base_url + "/v1/cancel").json()["cancelled"]
    thread.join(20)
    assert len(cancelled) == 1 and not thread.is_alive() and ended[0] < 8000
    wait_for(lambda: not launched.stats()["running"], within=10, what="nothing runs")


def picture_body(model: str) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is in this image?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    return {"model": model, "messages": [{"role": "user", "content": content}], "stream": False, "max_tokens": 8}


def test_a_picture_for_a_text_model(launched: ServerProcess, serving: ServerProcess) -> None:
    for server in (launched, serving):
        error = assert_error_shape(server.post(COMPLETIONS, picture_body("quince-demo")), 400)
        assert "image" in error["message"]


def test_a_picture(serving: ServerProcess) -> None:
    body = ok(serving, COMPLETIONS, picture_body("quince-demo-vision"))
    assert body["choices"][0]["message"]["content"]


def test_a_full_queue(tmp_path: Path) -> None:
    program = (*MLX_SERVER, "launch", "--port", "0", "--model-path", CHAT, "--queue-size", "0")
    with ServerProcess(tmp_path / "log", env={"HOME": str(tmp_path)}, program=program) as server:
        server.wait_ready()
        thread = threading.Thread(target=lambda: server.post(COMPLETIONS, chat_body(max_tokens=8000)))
        thread.start()
        wait_for(lambda: server.stats()["running"], within=20, what="one runs")
        refused = server.post(COMPLETIONS, chat_body(max_tokens=1))
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        server.http.post(server.base_url + "/v1/cancel")
        thread.join(20)


# mlx-serve's


def test_embeddings(serving: ServerProcess) -> None:
    asked = {"model": "quince-demo-embedding", "input": ["Hello world", "How are you?"]}
    body = ok(serving, "/v1/embeddings", asked)
    assert body["object"] == "list"
    assert [(one["object"], one["index"]) for one in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert all(isinstance(number, float) for number in body["data"][0]["embedding"])
    short = ok(serving, "/v1/embeddings", {**asked, "encoding_format": "float", "dimensions": 32})
    assert [len(one["embedding"]) for one in short["data"]] == [32, 32]
    packed = ok(serving, "/v1/embeddings", {**asked, "encoding_format": "base64"})
    assert isinstance(packed["data"][0]["embedding"], str)


def test_rerank(serving: ServerProcess) -> None:
    asked = {
        "model": "quince-demo-reranker",
        "query": "What is machine learning?",
        "documents": ["ML is a subset of AI", "The weather is nice", "Deep learning uses neural networks"],
        "top_n": 2,
        "return_documents": True,
    }
    results = ok(serving, "/v1/rerank", asked)["results"]
    assert len(results) == 2 and results[0]["relevance_score"] >= results[1]["relevance_score"]
    assert all(one["document"]["text"] == asked["documents"][one["index"]] for one in results)


@pytest.mark.parametrize("model", [demo.CHAT, "quince-demo-embedding"])
def test_tokenize(serving: ServerProcess, model: str) -> None:
    body = ok(serving, "/v1/tokenize", {"model": model, "input": ["text1", "text2"], "return_tokens": False})
    assert len(body["counts"]) == 2 and body["count"] == sum(body["counts"]) and "tokens" not in body


def test_the_models_of_mlx_serve(serving: ServerProcess) -> None:
    assert [one["id"] for one in serving.get("/v1/models").json()["data"]] == list(demo.NAMES)
    tags = serving.get("/api/tags").json()["models"]
    assert [one["name"].removesuffix(":latest") for one in tags] == list(demo.NAMES)
    assert all({"name", "model", "size", "details"} <= set(one) for one in tags)


def test_api_pull(serving: ServerProcess) -> None:
    """What is wrong with a pull is told in its stream."""
    answer = serving.post("/api/pull", {"model": "nobody-has-this"})
    assert "error" in json.loads(answer.text.splitlines()[-1])


def test_metrics(serving: ServerProcess) -> None:
    assert "\n# TYPE " in serving.get("/metrics").text
