"""A server with a tiny model of every type; the tests of embeddings, reranking and tokens share it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quince.models.store import ModelStore
from tests import pooling_models
from tests.e2e.server_process import ServerProcess
from tests.models.test_store import install

MODELS = ("bert", "modernbert", "qwen3-embedding", "bert-reranker", "xlm-roberta-reranker", "qwen3-reranker")


@contextmanager
def pooling_server(directory: Path, chat_model: Path, *args: str) -> Iterator[ServerProcess]:
    """With ``chat`` and all of MODELS installed, loaded on use."""
    home = directory / "home"
    store = ModelStore(home)
    install(store, chat_model, "chat")
    for name in MODELS:
        pooling_models.save(name, directory / name)
        install(store, directory / name, name)
    with ServerProcess(directory / "log", *args, env={"QUINCE_HOME": str(home)}) as server:
        yield server.wait_ready()
