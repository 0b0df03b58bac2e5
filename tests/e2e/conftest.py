"""A tiny random chat model, one server for the ordinary tests, and a factory for those that break theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import openai
import pytest
from schemathesis.pytest.plugin import SchemathesisFunction

from tests import tiny_models
from tests.e2e.helpers import CONTEXT, async_client, sync_client
from tests.e2e.pooling_server import pooling_server
from tests.e2e.server_process import ServerProcess

DEMO = Path(__file__).parents[2] / "quince" / "models" / "demo" / "quince-demo"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
VOCAB_SIZE = 4096
# So many that a random answer meets one soon, unless it ignores them.
END_OF_TURN = 4089
EOS_TOKEN_IDS = [*range(300, 400), END_OF_TURN]

StartServer = Callable[..., ServerProcess]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test an id of its own: with pytest 9.2, schemathesis's have one, and pytest-xdist would run only the
    first of them, as often as there are any."""
    for item in items:
        if isinstance(item, SchemathesisFunction):
            item._id = item.parent.id.child(item.name)
    assert len({item.nodeid for item in items}) == len(items)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with the demo model's tokenizer and template: answers are noise, and always the same noise."""
    config = {**tiny_models.CONFIGS["qwen3"], "vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT}
    with mock.patch.dict(tiny_models.CONFIGS, chat=config):
        path = tiny_models.save("chat", tmp_path_factory.mktemp("models") / "tiny-chat")
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO / name, path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS_TOKEN_IDS}))
    return path


@pytest.fixture(scope="session")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Shared: tests leave it as they found it."""
    with ServerProcess(tmp_path_factory.mktemp("server") / "log", str(model_dir)) as process:
        yield process.wait_ready()


@pytest.fixture
def start_server(model_dir: Path, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers of the test's own: ``start_server("--queue-size", "1", env={...}, model=path, ready=True)``."""
    with ExitStack() as stack:
        count = 0

        def start(
            *args: str, env: dict[str, str] | None = None, model: Path = model_dir, ready: bool = True
        ) -> ServerProcess:
            nonlocal count
            count += 1
            process = stack.enter_context(ServerProcess(tmp_path / f"server-{count}.log", str(model), *args, env=env))
            return process.wait_ready() if ready else process

        yield start


@pytest.fixture(scope="session")
def pooling(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Embedding and reranking models beside a chat model; shared."""
    with pooling_server(tmp_path_factory.mktemp("pooling"), model_dir) as process:
        yield process


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with sync_client(server.base_url) as made:
        yield made


@pytest.fixture
async def aclient(server: ServerProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with async_client(server.base_url) as made:
        yield made


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The embedded model, which knows something. Shared, too."""
    with ServerProcess(tmp_path_factory.mktemp("demo-server") / "log") as process:
        yield process.wait_ready()


@pytest.fixture(scope="session")
def demo(demo_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with sync_client(demo_server.base_url) as made:
        yield made


@pytest.fixture(scope="session")
def random_model(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same noise, but what ends its answers is no text, as in every real vocabulary: grammars need that."""
    path = shutil.copytree(model_dir, tmp_path_factory.mktemp("random") / "random-chat")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": END_OF_TURN}))
    return path


@pytest.fixture(scope="session")
def random_server(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Shared, too."""
    with ServerProcess(tmp_path_factory.mktemp("random-server") / "log", str(random_model)) as process:
        yield process.wait_ready()
