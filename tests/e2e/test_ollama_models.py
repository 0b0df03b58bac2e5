"""Models managed by the official ollama client, against a real server and a hub of our own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import ollama
import pytest

from tests.demo_models import DEMOS
from tests.e2e.helpers import chat_body
from tests.e2e.server_process import ServerProcess, wait_for
from tests.hub_server import HubServer

REPO = "quinces/tiny-chat"
NAME = "tiny-chat"


@pytest.fixture
def hub(model_dir: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, model_dir)
        yield server


@pytest.fixture
def many(tmp_path: Path, hub: HubServer) -> Iterator[ServerProcess]:
    """A server without a model of its own, and with the hub."""
    env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": ""}
    with ServerProcess(tmp_path / "many.log", "--idle-ttl", "30", env=env) as process:
        yield process.wait_ready()


@pytest.fixture
def client(many: ServerProcess) -> Iterator[ollama.Client]:
    with ollama.Client(host=many.base_url, trust_env=False, timeout=60) as made:
        yield made


def names(client: ollama.Client) -> list[str | None]:
    return [model.model for model in client.list().models]


def test_pull_list_show_copy_delete(client: ollama.Client, many: ServerProcess) -> None:
    assert names(client) == DEMOS

    steps = list(client.pull(REPO, stream=True))
    assert steps[-1].status == "success"
    weights = [step for step in steps if step.status == "pulling model.safetensors"]
    assert weights and weights[-1].completed == weights[-1].total > 0
    assert weights[-1].digest and weights[-1].digest.startswith("sha256:")

    assert names(client) == [*DEMOS, NAME]
    (listed,) = (model for model in client.list().models if model.model == NAME)
    assert listed.size and listed.digest and listed.details and listed.modified_at
    assert listed.details.family == "qwen3"
    assert abs((datetime.now(UTC) - listed.modified_at).total_seconds()) < 60

    shown = client.show(NAME)
    assert shown.template and "messages" in shown.template
    assert shown.modelinfo and shown.modelinfo["general.architecture"] == "qwen3"
    assert shown.modelinfo["qwen3.context_length"] == 8192
    assert shown.capabilities and shown.capabilities[0] == "completion"
    assert shown.modelfile and REPO in shown.modelfile

    assert client.copy(NAME, "copied").status == "success"
    assert names(client) == [*DEMOS, "copied", NAME]
    assert client.delete(NAME).status == "success"
    assert names(client) == [*DEMOS, "copied"]
    answer = many.post("/v1/chat/completions", chat_body(model="copied", max_tokens=3))
    assert answer.status_code == 200, answer.text
    assert [model.model for model in client.ps().models] == ["copied"]
    assert client.delete("copied:latest").status == "success"
    wait_for(lambda: not client.ps().models, within=5, what="the deleted model is unloaded")
    assert names(client) == DEMOS


def test_ps(client: ollama.Client, many: ServerProcess) -> None:
    assert client.ps().models == []
    many.post("/v1/models/quince-demo/load", {})
    (model,) = client.ps().models
    assert (model.model, model.name, model.context_length) == ("quince-demo", "quince-demo", 8192)
    assert model.size and model.size_vram == 0, "this is a CPU"
    assert model.expires_at and 0 < (model.expires_at - datetime.now(UTC)).total_seconds() <= 31
    for forever in (-1, 1e12):
        many.post("/v1/models/quince-demo/load", {"keep_alive": forever})
        (model,) = client.ps().models
        assert model.expires_at and model.expires_at.year > 2100
    many.post("/v1/models/quince-demo/load", {"keep_alive": "100ms"})
    wait_for(lambda: not client.ps().models, within=5, what="its time is over")


def test_what_is_pulled_twice_is_there(client: ollama.Client, hub: HubServer) -> None:
    assert client.pull(REPO).status == "success"
    sent = len(hub.sent)
    assert client.pull(f"hf.co/{REPO}:latest").status == "success"
    assert len(hub.sent) == sent


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("name", "said"), [("quinces/nothing", "no model repository"), ("nothing", "hub id")])
def test_a_pull_of_what_is_not_there(client: ollama.Client, name: str, said: str, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError) as refused:
        result = client.pull(name, stream=stream)
        if stream:
            list(result)
    assert said in refused.value.error
    assert refused.value.status_code == 404
    assert names(client) == DEMOS


def test_a_pull_that_breaks_on_the_way(client: ollama.Client, hub: HubServer) -> None:
    """The headers are out: the error is a line of the stream."""
    hub.repos[REPO].corrupt.add("model.safetensors")
    with pytest.raises(ollama.ResponseError, match="checksum"):
        for step in client.pull(REPO, stream=True):
            assert step.status != "success"
    assert names(client) == DEMOS


def test_a_client_that_leaves_ends_its_pull(client: ollama.Client, hub: HubServer, many: ServerProcess) -> None:
    hub.repos[REPO].bytes_per_second = 200_000
    with many.http.stream("POST", many.base_url + "/api/pull", json={"model": REPO}) as response:
        for line in response.iter_lines():
            if "model.safetensors" in line and json.loads(line).get("completed"):
                break
    (weights,) = [one for one in hub.sent if one.name == "model.safetensors"]
    wait_for(lambda: weights.ended, within=5, what="the transfer has ended")
    assert weights.sent < len(hub.repos[REPO].files["model.safetensors"])
    time.sleep(0.3)
    assert names(client) == DEMOS
    hub.repos[REPO].bytes_per_second = None
    assert client.pull(REPO).status == "success"
    assert any(one.start > 0 for one in hub.sent), "it went on"


def test_errors_have_ollamas_shape(many: ServerProcess) -> None:
    http = httpx.Client(base_url=many.base_url, trust_env=False)
    with http:
        for method, path, body, status in [
            ("POST", "/api/show", '{"model": "nothing"}', 404),
            ("POST", "/api/show", "{", 400),
            ("POST", "/api/show", "{}", 400),
            ("POST", "/api/show", '{"model": 5}', 400),
            ("POST", "/api/pull", '{"model": "a/b", "insecure": true}', 400),
            ("POST", "/api/copy", '{"source": "nothing", "destination": "x"}', 404),
            ("POST", "/api/copy", '{"source": "quince-demo", "destination": "../x"}', 400),
            ("DELETE", "/api/delete", '{"model": "nothing"}', 404),
            ("DELETE", "/api/delete", '{"model": "quince-demo"}', 400),
            ("GET", "/api/nothing", "", 404),
        ]:
            answer = http.request(method, path, content=body)  # without a Content-Type, as with curl -d
            assert answer.status_code == status, (path, body, answer.text)
            assert set(answer.json()) == {"error"} and isinstance(answer.json()["error"], str)
        assert http.post("/api/show", content='{"name": "quince-demo"}').status_code == 200, "the older spelling"
        assert http.get("/api/version").json()["version"].count(".") == 2


def test_a_server_of_one_model_does_not_manage(server: ServerProcess) -> None:
    with ollama.Client(host=server.base_url, trust_env=False) as client:
        (model,) = client.list().models
        assert model.model and client.show(model.model).template
        assert client.ps().models[0].model == model.model
        for refused in (lambda: client.pull(REPO), lambda: client.copy("a", "b"), lambda: client.delete("a")):
            with pytest.raises(ollama.ResponseError, match="one model") as error:
                refused()
            assert error.value.status_code == 400
