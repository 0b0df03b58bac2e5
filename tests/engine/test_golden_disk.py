"""Rule 8 with the disk tier on: after a restart, a request that resumes from files says what it says alone without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import pytest

from quince.engine.core import EngineCore
from quince.engine.disk_tier import DiskTier
from quince.engine.kv_layout import KVQuantization
from quince.engine.messages import AddRequest
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone
from tests.engine.test_golden_cache import BUDGET, SNAPSHOTS, ask, check, words
from tests.engine.test_kv_quantization import wide_heads

IDENTITY = "0" * 32
CAP = 2**30


@contextmanager
def started(
    model: object,
    root: Path,
    *,
    memory: int = BUDGET,
    cap: int = CAP,
    identity: str = IDENTITY,
    quantization: KVQuantization | None = None,
) -> Iterator[EngineCore]:
    """One life of an engine, with a clean end; the disk is always worth it."""
    tier = DiskTier(root, identity, max_bytes=cap)
    assert tier.drain(10)
    core = make_core(model, prefix_cache_bytes=memory, kv_quantization=quantization, tier=tier)
    assert core.scheduler.disk is not None
    core.scheduler.disk.token_seconds = lambda: 1.0
    try:
        yield core
        core.close(20)
    finally:
        tier.close()


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*"))


@pytest.fixture(scope="module", params=["qwen3", "gemma3_text", "lfm2", "qwen3_next", "falcon_h1", "mamba"])
def model(request: pytest.FixtureRequest) -> object:
    return tiny_models.build(request.param)


@pytest.fixture
def family(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["model"])


def test_a_conversation_goes_on_after_restarts(model, tmp_path: Path) -> None:
    prompt = words(1, 150)
    known = 0
    for turn in range(4):
        request = ask(f"t{turn}", prompt, tokens=9 + turn)
        with started(model, tmp_path) as core:
            answer = run(core, [request])[request.request_id]
            check(model, request, answer)
            assert answer.cached_tokens == known == core.stats().disk_tokens
        known = len(prompt) + len(answer.token_ids) - 1
        prompt = prompt + answer.token_ids + words(10 + turn, 70)


def test_an_edited_middle_after_a_restart(model, family: str, tmp_path: Path) -> None:
    tokens = words(2, 300)
    with started(model, tmp_path) as core:
        run(core, [ask("first", tokens, boundaries=[80, 190])])
    for at in (100, 250):
        request = ask("edited", [*tokens[:at], *words(100 + at, 40)])
        with started(model, tmp_path) as core:
            answer = run(core, [request])["edited"]
            check(model, request, answer)
        if family in SNAPSHOTS:
            assert answer.cached_tokens == max(p for p in (80, 128, 190, 192, 256) if p <= at)
        else:
            assert at <= answer.cached_tokens <= at + 1


def test_what_was_evicted_comes_back_beside_running_streams(model, tmp_path: Path) -> None:
    """Far more conversations than memory holds, all of them gone on with while others run."""
    sessions = [words(40 + index, 150) for index in range(8)]
    with started(model, tmp_path) as core:
        layout = core.scheduler.prefix_cache._layout
        memory = 4 * (layout.segment_bytes(250) + 3 * layout.snapshot_bytes(250))
    rng, cached = random.Random(3), 0
    with started(model, tmp_path, memory=memory) as core:
        for turn in range(3):
            requests = [
                ask(f"{turn}-{index}", [*session, *words(100 * turn + index, 9)], tokens=rng.randrange(8, 30))
                for index, session in enumerate(sessions)
            ]
            stream = ask(f"stream-{turn}", words(turn, 20), tokens=60)
            arrivals = {request.request_id: rng.randrange(5, 40) for request in requests}
            answers = run(core, [stream, *requests], arrivals=arrivals)
            for request in [stream, *requests]:
                check(model, request, answers[request.request_id])
            assert core.scheduler.prefix_cache.nbytes <= memory
            cached += sum(answers[request.request_id].cached_tokens for request in requests)
            sessions = [[*r.prompt_token_ids, *answers[r.request_id].token_ids] for r in requests]
        assert core.stats().disk_tokens > 8 * 150
    assert cached >= 2 * 8 * 150


def test_broken_files_are_absent_ones(model, tmp_path: Path) -> None:
    prompt = words(5, 200)
    request = ask("r", prompt)
    with started(model, tmp_path) as core:
        run(core, [request])
    good = {path: path.read_bytes() for path in files(tmp_path)}
    rng = random.Random(1)
    for kind in ("flipped", "cut", "empty", "other"):
        for path, content in good.items():
            flipped = bytearray(content)
            flipped[rng.randrange(len(flipped) // 2, len(flipped))] ^= 64
            broken = {"flipped": bytes(flipped), "cut": content[:-7], "empty": b"", "other": b"x" * len(content)}
            path.write_bytes(broken[kind])
        with started(model, tmp_path, memory=BUDGET) as core:
            answer = run(core, [request])["r"]
            check(model, request, answer)
            assert answer.cached_tokens == 0
        assert {path: path.read_bytes() for path in files(tmp_path)}.keys() == good.keys(), "they were written anew"
    with started(model, tmp_path) as core:
        assert run(core, [request])["r"].cached_tokens == 199


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_keys_and_values(bits: int, tmp_path: Path) -> None:
    model = wide_heads("qwen3")
    request = ask("r", words(6, 150))
    answers = []
    for _ in range(2):
        with started(model, tmp_path, quantization=KVQuantization(bits, 32)) as core:
            answers.append(run(core, [request])["r"])
    assert answers[0].token_ids == answers[1].token_ids
    assert [answer.cached_tokens for answer in answers] == [0, 149]


def test_bfloat16_keeps_every_bit(tmp_path: Path) -> None:
    model = tiny_models.build("gemma3_text")
    model.set_dtype(mx.bfloat16)
    request = ask("r", words(7, 150))
    for cached in (0, 149):
        with started(model, tmp_path) as core:
            answer = run(core, [request])["r"]
            check(model, request, answer)
            assert answer.cached_tokens == cached


def test_another_model_finds_nothing(tmp_path: Path) -> None:
    model = tiny_models.build("qwen3")
    request = AddRequest("r", words(8, 150), ask("r", [1]).sampling)
    with started(model, tmp_path) as core:
        run(core, [request])
    with started(model, tmp_path, identity="1" * 32) as core:
        assert run(core, [request])["r"].cached_tokens == 0
    for path in (tmp_path / IDENTITY).iterdir():
        (tmp_path / ("1" * 32) / path.name).write_bytes(path.read_bytes())
    with started(model, tmp_path, identity="1" * 32) as core:
        answer = run(core, [request])["r"]
        assert answer.cached_tokens == 0
        assert answer.token_ids == run_alone(model, request).token_ids
