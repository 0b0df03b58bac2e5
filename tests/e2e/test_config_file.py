"""Configuration files at real servers: what they say takes effect, for all models and for single ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from quince.models.store import ModelStore
from tests import tiny_models
from tests.e2e.helpers import assert_error_shape, chat_body
from tests.e2e.server_process import ServerProcess, wait_for
from tests.models.test_store import install

CHAT = "/v1/chat/completions"
LORA = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
UNDECIDED = {"temperature": None, "max_tokens": None}


@pytest.fixture(scope="module")
def adapter(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As mlx_lm.lora leaves it, with random weights."""
    path = tmp_path_factory.mktemp("adapter")
    config = json.loads((model_dir / "config.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.CONFIGS, "chat", config)
        model = tiny_models.build("chat")
    model.freeze()
    linear_to_lora_layers(model, 2, LORA)
    weights = {name: mx.random.normal(w.shape) for name, w in tree_flatten(model.trainable_parameters())}
    mx.save_safetensors(str(path / "adapters.safetensors"), weights)
    (path / "adapter_config.json").write_text(json.dumps({"num_layers": 2, "lora_parameters": LORA}))
    return path


@pytest.fixture(scope="module")
def many(model_dir: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of all models, which are one by many names, each with a section of its own."""
    folder = tmp_path_factory.mktemp("many")
    sections: dict[str, dict[str, Any]] = {
        "plain": {"temperature": 0},
        "short": {"ctx_size": 128, "max-tokens": 5, "alias": ["gpt-4o", "brief"], "idle_ttl": 0.5},
        "adapted": {"adapter": str(adapter)},
        "first-only": {"temperature": 2, "top_k": 1},
        "likely-only": {"temperature": 2, "min_p": 1},
        "surest-only": {"temperature": 2, "top_p": 1e-6},
        "varied": {"repetition_penalty": 5, "prefix_cache_bytes": 0},
        "coarse": {"kv_bits": 8, "kv_group_size": 32},
        "mute": {"tool_parser": "none", "reasoning_parser": "none"},
        "vectors": {"model_type": "embedding"},
        "starved": {"memory_bytes": 2**20},
    }
    for name in sections:
        install(ModelStore(folder), model_dir, name, f"quinces/{name}")
    settings = {"temperature": 0, "max_tokens": 40, "max_loaded_models": 4, "port": 1, "models": sections}
    (folder / "config.json").write_text(json.dumps(settings))
    with ServerProcess(folder / "log", env={"QUINCE_HOME": str(folder)}) as server:
        yield server.wait_ready()


def ask(server: ServerProcess, model: str, **fields: Any) -> dict[str, Any]:
    """A chat that says nothing of what the server decides then, and does not end by itself."""
    body = {name: value for name, value in chat_body(model=model, **fields).items() if name not in UNDECIDED}
    answer = server.post(CHAT, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def text(server: ServerProcess, model: str) -> str:
    content: str = ask(server, model)["choices"][0]["message"]["content"]
    return content


def test_a_context_a_length_and_other_names(many: ServerProcess) -> None:
    assert many.get("/v1/models/short").json()["max_model_len"] == 128, "known before it is loaded"
    for name in ("short", "gpt-4o", "brief"):
        answer = ask(many, name)
        assert answer["usage"]["completion_tokens"] == 5
    too_long = many.post(CHAT, chat_body("quince " * 200, model="brief"))
    assert assert_error_shape(too_long, 400)["code"] == "context_length_exceeded"
    assert ask(many, "plain")["usage"]["completion_tokens"] == 40, "the setting for all models"


def test_an_idle_time(many: ServerProcess) -> None:
    ask(many, "short")
    wait_for(lambda: many.get("/v1/models/short").json()["state"] == "unloaded", within=10, what="short is unloaded")
    ask(many, "plain")
    with pytest.raises(AssertionError, match="not within"):
        wait_for(lambda: many.get("/v1/models/plain").json()["state"] == "unloaded", within=2, what="plain stays")


@pytest.mark.parametrize("name", ["first-only", "likely-only", "surest-only"])
def test_how_tokens_are_chosen(many: ServerProcess, name: str) -> None:
    """Each leaves nothing to choose from, so it says what a greedy model does."""
    assert text(many, name) == text(many, "plain")


@pytest.mark.parametrize("name", ["adapted", "varied"])
def test_what_changes_what_a_model_says(many: ServerProcess, name: str) -> None:
    first = text(many, name)
    assert text(many, name) == first != text(many, "plain")


def test_keys_and_values_of_fewer_bits(many: ServerProcess) -> None:
    """Heads of 8 numbers have no groups of 32: that they are refused shows that both settings arrived."""
    refused = many.post(CHAT, chat_body(model="coarse"))
    assert refused.status_code == 503 and "in 8 bits by groups of 32" in refused.json()["error"]["message"]


def test_no_prefix_cache(many: ServerProcess) -> None:
    def cached(name: str) -> int:
        prompt = "Count the quinces, one by one. " * 40
        usage = [ask(many, name, text=prompt)["usage"] for _ in range(2)][1]
        return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))

    assert cached("plain") > 0
    assert cached("varied") == 0


def test_parsers(many: ServerProcess) -> None:
    for fields, name in (({"tools": [TOOL]}, "tools"), ({"thinking_budget": 5}, "thinking_budget")):
        assert many.post(CHAT, chat_body(model="plain", **fields)).status_code == 200
        refused = many.post(CHAT, chat_body(model="mute", **fields))
        assert assert_error_shape(refused, 400)["param"] == name


def test_a_type(many: ServerProcess) -> None:
    assert "of type embedding" in many.post(CHAT, chat_body(model="vectors")).json()["error"]["message"]
    answer = many.post("/v1/embeddings", {"model": "vectors", "input": "a quince"})
    assert answer.status_code == 200, answer.text


def test_memory(many: ServerProcess) -> None:
    refused = many.post(CHAT, chat_body(model="starved"))
    assert refused.status_code == 503 and "the engine's 1 MiB" in refused.json()["error"]["message"]


def test_the_only_model(model_dir: Path, adapter: Path, many: ServerProcess, tmp_path: Path) -> None:
    """`quince serve MODEL` reads its section too; the other sections, and what only the other server uses, rest."""
    (tmp_path / "config.yaml").write_text(
        f"""
idle-ttl: 1      # for servers of all models
preload: [none-of-these]
temperature: 0
models:
  {model_dir.name}:
    adapter: {adapter}
    max_tokens: 40
    ctx-size: 256
    alias: gpt-4o
  another: {{max_tokens: 3}}
"""
    )
    with ServerProcess(tmp_path / "log", str(model_dir), env={"QUINCE_HOME": str(tmp_path)}) as server:
        server.wait_ready()
        answer = ask(server, "gpt-4o")
        assert answer["usage"]["completion_tokens"] == 40
        assert answer["choices"][0]["message"]["content"] == text(many, "adapted")
        assert server.get("/v1/models").json()["data"][0]["max_model_len"] == 256
        assert assert_error_shape(server.post(CHAT, chat_body(model="another")), 404)["code"] == "model_not_found"


def test_a_named_file_and_what_goes_before_it(model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"model: {model_dir}\nqueue_size: 7\nmax_tokens: 6\ntemperature: 0\nmax-running-requests: 3\n")
    env = {"QUINCE_MAX_TOKENS": "4"}
    with ServerProcess(tmp_path / "log", "--config", str(file), "--queue-size", "9", env=env) as server:
        server.wait_ready()
        stats = server.stats()
        assert (stats["queue_size"], stats["max_running_requests"]) == (9, 3)
        assert ask(server, "default")["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("name", ["none", "what-is-this"])
def test_an_unknown_parser_is_told(model_dir: Path, tmp_path: Path, name: str) -> None:
    """One that is unknown ends the server with a sentence; this shows that it is looked at."""
    (tmp_path / "config.yaml").write_text(f"models:\n  {model_dir.name}: {{tool_parser: {name}}}\n")
    with ServerProcess(tmp_path / "log", str(model_dir), env={"QUINCE_HOME": str(tmp_path)}) as server:
        if name == "none":
            server.wait_ready()
        else:
            assert server.process.wait(30) == 1
            assert re.search(r"quince: .*what-is-this", server.logs()) and "Traceback" not in server.logs()
