"""What the server says of itself agrees with what its clients have counted."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import chat_body, eventually, http_client, sse_events
from tests.e2e.pooling_server import pooling_server
from tests.e2e.server_process import ServerProcess, wait_for

PLACES = 12
PICK = {
    "type": "function",
    "function": {
        "name": "pick",
        "parameters": {
            "type": "object",
            "properties": {"one": {"enum": ["a", "b"]}},
            "required": ["one"],
            "additionalProperties": False,
        },
    },
}
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


def parse(text: str) -> Samples:
    samples: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name][frozenset(sample.labels.items())] = sample.value
    return samples


def scrape(server: ServerProcess) -> Samples:
    return parse(server.get("/metrics").text)


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples that have these labels."""
    wanted = set(labels.items())
    return sum(number for found, number in samples["quince:" + name].items() if wanted <= found)


@pytest.fixture(scope="module")
def busy(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    args = ("--max-running-requests", "4", "--queue-size", str(PLACES - 4))
    with pooling_server(tmp_path_factory.mktemp("metrics"), random_model, *args) as process:
        yield process


@dataclass
class Tally:
    """What a client counts: requests by model, type and outcome, answers by their ends, tokens by usage."""

    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, model: str, type: str, usage: dict[str, Any], ends: list[str]) -> None:
        self.requests[model, type, "success"] += 1
        self.ends.update(ends)
        self.tokens[model, "prompt"] += usage["prompt_tokens"]
        self.tokens[model, "completion"] += usage.get("completion_tokens", 0)
        self.tokens[model, "cached"] += usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)


async def generate(http: httpx2.AsyncClient, tally: Tally, path: str, type: str, body: dict[str, Any]) -> None:
    if body.get("stream"):
        body = {**body, "stream_options": {"include_usage": True}}
    answer = await http.post(path, json={**body, "model": "chat"})
    assert answer.status_code == 200, answer.text
    chunks = sse_events(answer.text) if body.get("stream") else [answer.json()]
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    tally.count("chat", type, chunks[-1]["usage"], ends)


async def read(http: httpx2.AsyncClient, tally: Tally, path: str, model: str, body: dict[str, Any]) -> None:
    answer = await http.post(path, json={**body, "model": model})
    assert answer.status_code == 200, answer.text
    tally.count(model, "rerank" if "rerank" in path else "embedding", answer.json()["usage"], ["stop"])


async def fail(http: httpx2.AsyncClient, tally: Tally, number: int) -> None:
    """Wrong in one of several ways, some of which are seen only when the model is known."""
    model, body, type = [
        ("", chat_body(temperature=9), "text"),
        ("", {**chat_body(), "model": f"nothing-{number}"}, "text"),
        ("", {**chat_body(), "model": "bert"}, "text"),
        ("chat", {**chat_body("quince " * 20_000), "model": "chat"}, "text"),
        ("chat", {**chat_body("quince " * 20_000), "model": "chat", "stream": True}, "text_stream"),
    ][number % 5]
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code in (400, 404), answer.text
    tally.requests[model, type, "error"] += 1


def generating(number: int) -> tuple[str, str, dict[str, Any]]:
    """Path, type and body of one of several kinds of requests."""
    text = f"Count {number % 7} quinces."
    chat, completion = "/v1/chat/completions", "/v1/completions"
    sampled = {"max_tokens": 12, "seed": number}
    call = chat_body(text, tools=[PICK], tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    return [
        (chat, "text", chat_body(text, max_tokens=5)),
        (chat, "text_stream", chat_body(text, stream=True)),
        (chat, "text", chat_body(text, n=3, temperature=1)),
        (chat, "text_stream", chat_body(text, stream=True, stop=["a", "e", "i", "o"], max_tokens=40)),
        (chat, "text_stream", {**call, "stream": True}),
        (chat, "text", call),
        (completion, "completion", {"prompt": [text, "another"], "n": 2, **sampled}),
        (completion, "completion_stream", {"prompt": text, "stream": True, **sampled}),
    ][number % 8]


async def ask(http: httpx2.AsyncClient, tally: Tally, number: int) -> None:
    match number % 10:
        case 0:
            await read(http, tally, "/v1/embeddings", "bert", {"input": ["one", "two quinces"]})
        case 1:
            await read(http, tally, "/rerank", "bert-reranker", {"query": "who", "documents": ["me", "you", "they"]})
        case 2:
            await fail(http, tally, number // 10)
        case _:
            await generate(http, tally, *generating(number // 10 + number))


@pytest.fixture
async def http(busy: ServerProcess) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(busy.base_url) as made:
        yield made


async def test_200_mixed_requests(busy: ServerProcess, http: httpx2.AsyncClient) -> None:
    """Rejected and aborted ones come in a second part: of these, no client knows how many tokens there were."""
    tally = Tally()
    room = asyncio.Semaphore(4)  # of at most four answers each: nothing is rejected

    async def one(number: int) -> None:
        async with room:
            await ask(http, tally, number)

    await asyncio.gather(*(one(number) for number in range(200)))
    samples = scrape(busy)
    check_requests(samples, tally)
    check_tokens(samples, tally)
    check_histograms(samples, tally)
    check_queue_stats(busy, tally)

    await reject(http, tally)
    await leave(http, tally)
    await cancel(http, tally)

    async def settled() -> bool:
        found = value(parse((await http.get("/metrics")).text), "requests_total")
        return found == tally.requests.total()

    await eventually(settled, within=20, what="all requests are counted")
    check_requests(scrape(busy), tally)
    check_queue_stats(busy, tally)


async def reject(http: httpx2.AsyncClient, tally: Tally) -> None:
    """One request takes all places, and leaves once others have found none."""
    body = {**chat_body(max_tokens=4000, n=PLACES, stream=True), "model": "chat"}
    async with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        for _ in range(5):
            answer = await http.post("/v1/chat/completions", json={**chat_body(), "model": "chat"})
            assert answer.status_code == 429, answer.text
            tally.requests["chat", "text", "rejected"] += 1
    tally.requests["chat", "text_stream", "aborted"] += 1
    tally.ends["abort"] += PLACES

    async def empty() -> bool:
        return bool((await http.get("/stats")).json()["models"]["chat"]["open_requests"] == 0)

    await eventually(empty, within=20, what="nothing runs")


async def leave(http: httpx2.AsyncClient, tally: Tally) -> None:
    """Clients that go away: in a stream, and while they wait for the whole answer."""
    body = {**chat_body(max_tokens=4000), "model": "chat"}
    for _ in range(3):
        async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
            await anext(stream.aiter_lines())
        with pytest.raises(httpx2.ReadTimeout):
            await http.post("/v1/chat/completions", json=body, timeout=0.5)
        tally.requests["chat", "text_stream", "aborted"] += 1
        tally.requests["chat", "text", "aborted"] += 1
        tally.ends["abort"] += 2


async def cancel(http: httpx2.AsyncClient, tally: Tally) -> None:
    body = {**chat_body(max_tokens=4000, stream=True), "model": "chat"}
    async with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        await http.post("/v1/cancel", json={"request_id": stream.headers["x-request-id"]})
        assert [line async for line in lines][-2] == "data: [DONE]"
    tally.requests["chat", "text_stream", "aborted"] += 1
    tally.ends["abort"] += 1


def check_requests(samples: Samples, tally: Tally) -> None:
    found = {
        (labels["model_name"], labels["type"], labels["outcome"]): number
        for labels, number in ((dict(key), number) for key, number in samples["quince:requests_total"].items())
    }
    assert found == tally.requests
    ends: Counter[str] = Counter()
    for key, number in samples["quince:request_success_total"].items():
        ends[dict(key)["finished_reason"]] += int(number)
    assert ends == tally.ends


def check_tokens(samples: Samples, tally: Tally) -> None:
    assert tally.ends["tool_calls"] and tally.ends["stop"] and tally.ends["length"]
    for model in ("chat", "bert", "bert-reranker"):
        for name, metric in (
            ("prompt", "prompt_tokens_total"),
            ("completion", "generation_tokens_total"),
            ("cached", "prompt_tokens_cached_total"),
        ):
            assert value(samples, metric, model_name=model) == tally.tokens[model, name], (model, name)
    assert value(samples, "prefix_cache_hits_total", model_name="chat") >= tally.tokens["chat", "cached"] > 0
    assert value(samples, "engine_steps_total", model_name="chat") > 0


def check_histograms(samples: Samples, tally: Tally) -> None:
    succeeded = sum(count for (_, _, outcome), count in tally.requests.items() if outcome == "success")
    chats = sum(count for (model, *_, outcome), count in tally.requests.items() if (model, outcome) == SUCCESSFUL)
    answers = tally.ends.total() - (succeeded - chats)
    for name, count in (
        ("e2e_request_latency_seconds", succeeded),
        ("request_prompt_tokens", succeeded),
        ("request_queue_time_seconds", succeeded),
        ("time_to_first_token_seconds", chats),
        ("inter_token_latency_seconds", tally.tokens["chat", "completion"] - answers),
    ):
        assert value(samples, name + "_count") == count, name
        assert value(samples, name + "_bucket", le="+Inf") == count, name
    generated = value(samples, "request_generation_tokens_sum", model_name="chat")
    assert generated == tally.tokens["chat", "completion"]


SUCCESSFUL = ("chat", "success")


def check_queue_stats(server: ServerProcess, tally: Tally) -> None:
    body = server.get("/v1/queue/stats").json()
    assert body["queue_stats"] == {
        "running": True,
        "queue_size": 0,
        "max_queue_size": PLACES - 4,
        "active_requests": 0,
        "max_concurrency": 4,
    }
    figures = body["metrics"]
    assert figures["total_requests"] == tally.requests.total()
    assert figures["error_count"] == sum(n for (_, _, outcome), n in tally.requests.items() if outcome == "error")
    types: Counter[str] = Counter()
    for (_, type, _), count in tally.requests.items():
        types[type] += count
    assert {type: count for type, count in figures["request_types"].items() if count} == types
    assert {"vision", "vision_stream", "text", "text_stream"} <= set(figures["request_types"])
    speed = figures["performance"]
    assert 0 < speed["min_tps"] <= speed["avg_tps"] <= speed["max_tps"]
    assert speed["avg_tps"] == pytest.approx(figures["total_tokens"] / figures["total_time"])
    outcomes = server.get("/stats").json()["outcomes"]
    assert sum(outcomes.values()) == tally.requests.total()


def test_no_client_makes_up_a_label(busy: ServerProcess) -> None:
    names = {dict(labels).get("model_name") for samples in scrape(busy).values() for labels in samples}
    for number in range(20):
        busy.post("/v1/chat/completions", {**chat_body(), "model": f"made-up-{number}"})
        busy.post(f"/made/up/{number}", {})
    assert {dict(labels).get("model_name") for samples in scrape(busy).values() for labels in samples} == names


def test_open_metrics_is_spoken_to_who_asks_for_it(busy: ServerProcess) -> None:
    answer = busy.http.get(busy.base_url + "/metrics", headers={"accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_counts_go_on_when_an_engine_dies(start_server: StartServer) -> None:
    server = start_server()
    usage = server.post("/v1/chat/completions", chat_body()).json()["usage"]
    before = scrape(server)
    with server.http.stream(
        "POST", server.base_url + "/v1/chat/completions", json=chat_body(max_tokens=4000, stream=True)
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.engine().kill()
        assert any("error" in line for line in lines)
    wait_for(lambda: server.health().status_code == 200, within=30, what="the engine is back")
    again = server.post("/v1/chat/completions", chat_body()).json()["usage"]
    samples = scrape(server)
    assert value(samples, "engine_restarts_total") == value(samples, "engine_deaths_total", reason="died") == 1
    assert value(samples, "engine_deaths_total") == 1
    assert value(samples, "requests_total", outcome="success") == 2
    assert value(samples, "requests_total", outcome="error") == 1
    assert value(samples, "request_success_total") == 2
    assert value(samples, "prompt_tokens_total") == 2 * usage["prompt_tokens"] + again["prompt_tokens"]
    assert value(samples, "engine_steps_total") > value(before, "engine_steps_total")
    assert value(samples, "model_state", state="ready") == 1
    assert value(samples, "model_state") == 1
    figures = server.get("/stats").json()
    assert figures["totals"]["restarts"] == 1
    (model,) = figures["models"].values()
    assert model["deaths"] == {"died": 1}


def test_status(server: ServerProcess) -> None:
    body = server.get("/v1/mlx/status").json()
    assert (body["status"], body["model"]) == ("ok", "tiny-chat")
    assert "cpu" in body["device"] or "gpu" in body["device"]
    assert body["versions"]["mlx"] and body["memory"]["active"] > 0 and body["uptime"] > 0
    (model,) = body["models"]
    assert (model["type"], model["state"]) == ("llm", "ready")
