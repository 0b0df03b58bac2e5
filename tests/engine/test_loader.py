"""Adapters over a model's weights."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from quince.engine.loader import load
from quince.engine.messages import AddRequest
from quince.errors import ModelLoadError
from quince.sampling import SamplingParams
from tests import tiny_adapters, tiny_models
from tests.engine.driver import make_core, run


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    return tiny_models.save("qwen3", tmp_path / "model")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny_adapters.save(tiny_models.build("qwen3"), tmp_path / "adapter")


def answer(model_path: Path, adapter: Path | None) -> list[int]:
    model = load(model_path, max_model_len=None, adapter=adapter).model
    return run(make_core(model), [AddRequest("r", [1, 2, 3], SamplingParams(max_tokens=20))])["r"].token_ids


def test_an_adapter_changes_what_a_model_says(model_path: Path, adapter: Path) -> None:
    assert answer(model_path, adapter) != answer(model_path, None)
    assert answer(model_path, adapter) == answer(model_path, adapter)


def test_what_is_no_adapter_is_told(model_path: Path, adapter: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"has no adapter_config\.json"):
        load(model_path, max_model_len=None, adapter=model_path)
    (adapter / "adapters.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"has no adapters\.safetensors"):
        load(model_path, max_model_len=None, adapter=adapter)


def test_an_adapter_of_another_model_is_told(model_path: Path, adapter: Path) -> None:
    mx.save_safetensors(
        str(adapter / "adapters.safetensors"), {"model.layers.0.self_attn.q_proj.lora_a": mx.zeros((7, 3))}
    )
    with pytest.raises(ModelLoadError, match="does not fit the model"):
        load(model_path, max_model_len=None, adapter=adapter)
