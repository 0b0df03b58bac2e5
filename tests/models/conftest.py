"""A hub, a store, and models to publish: small ones made of noise, and the demo model as a plain checkpoint."""

from __future__ import annotations

import json
import random
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quince.models import demo
from quince.models.hub import Hub
from quince.models.pull import Installer, Progress, PullRequest
from quince.models.store import ModelStore, StoredModel
from tests.hub_server import HubServer

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
DEMO = demo.path(demo.CHAT)
REPO = "quinces/tiny"


def write_safetensors(path: Path, *, size: int, format: str = "mlx", seed: int = 0) -> None:
    """One tensor of ``size`` bytes of noise."""
    header = {"__metadata__": {"format": format}, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + random.Random(seed).randbytes(size))


def write_model(path: Path, *, size: int = 200_000, shards: int = 1, seed: int = 0, **config: Any) -> Path:
    """A directory that passes for an MLX model as long as nobody runs it."""
    path.mkdir(parents=True)
    assert DEMO is not None
    for name in TOKENIZER:
        shutil.copy(DEMO / name, path)
    (path / "config.json").write_text(
        json.dumps(
            {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 512, **config}
        )
    )
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    names = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    if shards == 1:
        names = ["model.safetensors"]
    else:
        index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    for i, name in enumerate(names):
        write_safetensors(path / name, size=size, seed=seed + i)
    return path


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def default_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The hub that HF_ENDPOINT would name, for code of this process that names none."""
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    return hub


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home", cache=tmp_path / "hf-cache")


class Puller:
    """Pulls into the store and remembers what was told on the way."""

    def __init__(self, store: ModelStore, hub: HubServer) -> None:
        self.store = store
        self._hub = hub
        self.progress: list[Progress] = []
        self.cancelled = threading.Event()

    def __call__(self, repo_id: str = REPO, *, token: str | None = None, **options: Any) -> StoredModel:
        installer = Installer(self.store, Hub(self._hub.endpoint, token))
        return installer.pull(PullRequest(repo_id, **options), self.progress.append, self.cancelled)

    @property
    def installed(self) -> list[str]:
        return [model.name for model in self.store.models() if model.origin == "installed"]

    def visible(self) -> list[str]:
        """What lies in the store's directory beside the staging directory."""
        return sorted(path.name for path in self.store.directory.glob("[!.]*"))


@pytest.fixture
def pull(store: ModelStore, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Puller:
    monkeypatch.setattr("quince.models.hub.RETRY_DELAY", 0.01)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return Puller(store, hub)
