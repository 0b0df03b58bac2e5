"""A plain checkpoint becomes an MLX model, quantised or not, and still says what it said."""

from __future__ import annotations

import json
import math
import shutil
import sys
import threading
import time
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model
from msgspec.structs import replace
from transformers import AutoTokenizer

from quince.engine.vision_loader import load_vision
from quince.errors import ConvertError, PullCancelled, StoreError
from quince.models import convert, demo, description
from quince.models.convert import Conversion
from quince.models.hub import Hub
from quince.models.model_type import ModelType
from quince.models.pull import Installer, Progress, Quantization
from tests.engine.driver import run
from tests.hub_server import HubServer
from tests.models.conftest import DEMO, TOKENIZER, Puller, write_model
from tests.vision_prompts import VisionFamily
from training.vision import evaluate

REPO = "quinces/plain"
WEIGHTS = "model.safetensors"
# What the demo model was trained for: on other text its perplexity would mean nothing.
TEXT = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("What is the capital of Peru?", "The capital of Peru is Lima."),
    ("What is 2 + 3?", "2 + 3 = 5."),
    ("What is Quince?", "Quince is a model server for MLX."),
    ("Hello!", "Hello! How can I help you?"),
)
# How far the perplexity may move. Measured, from 2.761: 4 bits -4.8 %, 8 bits +0.6 %.
DISTANCE = {4: 0.10, 8: 0.03}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as its publisher would have it on a hub: bfloat16, in shards, marked as PyTorch's."""
    assert DEMO is not None
    path = tmp_path_factory.mktemp("models") / "plain"
    path.mkdir()
    for name in (*TOKENIZER, "config.json", "generation_config.json", "README.md"):
        shutil.copy(DEMO / name, path)
    weights = mx.load(str(DEMO / "model.safetensors"))
    assert isinstance(weights, dict)
    names = sorted(weights)
    index: dict[str, str] = {}
    for i in range(3):
        file = f"model-{i + 1:05d}-of-00003.safetensors"
        shard = {name: weights[name].astype(mx.bfloat16) for name in names[i::3]}
        mx.save_safetensors(str(path / file), shard, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, file))
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def perplexity(path: Path) -> float:
    """Over the answers' tokens, each after its question."""
    model, _ = load_model(path)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    logprobs: list[float] = []
    for question, answer in TEXT:
        turn = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer.encode(text, add_special_tokens=False)
        expected = tokenizer.encode(answer, add_special_tokens=False)
        logits = model(mx.array([prompt + expected[:-1]]))[0, len(prompt) - 1 :].astype(mx.float32)
        normalised = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        logprobs += mx.take_along_axis(normalised, mx.array(expected)[:, None], axis=-1).flatten().tolist()
    return math.exp(-sum(logprobs) / len(logprobs))


@pytest.fixture(scope="module")
def original_perplexity(plain: Path) -> float:
    found = perplexity(plain)
    assert found < 4
    return found


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_pull_is_close_to_the_original(
    pull: Puller, hub: HubServer, plain: Path, original_perplexity: float, bits: int
) -> None:
    hub.add(REPO, plain)
    model = pull(REPO, bits=bits)
    found = model.manifest.description
    assert model.name == f"plain-{bits}bit"
    assert (found.format, found.bits, found.group_size, found.license) == ("mlx", bits, 64, "mit")
    original = description.describe(plain)
    assert original.format == "safetensors"
    assert found.parameters == pytest.approx(original.parameters, rel=0.01)
    assert found.size < original.size * (bits + 2) / 16 + 200_000
    for name in TOKENIZER:
        assert (model.path / name).read_bytes() == (plain / name).read_bytes(), "the publisher's own is kept"
    assert perplexity(model.path) == pytest.approx(original_perplexity, rel=DISTANCE[bits])


def test_a_plain_pull_is_converted_without_loss(
    pull: Puller, hub: HubServer, plain: Path, original_perplexity: float
) -> None:
    hub.add(REPO, plain)
    model = pull(REPO)
    assert (model.name, model.manifest.description.format, model.manifest.description.bits) == ("plain", "mlx", None)
    assert perplexity(model.path) == pytest.approx(original_perplexity, rel=1e-3)
    assert any("converting" in one.status for one in pull.progress)
    before = len(hub.sent)
    assert pull(REPO) == model
    assert len(hub.sent) == before


def test_an_installed_model_is_quantised(pull: Puller, hub: HubServer, plain: Path) -> None:
    hub.add(REPO, plain)
    pull(REPO)
    installer = Installer(pull.store, Hub(hub.endpoint))
    told: list[Progress] = []
    new = Quantization(bits=8, group_size=32, name="small")
    model = installer.quantize("plain", new, told.append, threading.Event())
    assert (model.name, model.manifest.description.bits, model.manifest.description.group_size) == ("small", 8, 32)
    assert told
    assert pull.store.get(REPO).name == "plain"
    with pytest.raises(ConvertError, match="already quantised"):
        installer.quantize("small", new, told.append, threading.Event())
    with pytest.raises(StoreError, match="already installed"):
        installer.quantize("quince-demo", new, told.append, threading.Event())


def conversion(source: Path, target: Path) -> Conversion:
    return Conversion(source=str(source), target=str(target), vision=False, bits=4, group_size=64)


def test_what_the_converter_does_not_know_is_said(plain: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(plain, strange)
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))
    with pytest.raises(ConvertError) as refused:
        convert.convert(conversion(strange, tmp_path / "out"), threading.Event())
    assert "nonsense" in refused.value.message and "\n" not in refused.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import sys; sys.exit('no such luck')", "no such luck"),
        ("import sys; sys.exit(3)", "no reason"),
    ],
)
def test_a_converter_that_dies(plain: Path, tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(ConvertError, match=said):
        convert.convert(conversion(plain, tmp_path / "out"), threading.Event(), (sys.executable, "-c", code))
    assert not (tmp_path / "out").exists()


def test_a_conversion_can_be_cancelled(plain: Path, tmp_path: Path) -> None:
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(PullCancelled):
        command = (sys.executable, "-c", "import time; time.sleep(60)")
        convert.convert(conversion(plain, tmp_path / "out"), cancelled, command)
    assert time.monotonic() - started < 5


def test_a_quantised_embedding_model_keeps_its_modules(
    pull: Puller, hub: HubServer, plain: Path, tmp_path: Path
) -> None:
    source = tmp_path / "embedding"
    shutil.copytree(plain, source)
    modules = {"modules.json": b"[]", "1_Pooling/config.json": b"{}", "2_Dense/model.safetensors": b"weights"}
    for name, content in modules.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    hub.add(REPO, source)
    model = pull(REPO, bits=8)
    assert model.type is ModelType.EMBEDDING
    assert {name: (model.path / name).read_bytes() for name in modules} == modules


# Vision models


def as_published(source: Path, target: Path) -> Path:
    """As its publisher would have it on a hub: marked as PyTorch's."""
    shutil.copytree(source, target)
    weights = mx.load(str(source / WEIGHTS))
    assert isinstance(weights, dict)
    mx.save_safetensors(str(target / WEIGHTS), weights, metadata={"format": "pt"})
    return target


def test_a_plain_vision_model_is_quantised_but_for_its_tower(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    source = demo.path(demo.VISION)
    assert source is not None
    hub.add(REPO, as_published(source, tmp_path / "plain"))
    model = pull(REPO, bits=4)
    found = model.manifest.description
    assert (model.type, found.format, found.bits, found.group_size) == (ModelType.VLM, "mlx", 4, 64)
    for name in (*TOKENIZER, "preprocessor_config.json", "processor_config.json"):
        assert (model.path / name).read_bytes() == (source / name).read_bytes(), "the publisher's own is kept"
    quantised = [name for name in mx.load(str(model.path / WEIGHTS)) if name.endswith(".scales")]
    assert any(name.startswith("language_model.") for name in quantised)
    assert not any(name.startswith("vision_model.") for name in quantised)
    outcomes = evaluate.score(evaluate.mlx_backend(model.path), "colour", 2)
    assert all(outcome["right"] for outcome in outcomes), outcomes


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_vision_model_answers_much_as_before(tmp_path: Path, bits: int) -> None:
    family = VisionFamily("qwen2_vl", tmp_path / "whole")
    request = family.request("r", "what is # there?", [0], max_tokens=4 if bits == 8 else 1)
    before = family.alone(request)
    small = replace(conversion(family.path, tmp_path / "small"), vision=True, bits=bits, group_size=32)
    convert.convert(small, threading.Event())
    family.model = load_vision(tmp_path / "small", max_model_len=None).model
    engine, forward = family.core()
    assert run(engine, [request])["r"].token_ids == before.token_ids
    assert forward.encoded_media == 1


def test_a_vision_model_without_its_converter_is_refused_before_its_weights_come(
    pull: Puller, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "find_spec", lambda _: None)
    path = write_model(tmp_path / "eyes", vision_config={})
    hub.add(REPO, path)
    with pytest.raises(ConvertError, match=r"needs mlx-vlm: pip install 'quince\[vision\]'"):
        pull(REPO, bits=4)
    assert hub.bytes_sent(WEIGHTS) < (path / WEIGHTS).stat().st_size
    assert pull(REPO).type is ModelType.VLM, "it is in MLX's format already"
