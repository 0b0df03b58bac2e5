"""Rule 8 with adapters: a request says what mlx-lm says with its adapter alone, whatever runs beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import msgspec
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_adapters

from quince.engine.adapters import AdapterForward
from quince.engine.core import EngineCore
from quince.engine.forward import TextForward
from quince.engine.messages import AddRequest, FinishReason
from quince.errors import ModelLoadError
from quince.sampling import SamplingParams
from tests import tiny_adapters, tiny_models
from tests.engine.driver import Answer, make_core, run

MIXING = ("qwen3", "gemma3_text", "lfm2", "falcon_h1", "gemma2")
# Experts have one adapter in a pass; mamba's projections are called with other shapes; gpt_bigcode never batches.
OTHERS = ("qwen3_next", "deepseek_v3", "mamba", "gpt_bigcode")
BUDGET = 2**24

Choice = str | None


class Family:
    """A tiny model with adapters over it: ``a`` and ``b`` of different ranks and scales over different layers."""

    def __init__(self, name: str, path: Path, *names: str) -> None:
        self.name = name
        made: dict[str, Callable[[Path], Path]] = {
            "a": lambda path: tiny_adapters.save(self.build(), path, seed=1),
            "b": lambda path: tiny_adapters.save(self.build(), path, seed=2, rank=7, scale=4.0, keys=self.some_keys()),
            "dora": lambda path: tiny_adapters.save(self.build(), path, seed=3, dora=True),
        }
        self.paths = {adapter: made[adapter](path / adapter) for adapter in names}
        self.forward = AdapterForward(self.build(), self.paths)
        self._models: dict[Choice, Module] = {}
        self._cores: dict[Choice, EngineCore] = {}

    def build(self) -> Module:
        return tiny_models.build(self.name)

    def some_keys(self) -> list[str]:
        """Every second one of the linear layers that mlx-lm's tuner takes by itself."""
        model = self.build()
        names = {name for name, module in model.layers[-1].named_modules() if type(module).__name__ == "Linear"}
        return sorted(names)[::2]

    def core(self, *, cache: int = 0) -> EngineCore:
        return make_core(self.forward, prefix_cache_bytes=cache)

    def mlx_lm(self, adapter: Choice) -> Module:
        """The model as mlx-lm's own tools load it with one adapter."""
        if adapter not in self._models:
            model = self.build()
            if adapter is not None:
                load_adapters(model, str(self.paths[adapter]))
            model.eval()
            self._models[adapter] = model
        return self._models[adapter]

    def alone(self, request: AddRequest) -> list[int]:
        """By our engine without adapters, over mlx-lm's model with this one."""
        if request.adapter not in self._cores:
            self._cores[request.adapter] = make_core(TextForward(self.mlx_lm(request.adapter)))
        core = self._cores[request.adapter]
        return run(core, [msgspec.structs.replace(request, adapter=None)])[request.request_id].token_ids


@pytest.fixture(scope="module", params=MIXING)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param), "a", "b")


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param), "a", "b")


@pytest.fixture(scope="module")
def dora(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family("qwen3", tmp_path_factory.mktemp("dora"), "a", "dora")


def words(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(count)]


def ask(name: str, prompt: list[int], adapter: Choice, *, tokens: int = 12) -> AddRequest:
    return AddRequest(name, prompt, SamplingParams(max_tokens=tokens), adapter=adapter)


def random_requests(seed: int, count: int, adapters: tuple[Choice, ...]) -> list[AddRequest]:
    rng = random.Random(seed)
    requests = []
    for index in range(count):
        sampling = SamplingParams(
            max_tokens=rng.choice([1, 2, 15, 30]), temperature=rng.choice([0.0, 0.8]), seed=rng.randrange(2**64)
        )
        prompt = words(100 * seed + index, rng.choice([1, 2, 17, 40, 65, 150]))
        requests.append(AddRequest(f"r{index}", prompt, sampling, adapter=rng.choice(adapters)))
    return requests


def check_mixed(family: Family, seed: int, adapters: tuple[Choice, ...] = (None, "a", "b")) -> None:
    """Late joins, early leaves and aborts beside."""
    requests = random_requests(seed, 18, adapters)
    rng = random.Random(seed)
    arrivals = {request.request_id: rng.randrange(30) for request in requests}
    aborts = {request.request_id: rng.randrange(35) for request in rng.sample(requests, 3)}
    answers = run(family.core(), requests, arrivals=arrivals, aborts=aborts)
    for request in requests:
        answer, alone = answers[request.request_id], family.alone(request)
        assert answer.token_ids == alone[: len(answer.token_ids)]
        assert answer.finish_reason is FinishReason.ABORT or len(answer.token_ids) == request.sampling.max_tokens


@pytest.mark.parametrize("seed", [1, 2])
def test_mixed_batches_equal_each_request_alone(family: Family, seed: int) -> None:
    assert family.forward.mixes_adapters
    check_mixed(family, seed)


def test_models_that_cannot_mix_run_a_pass_for_each_adapter(other: Family) -> None:
    check_mixed(other, 3)


@pytest.mark.parametrize("name", ["qwen3_next", "deepseek_v3"])
def test_experts_have_one_adapter_in_a_pass(name: str, tmp_path: Path) -> None:
    assert not Family(name, tmp_path, "a").forward.mixes_adapters


def test_dora_runs_in_a_pass_of_its_own(dora: Family) -> None:
    assert not dora.forward.mixes_adapters
    check_mixed(dora, 4, (None, "a", "dora"))


def test_alone_equals_mlx_lm(family: Family) -> None:
    core = family.core()
    for adapter in (None, "a", "b"):
        prompt = words(5, 60)
        expected = [token for token, _ in generate_step(mx.array(prompt), family.mlx_lm(adapter), max_tokens=20)]
        assert run(core, [ask("r", prompt, adapter, tokens=20)])["r"].token_ids == expected


def test_adapters_change_what_a_model_says(family: Family) -> None:
    """The tests above would be empty otherwise."""
    answers = run(family.core(), [ask(str(adapter), words(6, 20), adapter) for adapter in (None, "a", "b")])
    assert len({tuple(answer.token_ids) for answer in answers.values()}) == 3


def test_an_adapter_resumes_from_its_own_prefixes_only(family: Family) -> None:
    core = family.core(cache=BUDGET)
    prompt = words(7, 120)
    for adapter in (None, "a", "b"):
        first, again = (run(core, [ask("r", prompt, adapter)])["r"] for _ in range(2))
        assert first.cached_tokens == 0
        assert again.cached_tokens == (119 if core.scheduler.prefix_cache.enabled else 0)
        assert first.token_ids == again.token_ids == family.alone(ask("r", prompt, adapter))


def test_requests_with_one_prompt_together_wait_for_their_own_adapter_only(family: Family) -> None:
    """One prefill of the shared prompt for each adapter, and copies from rows that decode within it."""
    core = family.core(cache=BUDGET)
    shared = words(8, 150)
    requests = [
        ask(f"{adapter}{user}", shared + words(20 + user, 4 + 3 * user), adapter)
        for user in range(4)
        for adapter in (None, "a", "b")
    ]
    arrivals = {request.request_id: 12 for request in requests if request.request_id.endswith("3")}
    answers = run(core, requests, arrivals=arrivals)
    for request in requests:
        answer = answers[request.request_id]
        assert answer.token_ids == family.alone(request)
        if core.scheduler.prefix_cache.enabled:
            assert (answer.cached_tokens >= 128) == (not request.request_id.endswith("0"))


def test_preempted_requests_go_on_with_their_adapter(family: Family) -> None:
    core = family.core(cache=BUDGET)
    memory = core.scheduler.memory
    memory.resize(4 * memory.row_bytes(300))
    requests = [
        ask(f"r{index}", words(30 + index, 200), adapter, tokens=120)
        for index, adapter in enumerate((None, "a", "b", "a", "b", None))
    ]
    answers = run(core, requests)
    for request in requests:
        assert answers[request.request_id].token_ids == family.alone(request)


def test_an_unknown_adapter_is_refused(family: Family) -> None:
    answer: Answer = run(family.core(), [ask("r", [1, 2], "nobody"), ask("ok", [1, 2], "a")])["r"]
    assert (answer.finish_reason, answer.error, answer.refused) == (
        FinishReason.ERROR,
        "its adapter cannot be used",
        True,
    )


def test_a_model_without_adapters_has_none_to_give() -> None:
    core = make_core(tiny_models.build("qwen3"))
    assert run(core, [ask("r", [1, 2], "a")])["r"].refused


def test_quantised_models_mix_adapters_too(tmp_path: Path) -> None:
    def build() -> Module:
        model = tiny_models.build("qwen3")
        nn.quantize(model, group_size=32, bits=8)
        return model

    paths = {name: tiny_adapters.save(build(), tmp_path / name, seed=seed) for seed, name in enumerate("ab")}
    forward = AdapterForward(build(), paths)
    assert forward.mixes_adapters
    requests = [ask(f"r{index}", words(index, 30), "ab"[index % 2]) for index in range(6)]
    answers = run(make_core(forward), requests)
    for request in requests:
        model = load_adapters(build(), str(paths[request.adapter or ""]))
        model.eval()
        expected = [t for t, _ in generate_step(mx.array(request.prompt_token_ids), model, max_tokens=12)]
        assert answers[request.request_id].token_ids == expected


# What does not fit is told at load


def refusal(paths: dict[str, Path]) -> str:
    with pytest.raises(ModelLoadError) as refused:
        AdapterForward(tiny_models.build("qwen3"), paths)
    return refused.value.message


def test_what_is_no_adapter_is_told(tmp_path: Path) -> None:
    assert "has no adapter_config.json" in refusal({"x": tmp_path})
    good = tiny_adapters.save(tiny_models.build("qwen3"), tmp_path / "good")
    (good / "adapter_config.json").write_text("[]")
    assert "is no object" in refusal({"x": good})
    (good / "adapter_config.json").write_text("{")
    assert "cannot be read" in refusal({"x": good})


def test_an_adapter_of_another_shape_is_told_by_its_name(tmp_path: Path) -> None:
    good = tiny_adapters.save(tiny_models.build("qwen3"), tmp_path / "good")
    wide = tiny_adapters.save(tiny_models.build("falcon_h1"), tmp_path / "wide")
    assert "the adapter wide does not fit the model" in refusal({"good": good, "x": wide})
    rank = {"rank": 5, "scale": 1.0, "dropout": 0.0}
    (good / "adapter_config.json").write_text(f'{{"num_layers": 2, "lora_parameters": {rank}}}'.replace("'", '"'))
    assert "does not match model parameter shape" in refusal({"good": good})


def test_a_full_fine_tune_is_refused(tmp_path: Path) -> None:
    path = tiny_adapters.save(tiny_models.build("qwen3"), tmp_path / "full")
    (path / "adapter_config.json").write_text('{"fine_tune_type": "full"}')
    assert "--adapter serves it, for all requests" in refusal({"x": path})
