"""The three demo models on a server that holds one engine at a time: each takes its turn, and no stream is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from tests.e2e.helpers import chat_body, http_client, sse_events
from tests.e2e.server_process import ServerProcess

NOTES = ["I live in Lyon.", "My dog is called Biscuit.", "Water the tomatoes twice a week."]
EMBED = ("/v1/embeddings", {"model": "quince-demo-embedding", "input": ["Where do I live?", *NOTES]})
RERANK = ("/v1/rerank", {"model": "quince-demo-reranker", "query": "Where do I live?", "documents": NOTES})


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("narrow") / "log", "--max-loaded-models", "1") as process:
        yield process.wait_ready()


def loaded(server: ServerProcess) -> list[str]:
    listed = server.get("/v1/models").json()["data"]
    return [model["id"] for model in listed if model["state"] != "unloaded"]


def test_listing_them_loads_none(narrow: ServerProcess) -> None:
    listed = {model["id"]: model for model in narrow.get("/v1/models").json()["data"]}
    assert [listed[f"quince-demo-{name}"]["type"] for name in ("embedding", "reranker")] == ["embedding", "reranker"]
    assert listed["quince-demo-embedding"]["max_model_len"] == 512
    assert loaded(narrow) == [] and narrow.engines() == []


def test_each_takes_its_turn(narrow: ServerProcess) -> None:
    wanted, *found = (one["embedding"] for one in narrow.post(*EMBED).json()["data"])
    assert int(np.argmax(np.array(found) @ np.array(wanted))) == 0
    ranked = narrow.post(*RERANK).json()["results"]
    assert ranked[0]["index"] == 0 and ranked[0]["relevance_score"] > 0.5 > ranked[1]["relevance_score"]
    assert loaded(narrow) == ["quince-demo-reranker"]


async def test_a_running_answer_ends_before_its_model_goes(narrow: ServerProcess) -> None:
    body = chat_body("What is the capital of France?", max_tokens=60, model="quince-demo", stream=True)

    async with (
        http_client(narrow.base_url) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status_code == 200
        others = await asyncio.gather(*(client.post(path, json=asked) for path, asked in (EMBED, RERANK)))
        events = sse_events((await answer.aread()).decode())
    assert [other.status_code for other in others] == [200, 200]
    assert events[-1]["choices"][0]["finish_reason"] == "length" and not any("error" in event for event in events)
    assert len(loaded(narrow)) == 1
