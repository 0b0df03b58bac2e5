"""Adapters over HTTP: named by the model's name or by a field, with the official client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from mlx_lm.utils import load_model

from tests import tiny_adapters
from tests.e2e.helpers import arguments, async_client, chat_body, sync_client
from tests.e2e.server_process import ServerProcess, wait_for

CHAT = "/v1/chat/completions"


def make(model_dir: Path, path: Path, seed: int, **options: Any) -> Path:
    model, _ = load_model(model_dir)
    return tiny_adapters.save(model, path, seed=seed, **options)


@pytest.fixture(scope="module")
def paths(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {"sql": make(model_dir, root / "sql", 1), "poet": make(model_dir, root / "poet", 2, rank=8)}


@pytest.fixture(scope="module")
def adapted(
    model_dir: Path, paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    environ = {"QUINCE_ADAPTERS": ",".join(f"{name}={path}" for name, path in paths.items())}
    with ServerProcess(tmp_path_factory.mktemp("adapted") / "log", str(model_dir), env=environ) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def expected(
    model_dir: Path, paths: dict[str, Path], client: openai.OpenAI, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What servers say that have one adapter for all requests, and one that has none."""
    answers = {"": said(client.chat.completions.create(**arguments(chat_body())))}
    for name, path in paths.items():
        log = tmp_path_factory.mktemp("alone") / "log"
        with (
            ServerProcess(log, str(model_dir), "--adapter", str(path)) as alone,
            sync_client(alone.wait_ready().base_url) as theirs,
        ):
            answers[name] = said(theirs.chat.completions.create(**arguments(chat_body())))
    assert len(set(answers.values())) == 3
    return answers


def said(completion: Any) -> str:
    return str(completion.choices[0].message.content)


async def test_requests_for_different_adapters_run_beside_each_other(
    adapted: ServerProcess, expected: dict[str, str]
) -> None:
    async with async_client(adapted.base_url) as client:
        asked = ["", "sql", "poet"] * 6
        bodies = [chat_body(model=f"tiny-chat:{name}" if name else "tiny-chat") for name in asked]
        answers = await asyncio.gather(*(client.chat.completions.create(**arguments(body)) for body in bodies))
    assert [said(answer) for answer in answers] == [expected[name] for name in asked]
    assert [answer.model for answer in answers] == [body["model"] for body in bodies]


def test_the_field_means_the_same(adapted: ServerProcess, expected: dict[str, str]) -> None:
    for adapters in ("poet", ["poet"]):
        answer = adapted.post(CHAT, chat_body(adapters=adapters)).json()
        assert answer["choices"][0]["message"]["content"] == expected["poet"]
    both = adapted.post(CHAT, chat_body(model="default:poet", adapters=["poet"])).json()
    assert both["choices"][0]["message"]["content"] == expected["poet"]
    none = adapted.post(CHAT, chat_body(adapters=[])).json()
    assert none["choices"][0]["message"]["content"] == expected[""]


def test_completions_take_them_too(adapted: ServerProcess) -> None:
    def text(model: str) -> str:
        body = {"model": model, "prompt": "abc", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        return str(adapted.post("/v1/completions", body).json()["choices"][0]["text"])

    assert len({text("tiny-chat"), text("tiny-chat:sql"), text("tiny-chat:poet")}) == 3


def test_what_there_is_not_is_told(adapted: ServerProcess, server: ServerProcess) -> None:
    with (
        sync_client(adapted.base_url) as client,
        pytest.raises(openai.NotFoundError, match="tiny-chat:sql, tiny-chat:poet"),
    ):
        client.chat.completions.create(**arguments(chat_body(model="tiny-chat:nobody")))
    for asking, adapters, why in (
        (adapted, ["nobody"], "has no adapter 'nobody'. It has: sql, poet."),
        (server, "sql", "has no adapter 'sql'. It has none."),
    ):
        for stream in (False, True):
            refused = asking.post(CHAT, chat_body(adapters=adapters, stream=stream))
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "adapters"
            assert why in refused.json()["error"]["message"]
    assert adapted.post(CHAT, chat_body(adapters=["sql", "poet"])).status_code == 400
    clash = adapted.post(CHAT, chat_body(model="tiny-chat:sql", adapters=["poet"]))
    assert clash.status_code == 400 and "a request has one adapter" in clash.json()["error"]["message"]


def test_they_are_listed_behind_their_model(adapted: ServerProcess, server: ServerProcess) -> None:
    with sync_client(adapted.base_url) as client:
        assert [model.id for model in client.models.list()] == ["tiny-chat", "tiny-chat:sql", "tiny-chat:poet"]
        assert client.models.retrieve("tiny-chat:poet").id == "tiny-chat:poet"
    listed = adapted.get("/v1/models").json()["data"]
    assert [model.get("parent") for model in listed] == [None, "tiny-chat", "tiny-chat"]
    assert "parent" not in server.get("/v1/models").json()["data"][0]


def test_a_wrong_adapter_is_told_by_health(model_dir: Path, paths: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("adapter_config.json", "adapters.safetensors"):
        (tmp_path / "bad" / name).write_bytes((paths["sql"] / name).read_bytes()[:200])
    environ = {"QUINCE_ADAPTERS": f"bad={tmp_path / 'bad'}"}
    with ServerProcess(tmp_path / "log", str(model_dir), env=environ) as server:
        wait_for(lambda: "the adapter bad does not fit" in server.health().text, within=30, what="/health says why")
