from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from quince.config import ServeConfig
from quince.doctor import state
from quince.doctor.finding import Status
from quince.errors import UsageError
from quince.models.store import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    found = ModelStore(tmp_path, tmp_path / "cache")
    found.staging.mkdir(parents=True)
    return found


def test_configuration() -> None:
    settings = ServeConfig.model_validate({"port": 1234})
    finding, found = state.configuration(lambda: settings)
    assert (finding.status, found) == (Status.OK, settings)


def test_a_wrong_configuration() -> None:
    def load() -> ServeConfig:
        raise UsageError("QUINCE_PORT = 'eighty': a number")

    finding, found = state.configuration(load)
    assert (finding.status, finding.text, found.port) == (Status.PROBLEM, "QUINCE_PORT = 'eighty': a number", 8000)


def test_models(store: ModelStore) -> None:
    assert state.models(store).status is Status.OK
    (store.directory / "half").mkdir()
    (store.directory / "half" / "config.json").write_text("{}")
    finding = state.models(store)
    assert (finding.status, "half: " in finding.text) == (Status.PROBLEM, True)
    assert "missing" in finding.text


def test_pulls(store: ModelStore) -> None:
    assert state.pulls(store).status is Status.OK
    staged = store.staging / "owner--name@abc"
    staged.mkdir()
    (staged / "model.safetensors").write_bytes(bytes(20_000_000))
    finding = state.pulls(store)
    assert (finding.status, finding.text) == (Status.WARNING, "half downloaded, 0.02 GB: owner/name")
    assert "quince pull owner/name" in finding.advice


def test_leftovers(tmp_path: Path) -> None:
    assert state.leftovers(tmp_path).status is Status.OK
    servers = tmp_path / "servers"
    servers.mkdir()
    (servers / "8000-1.json").write_text(json.dumps({"pid": os.getpid(), "port": 8000}))
    assert state.leftovers(tmp_path).status is Status.OK
    (servers / "8001-2.json").write_text(json.dumps({"pid": 2**22 + 7}))
    (servers / "8002-3.json").write_text("{")
    finding = state.leftovers(tmp_path)
    assert finding.status is Status.WARNING
    assert "8001-2.json, 8002-3.json" in finding.text
    assert "8000-1.json" not in finding.text
