from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from quince.engine.pacing import AIM, ALONE, GRAIN, GRAIN_BY_DEPTH, GROWTH, TARGET_GAP, PrefillPacer


class Device:
    """Streams whose step takes ``decode`` seconds run on it. A prompt's token costs ``token`` seconds; a shape that was
    not seen before ``compiling`` seconds besides, but no more than ``known_width`` tokens behind others, and a
    process's first one second."""

    def __init__(
        self,
        *,
        decode: float,
        token: float,
        compiling: float = 0.0,
        max_tokens: int = 2048,
        known_width: int | None = None,
    ) -> None:
        self.decode, self.token, self.compiling, self.known_width = decode, token, compiling, known_width or 0
        self.pacer = PrefillPacer(max_tokens=max_tokens, token_seconds=20 * token, known_width=known_width)
        self.shapes: set[tuple[int, int, int, int]] = set()
        for _ in range(10):
            self.pacer.observe_decode(decode)

    def gaps(self, length: int, *, buffer: int = 0) -> list[float]:
        """Of the streams, while a prompt of so many tokens is computed. Another ``buffer`` makes shapes new, which the
        pacer is not told."""
        start, gaps = 0, []
        while start < length:
            tokens = min(self.pacer.budget(decoding=True, start=start), length - start)
            shape = (1, tokens, start, buffer)
            known = shape in self.shapes or (start > 0 and tokens <= self.known_width)
            compiling = 0.0 if known else self.compiling if self.shapes else 1.0
            self.shapes.add(shape)
            gaps.append(self.decode + tokens * self.token + compiling)
            self.pacer.observe_prefill(shape[:3], tokens, gaps[-1], decoding=True)
            start += tokens
        return gaps


def learned(*, decode: float, token: float) -> PrefillPacer:
    """After some prompts."""
    device = Device(decode=decode, token=token)
    for length in (459, 100, 5000, 2000, 5000):
        device.gaps(length)
    return device.pacer


def test_alone_a_step_is_longer_but_still_ends_soon_enough_for_an_abort() -> None:
    pacer = learned(decode=0.02, token=1e-3)
    assert pacer.budget(decoding=True) == int((AIM * TARGET_GAP - 0.02) / 1e-3) // GRAIN * GRAIN
    assert pacer.budget(decoding=True) < pacer.budget(decoding=False) <= int(ALONE / 1e-3)


def test_small_prompts_do_not_make_large_ones_look_dear() -> None:
    pacer = learned(decode=0.005, token=5e-6)
    for _ in range(10):
        pacer.observe_prefill((1, 5, 0), 5, 0.005, decoding=False)
    assert pacer.budget(decoding=True) == 2048


def test_a_fast_device_takes_whole_chunks() -> None:
    assert learned(decode=0.005, token=5e-6).budget(decoding=True) == 2048


@pytest.mark.parametrize(("decode", "token", "gap"), [(0.01, 1e-3, 0.1), (0.1, 1e-3, 0.3), (0.02, 3e-4, 0.1)])
def test_a_slow_device_keeps_the_gap(decode: float, token: float, gap: float) -> None:
    budget = learned(decode=decode, token=token).budget(decoding=True)
    assert decode + budget * token <= AIM * gap + 1e-9
    assert decode + (budget + GRAIN) * token > AIM * gap


def test_a_prompt_always_goes_on() -> None:
    assert learned(decode=0.01, token=1.0).budget(decoding=True) == GRAIN
    assert PrefillPacer(max_tokens=16, token_seconds=1.0).budget(decoding=True) == 16


def test_the_first_estimate_serves_until_there_are_observations() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-3)
    assert pacer.budget(decoding=False) == int(ALONE / 1e-3) // GRAIN * GRAIN
    assert PrefillPacer(max_tokens=100).budget(decoding=True) == 100


def test_steps_of_one_size_are_followed_by_another() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-3)
    for _ in range(10):
        pacer.observe_prefill((1, 128, 0), 128, 0.069, decoding=False)
    assert pacer.budget(decoding=True) == 128, "what half of the step may have been"
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-3)
    for _ in range(10):
        pacer.observe_prefill((1, 128, 0), 128, 0.035, decoding=False)
    assert 128 < pacer.budget(decoding=True) <= 3 * 128


def test_short_prompts_say_little_of_long_ones_beside_streams() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-4)
    for tokens in (20, 30, 40, 60) * 4:
        pacer.observe_prefill((1, tokens, 0), tokens, 0.008, decoding=False)
    assert pacer.budget(decoding=True) == GROWTH * 60
    assert pacer.budget(decoding=False) == 4096, "but a burst that nobody decodes beside is not held up"


def test_compiling_that_takes_seconds_does_not_look_like_a_slow_device() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-5)
    for shape in range(100):
        pacer.observe_prefill((1, 500, shape), 500, 2.0, decoding=True)
    assert pacer.budget(decoding=True) == 4096


@pytest.mark.parametrize("compiling", [0.02, 0.04])
@pytest.mark.parametrize("token", [5e-6, 18e-6])
@pytest.mark.parametrize("same", [True, False])
def test_compiling_beside_streams_keeps_the_gap(token: float, compiling: float, same: bool) -> None:
    device = Device(decode=0.007, token=token, compiling=compiling)
    device.gaps(459)
    for number in range(5):
        gaps = device.gaps(16_000, buffer=0 if same else number)
        assert max(gaps) <= TARGET_GAP
        assert len(gaps) <= 25, "it does not crawl"


@pytest.mark.parametrize("compiling", [0.065, 0.1, 0.3])
@pytest.mark.parametrize("token", [5e-6, 18e-6])
def test_compiling_that_fills_the_gap_does_not_make_prompts_crawl(token: float, compiling: float) -> None:
    """Steps cannot be shorter than what is compiled for them, however small they are."""
    device = Device(decode=0.007, token=token, compiling=compiling)
    device.gaps(459)
    for number, length in enumerate(range(3000, 16_000, 1777)):
        gaps = device.gaps(length, buffer=number)
        assert max(gaps) <= device.decode + compiling + TARGET_GAP / 2
    assert len(gaps) <= 45


@pytest.mark.parametrize("compiling", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("token", [5e-6, 18e-6])
def test_beside_streams_chunks_are_as_wide_as_nothing_is_compiled_for(token: float, compiling: float) -> None:
    device = Device(decode=0.007, token=token, compiling=compiling, max_tokens=4096, known_width=1024)
    device.gaps(459)
    for number in range(5):
        _, *others = device.gaps(16_000, buffer=number)
        assert max(others) <= TARGET_GAP
        assert len(others) <= 18


def test_what_nothing_is_compiled_for_is_said_of_each_row_behind_others() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-6, known_width=1024)
    assert pacer.budget(decoding=True, start=5000) == 1024
    assert pacer.budget(decoding=True, start=5000, rows=2) == 2048
    assert pacer.budget(decoding=True, start=0) == 4096
    assert pacer.budget(decoding=False, start=5000) == 4096


def by_depth(*seen: tuple[int, int, float], first: float = 1e-4) -> PrefillPacer:
    """A device that compiles nothing; ``seen``: start, tokens and seconds of steps."""
    pacer = PrefillPacer(max_tokens=4096, token_seconds=first, compiles=False)
    for start, tokens, seconds in seen:
        pacer.observe_prefill((1, tokens, start), tokens, seconds, decoding=False)
    return pacer


def test_by_depth_a_step_is_believed_at_once() -> None:
    pacer = by_depth((0, 500, 500 * 2e-3))
    assert pacer.budget(decoding=True, start=300) == int(AIM * TARGET_GAP / 2e-3) // GRAIN_BY_DEPTH * GRAIN_BY_DEPTH


def test_by_depth_a_slow_device_takes_few_tokens_at_once() -> None:
    pacer = by_depth((15_000, 8, 8 * 12e-3))
    assert pacer.budget(decoding=True, start=15_008) == 4
    assert pacer.budget(decoding=False, start=15_008) == 24


def test_by_depth_short_prompts_say_little_of_long_ones() -> None:
    """Attention costs the square of the length: each doubling of an unknown depth may double the cost of a token."""
    pacer = by_depth(*[(0, 60, 60 * 1e-4)] * 20)
    assert pacer.budget(decoding=True) == 174  # up to 255 tokens at four times the cost: 0.07 s
    assert pacer.budget(decoding=True, start=1000) == 22  # up to 1,023 tokens, of 16 times the cost


def test_by_depth_many_short_prompts_are_not_a_long_one() -> None:
    pacer = by_depth(*[(0, 60, 60 * 1e-4)] * 20)
    assert pacer.budget(decoding=False) < 400  # 511 tokens at eight times the cost are more than 0.3 s
    assert pacer.budget(decoding=False, rows=16) == 1488  # 93 tokens of each at twice the cost
    assert pacer.budget(decoding=False, rows=100) > 100 * 25  # of each at its known cost


@pytest.mark.parametrize("decoding", [True, False])
def test_by_depth_no_step_of_a_long_prompt_takes_long(decoding: bool) -> None:
    """A device of quadratic cost, from its first prompt on; and it does not crawl either."""
    room = AIM * TARGET_GAP if decoding else ALONE

    def seconds(start: int, tokens: int) -> float:
        return tokens * 1e-4 + 3e-7 * tokens * (start + tokens / 2)

    pacer = PrefillPacer(max_tokens=4096, token_seconds=seconds(0, 40) / 40, compiles=False)
    start, steps = 0, []
    while start < 8000:
        tokens = pacer.budget(decoding=decoding, start=start)
        steps.append(seconds(start, tokens))
        pacer.observe_prefill((1, tokens, start), tokens, steps[-1], decoding=False)
        start += tokens
    assert max(steps) <= 1.3 * room
    assert len(steps) <= 3 * sum(steps) / room


def gaps_by_depth(pacer: PrefillPacer, slow: Callable[[int], float], *, steps: int) -> list[float]:
    """Of streams whose step takes 10 ms, beside a prompt whose tokens take 5 ms each; all of it ``slow(number)`` times
    as long in the step of that number."""
    gaps = []
    for step in range(steps):
        tokens = pacer.budget(decoding=True, start=9000)
        gaps.append((0.01 + 5e-3 * tokens) * slow(step))
        pacer.observe_prefill((1, tokens, 9000), tokens, gaps[-1], decoding=True)
    return gaps


def steady_by_depth() -> PrefillPacer:
    pacer = by_depth((9000, 10, 10 * 5e-3))
    for _ in range(10):
        pacer.observe_decode(0.01)
    return pacer


def test_by_depth_streams_keep_the_gap_on_a_machine_with_other_work() -> None:
    pacer = steady_by_depth()

    def other_work(step: int) -> float:
        return 1.9 if step % 40 < 2 else 1.0  # as it was measured: one step of twenty

    gaps_by_depth(pacer, other_work, steps=128)
    gaps = gaps_by_depth(pacer, other_work, steps=400)
    assert sum(gap > TARGET_GAP for gap in gaps) == 0
    assert statistics.median(gaps) > 0.4 * TARGET_GAP  # and the prompt goes on


def test_by_depth_a_step_that_takes_long_once_changes_little() -> None:
    gaps = gaps_by_depth(steady_by_depth(), lambda step: 20.0 if step == 50 else 1.0, steps=300)
    assert statistics.median(gaps) == pytest.approx(0.06)  # as without it: ten tokens


def test_by_depth_a_machine_with_too_much_other_work_still_computes_prompts() -> None:
    gaps = gaps_by_depth(steady_by_depth(), lambda step: 5.0 if step % 4 == 0 else 1.0, steps=300)
    assert statistics.median(gaps[128:]) == pytest.approx(0.05)


def test_a_device_that_is_slow_in_every_new_shape_is_slow() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-3)
    for shape in range(12):
        tokens = 100 + 100 * (shape % 3)
        pacer.observe_prefill((1, tokens, shape), tokens, tokens * 2e-3, decoding=False)
    assert pacer.budget(decoding=False) == int(ALONE / 2e-3) // GRAIN * GRAIN


def test_a_device_that_becomes_slow_is_believed() -> None:
    device = Device(decode=0.007, token=5e-6)
    for token in (5e-6, 1e-4):
        device.token = token
        for _ in range(3):
            gaps = device.gaps(16_000)
    assert max(gaps) <= TARGET_GAP


def test_one_slow_step_does_not_change_the_pace() -> None:
    pacer = learned(decode=0.01, token=1e-3)
    before = pacer.budget(decoding=True)
    pacer.observe_prefill((1, before, 0), before, 30.0, decoding=True)
    pacer.observe_prefill((2, 100, 77), 200, 30.0, decoding=True)
    pacer.observe_decode(30.0)
    assert pacer.budget(decoding=True) == before
