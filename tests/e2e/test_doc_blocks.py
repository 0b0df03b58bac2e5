"""Every block of code in the documents is run, read by what it is for, or says why it cannot be."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from quince import config_sources
from tests import markdown
from tests.e2e.conftest import DEMO
from tests.e2e.reader import RUN, Reader, script
from tests.e2e.server_process import ServerProcess
from tests.hub_server import HubServer

PULLED = "mlx-community/Qwen3-0.6B-4bit"
PLAIN = "Qwen/Qwen3-1.7B"
DOCUMENTS = [markdown.read(path) for path in markdown.documents()]
BLOCKS = [block for document in DOCUMENTS for block in document.blocks]
# Documents that a newcomer begins with: nothing is installed yet.
FROM_NOTHING = ("README.md", "docs/models.md")
# What has to be seen of what a document runs.
SAID = {
    "README.md": ["Paris"],
    "docs/models.md": ["Qwen3-0.6B-4bit"],
    "docs/run.md": ["The capital of France is Paris."],
    "docs/running.md": ["http://127.0.0.1:"],
    "docs/configuration.md": ["queue_size", "config.yaml"],
}
REASONS = (
    "needs Docker",
    "needs adapters",
    "needs a GPU",
    "needs macOS",
    "needs pipx and uv, and the network",
    "takes minutes",
    "installs a service for whoever runs it",
)
# Ports that the documents name; each is replaced by a free one.
PORTS = ("8000", "8001", "8080")
SERVES = re.compile(r"^\s*(?:\S*quince (?:serve|start)|make serve)\b", re.MULTILINE)


def runs(document: markdown.Document) -> bool:
    return any(block.language in RUN and block.not_run is None for block in document.blocks)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """The demo model, by the names of the models that the documents pull."""
    with HubServer() as server:
        server.add(PULLED, DEMO)
        server.add(PLAIN, DEMO)
        yield server


@pytest.fixture(scope="module")
def installed(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home's .quince in which the documents' model is."""
    with Reader(hub.endpoint) as reader:
        done = reader.run(f"quince pull {PULLED}\n", "pull", port=0)
        assert done.returncode == 0, done.stderr
        return Path(shutil.copytree(reader.home / ".quince", tmp_path_factory.mktemp("installed") / "quince"))


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def make_repository(reader: Reader) -> None:
    """The checkout is one, with a change that is not committed, and a picture."""
    git = ["git", "-C", str(reader.checkout)]
    subprocess.run([*git, "init", "--quiet"], env=reader.env, check=True)
    (reader.checkout / "notes.txt").write_text("one\n")
    subprocess.run([*git, "add", "notes.txt"], env=reader.env, check=True)
    (reader.checkout / "notes.txt").write_text("one\ntwo\n")
    Image.new("RGB", (64, 64), "red").save(reader.checkout / "photo.jpg")


@pytest.mark.parametrize(
    "document",
    [document for document in DOCUMENTS if runs(document)],
    ids=lambda document: markdown.name(document.path),
)
def test_what_a_document_says_can_be_typed(
    document: markdown.Document, hub: HubServer, installed: Path, demo_server: ServerProcess
) -> None:
    """Against servers of its own if it starts any, else against one that is there."""
    name = markdown.name(document.path)
    text = script(document)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    if not SERVES.search(text):
        ports["8000"] = int(demo_server.base_url.rpartition(":")[2])
    text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: str(ports[found[1]]), text)
    with Reader(hub.endpoint, set_up=name != "README.md") as reader:
        make_repository(reader)
        if name not in FROM_NOTHING:
            shutil.copytree(installed, reader.home / ".quince")
        done = reader.run(text, name.replace("/", "-"), port=ports["8000"])
        told = f"{name}\n--- output\n{done.stdout}\n--- errors\n{done.stderr}\n--- server\n{reader.server_log()}"
    assert done.returncode == 0, told
    assert "Traceback" not in told
    for expected in SAID[name]:
        assert expected in done.stdout, told


# What is not run but read: by its language


def check_yaml(block: markdown.Block, tmp_path: Path, server: ServerProcess) -> None:
    """A configuration file of Quince's, or Prometheus's."""
    if "scrape_configs:" not in block.text:
        (tmp_path / "config.yaml").write_text(block.text)
        resolved = config_sources.load({}, {"QUINCE_HOME": str(tmp_path)})
        assert resolved != config_sources.load({}, {"QUINCE_HOME": str(tmp_path / "nothing")})
        return
    (job,) = yaml.safe_load(block.text)["scrape_configs"]
    assert set(job) <= {"job_name", "static_configs", "authorization"} and set(job["authorization"]) == {"credentials"}
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    assert list(text_string_to_metric_families(server.get("/metrics").text))


def check_json(block: markdown.Block, tmp_path: Path, server: ServerProcess) -> None:
    """An answer has the fields that the server's has; a line of the log is an object."""
    written = json.loads(block.text)
    if "queue_stats" in written:
        assert shape(written) == shape(server.get("/v1/queue/stats").json())
    else:
        assert {"time", "level", "logger", "message"} <= set(written)


def shape(value: Any) -> Any:
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else None


def check_promql(block: markdown.Block, tmp_path: Path, server: ServerProcess) -> None:
    """Names of series that there are."""
    served = {
        sample.name
        for family in text_string_to_metric_families(server.get("/metrics").text)
        for sample in family.samples
    }
    named = set(re.findall(r"quince:\w+", block.text))
    help_of = server.get("/metrics").text
    assert named
    for metric in named:
        assert metric in served or f"# TYPE {metric.removesuffix('_bucket')} " in help_of, metric


def check_text(block: markdown.Block, tmp_path: Path, server: ServerProcess) -> None:
    """Drawings, lines of a log, what is printed: no command."""
    if markdown.name(block.path) != "docs/cli.md":  # which tests/test_docs.py checks
        assert not re.search(r"^\s*(\$ |quince |make |curl |pip )", block.text, re.MULTILINE)


CHECKS: dict[str, Callable[[markdown.Block, Path, ServerProcess], None]] = {
    "yaml": check_yaml,
    "json": check_json,
    "promql": check_promql,
    "text": check_text,
}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in CHECKS], ids=str)
def test_what_a_document_shows_is_so(block: markdown.Block, tmp_path: Path, demo_server: ServerProcess) -> None:
    CHECKS[block.language](block, tmp_path, demo_server)


def test_every_block_is_run_or_read() -> None:
    """What cannot be run here has its reason before it, which must be one of a few."""
    unknown = [str(block) for block in BLOCKS if block.language not in (*RUN, *CHECKS)]
    assert not unknown, f"blocks of a language that is neither run nor read: {unknown}"
    left_out = {str(block): block.not_run for block in BLOCKS if block.not_run is not None}
    for block, reason in left_out.items():
        print(f"not run: {block}: {reason}")
        assert reason in REASONS, f"{block}: {reason}"
    assert not [block for block in BLOCKS if block.not_run is not None and block.language not in RUN]
