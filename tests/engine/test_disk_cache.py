"""Scenarios: requests that wait for the disk, beside others, with a real tier and without MLX."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from quince.engine.disk_cache import DiskCache
from quince.engine.disk_tier import DiskTier
from quince.engine.grouping import DecodeGroups
from quince.engine.kv_layout import KVLayout
from quince.engine.media import keyed_token_ids
from quince.engine.memory import KVMemory
from quince.engine.messages import MediaInput, Output
from quince.engine.pacing import PrefillPacer
from quince.engine.prefill import LaneRules
from quince.engine.prefix_cache import PrefixCache
from quince.engine.request import Request
from quince.engine.scheduler import Scheduler, SchedulerConfig
from quince.sampling import SamplingParams
from tests.engine.fake_runner import FakeRunner

FULL = KVLayout(token_bytes=10)
HYBRID = KVLayout(token_bytes=10, state_bytes=300)
RECURRENT = KVLayout(state_bytes=300)
LAYOUTS = {"full": FULL, "window": KVLayout(token_bytes=10, windows=((8, 20),)), "hybrid": HYBRID, "pure": RECURRENT}


class Engine:
    """One life of a scheduler and its runner, on a directory that outlives it."""

    def __init__(self, root: Path, layout: KVLayout = FULL, *, cache: int = 2**20, token_seconds: float = 1.0) -> None:
        self.layout = layout
        self.tier = DiskTier(root, "a" * 32, max_bytes=2**24)
        assert self.tier.drain(10)
        self.prefix_cache = PrefixCache(layout, max_bytes=cache)
        self.disk = DiskCache(self.tier, self.prefix_cache, layout, lambda: token_seconds)
        self.scheduler = Scheduler(
            SchedulerConfig(4, LaneRules(100), snapshot_interval=64),
            pacer=PrefillPacer(max_tokens=100),
            prefix_cache=self.prefix_cache,
            memory=KVMemory(layout, max_bytes=2**24, max_width=100),
            groups=DecodeGroups(max_padding=2**40),
            disk=self.disk,
        )
        self.runner = FakeRunner(layout, self.tier)
        self.cached: dict[str, int] = {}

    def step(self) -> list[Output]:
        outputs = self.scheduler.update(self.runner.run(self.scheduler.schedule()))
        self.cached |= {output.request_id: output.cached_tokens for output in outputs if output.started}
        assert self.runner.kept_bytes == self.prefix_cache.nbytes <= self.prefix_cache.max_bytes
        return outputs

    def run_out(self) -> list[Output]:
        outputs: list[Output] = []
        deadline = time.monotonic() + 20
        while self.scheduler.has_work() or self.scheduler.num_waiting or self.prefix_cache.unwritten:
            assert time.monotonic() < deadline, "never done"
            outputs += self.step() if self.scheduler.has_work() else []
        assert self.runner.held == 0
        return outputs

    def ask(self, name: str, prompt: list[int], max_tokens: int = 3) -> int:
        """Run a request by itself. Returns what it did not have to compute."""
        self.scheduler.add(Request(name, prompt, SamplingParams(max_tokens=max_tokens)))
        self.run_out()
        return self.cached[name]

    def end(self) -> None:
        assert self.tier.drain(10)
        self.tier.close()


def words(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000) for _ in range(count)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_conversation_goes_on_in_the_next_life(name: str, tmp_path: Path) -> None:
    first = Engine(tmp_path, LAYOUTS[name])
    assert first.ask("a", words(1, 300)) == 0
    first.end()
    second = Engine(tmp_path, LAYOUTS[name])
    answer = [1000, 1001, 1002]
    assert second.ask("b", [*words(1, 300), *answer, *words(2, 50)]) == 302
    assert second.disk.loaded_tokens == 302 and second.runner.computed == 50
    assert second.ask("c", words(1, 300)) == 299
    assert second.disk.loads == 1 if name == "full" else 2, "a snapshot that memory has not is read, too"
    second.end()


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_written_twice(name: str, tmp_path: Path) -> None:
    files = []
    for _ in range(3):
        engine = Engine(tmp_path, LAYOUTS[name], token_seconds=0.0)  # computing is cheaper
        assert engine.ask("a", words(1, 300)) == 0
        assert engine.ask("b", [*words(1, 100), *words(2, 50)]) >= 64
        engine.end()
        files.append({path: path.stat().st_ino for path in tmp_path.glob("*/*")})
    assert files[0] == files[1] == files[2] and len(files[0]) > 1


def test_others_go_on_while_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Engine(tmp_path)
    first.ask("a", words(1, 300))
    first.end()
    engine = Engine(tmp_path)
    monkeypatch.setattr(engine.tier, "take", lambda load: None)  # the disk hangs
    engine.scheduler.add(Request("slow", words(1, 310), SamplingParams(max_tokens=3)))
    engine.scheduler.add(Request("same", words(1, 305), SamplingParams(max_tokens=3)))
    engine.scheduler.add(Request("other", words(2, 200), SamplingParams(max_tokens=3)))
    said = [token for _ in range(20) for output in engine.step() for token in output.token_ids]
    assert engine.cached == {"other": 0} and len(said) == 3
    assert engine.scheduler.num_waiting == engine.scheduler.num_loading == 2
    assert engine.disk.loads == 1, "one load for both"
    monkeypatch.undo()
    engine.run_out()
    assert engine.cached == {"other": 0, "slow": 300, "same": 300}
    engine.end()


def test_who_waits_can_be_aborted(tmp_path: Path) -> None:
    first = Engine(tmp_path)
    first.ask("a", words(1, 300))
    first.end()
    engine = Engine(tmp_path)
    engine.scheduler.add(Request("a", words(1, 310), SamplingParams(max_tokens=3)))
    engine.step()
    assert engine.scheduler.num_loading == 1
    engine.scheduler.abort(["a"])
    assert engine.scheduler.num_loading == 0
    assert [output.request_id for output in engine.run_out()] in (["a"], [])
    time.sleep(0.1)
    engine.run_out()
    assert engine.ask("b", words(1, 310)) == 300, "what was read is kept"
    assert engine.prefix_cache.evict(2**20) > 0 and engine.prefix_cache.nbytes == 0, "nothing stays pinned"
    engine.end()


def test_a_cache_that_is_dropped_meanwhile(tmp_path: Path) -> None:
    first = Engine(tmp_path)
    first.ask("a", words(1, 300))
    first.end()
    engine = Engine(tmp_path)
    engine.ask("b", words(1, 120))
    engine.scheduler.add(Request("c", words(1, 310), SamplingParams(max_tokens=3)))
    engine.step()
    engine.scheduler.fail_running("on purpose")
    engine.runner = FakeRunner(FULL, engine.tier)
    engine.run_out()
    assert engine.cached["c"] in (0, 300)
    engine.end()


@pytest.mark.parametrize("name", ["full", "hybrid"])
def test_what_memory_has_is_not_read(name: str, tmp_path: Path) -> None:
    prompt = words(1, 600)
    first = Engine(tmp_path, LAYOUTS[name])
    first.ask("a", prompt)
    first.end()
    engine = Engine(tmp_path, LAYOUTS[name])
    read: list[int] = []
    load = engine.tier.load
    engine.tier.load = lambda wanted, used=(): (read.append(wanted[0].start), load(wanted, used))[1]  # type: ignore
    assert engine.ask("b", [*prompt[:300], *words(2, 50)]) >= 256
    assert engine.ask("c", [*prompt, 7]) == (600 if name == "full" else 599)
    assert read[0] == 0 and 256 <= read[1] <= 300
    engine.end()


def test_a_prompt_that_memory_cannot_hold_is_read_as_far_as_it_can(tmp_path: Path) -> None:
    first = Engine(tmp_path)
    first.ask("a", words(1, 3000))
    first.end()
    engine = Engine(tmp_path, cache=10_000)
    assert engine.ask("b", words(1, 3100)) == 0, "no room for what would be read"
    engine.end()


def test_images_are_known_by_their_content(tmp_path: Path) -> None:
    prompt = words(1, 200)
    picture, other = ([MediaInput(key, 3, [(20, 100)], [])] for key in ("a picture", "another"))
    first = Engine(tmp_path)
    first.ask("a", keyed_token_ids(prompt, picture))
    first.end()
    engine = Engine(tmp_path)
    assert engine.ask("b", [*keyed_token_ids(prompt, other), 1]) == 0
    assert engine.ask("c", [*keyed_token_ids(prompt, picture), 1]) == 200
    engine.end()


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", range(4))
def test_random_lives(name: str, seed: int, tmp_path: Path) -> None:
    """Conversations that go on, branch and are edited, memory for a few of them, files that vanish, aborts, restarts.
    The fake runner checks that every row is made of its own tokens."""
    rng = random.Random(seed)
    conversations = [words(index, 150) for index in range(6)]
    conversations[1] = conversations[0][:90] + conversations[1]
    loaded = 0
    for life in range(4):
        engine = Engine(tmp_path, LAYOUTS[name], cache=rng.choice([4_000, 9_000, 100_000]))
        for turn in range(12):
            index = rng.randrange(6)
            if rng.random() < 0.2:
                conversations[index] = conversations[index][: rng.randrange(80, len(conversations[index]))]
            conversations[index] = conversations[index] + words(1000 * life + turn, rng.randrange(1, 40))
            request = Request(f"{life}-{turn}", conversations[index], SamplingParams(max_tokens=rng.randrange(1, 9)))
            engine.scheduler.add(request)
            for _ in range(rng.randrange(12)):
                engine.step()
            if rng.random() < 0.15:
                engine.scheduler.abort([request.request_id])
            if rng.random() < 0.3 and (files := sorted(tmp_path.glob("*/*.s*"))):
                rng.choice(files).unlink(missing_ok=True)
            if rng.random() < 0.5:
                engine.run_out()
        engine.run_out()
        loaded += engine.disk.loaded_tokens
        engine.end()
    assert loaded > 500
