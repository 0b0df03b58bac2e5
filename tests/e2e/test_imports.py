"""What the processes of a server do not import: PyTorch, and what an engine has no use for."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from quince.models import convert, demo
from tests.demo_models import DEMOS
from tests.e2e.server_process import ServerProcess


def install_fake(site: Path, imported: Path) -> None:
    """What looks like an installed PyTorch, and notes who imports it."""
    for directory in (package := site / "torch", metadata := site / "torch-2.13.0.dist-info"):
        directory.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    (package / "__init__.py").write_text(
        f"import sys\nopen({str(imported)!r}, 'a').write(f'{{sys.argv}}\\n')\n__version__ = '2.13.0'\n"
    )


def use_both(server: ServerProcess) -> None:
    """A model that writes and one that embeds."""
    embedding = next(name for name in DEMOS if name.endswith("embedding"))
    message = {"role": "user", "content": "What is 2 + 3?"}
    chat = server.http.post(f"{server.base_url}/v1/chat/completions", json={"messages": [message]})
    embedded = server.http.post(f"{server.base_url}/v1/embeddings", json={"model": embedding, "input": "tea"})
    assert (chat.status_code, embedded.status_code) == (200, 200), (chat.text, embedded.text)


def test_no_process_of_a_text_model_imports_pytorch(tmp_path: Path) -> None:
    imported = tmp_path / "imported"
    install_fake(tmp_path / "site", imported)
    with ServerProcess(tmp_path / "log", env={"PYTHONPATH": str(tmp_path / "site")}) as server:
        server.wait_ready()
        use_both(server)
    assert not imported.exists(), imported.read_text()


def test_a_converter_does_not_import_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = tmp_path / "imported"
    install_fake(tmp_path / "site", imported)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    source = demo.path(demo.CHAT)
    assert source is not None
    conversion = convert.Conversion(source=str(source), target=str(tmp_path / "out"), vision=False, bits=4)
    convert.convert(conversion, threading.Event())
    assert (tmp_path / "out" / "config.json").is_file()
    assert not imported.exists(), imported.read_text()


def test_no_engine_of_a_text_model_imports_transformers(tmp_path: Path) -> None:
    """Or what downloads: either takes longer to import than a small model to load."""
    with ServerProcess(tmp_path / "log", env={"PYTHONPROFILEIMPORTTIME": "1"}) as server:
        server.wait_ready()
        use_both(server)
        pids = [engine.pid for engine in server.engines()]
        log = server.logs()
    assert len(pids) == 2
    for pid in pids:
        imported = re.findall(rf"import time:.*\| +(\S+) .*engine={pid}", log)
        assert "mlx_lm.models.cache" in imported
        assert not {name.partition(".")[0] for name in imported} & {"transformers", "huggingface_hub"}
