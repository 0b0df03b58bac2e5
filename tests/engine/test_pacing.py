from __future__ import annotations

import pytest

from quince.engine.pacing import ALONE, FIRST_TOKENS, GRAIN, GROWTH, MIN_TOKENS, PrefillPacer


def learned(*, decode: float, token: float, max_tokens: int = 2048) -> PrefillPacer:
    pacer = PrefillPacer(max_tokens=max_tokens)
    for _ in range(10):
        pacer.observe_decode(decode)
        pacer.observe_prefill("shape", 100, decode + 100 * token, decoding=True)
    return pacer


def test_alone_a_step_is_longer_but_still_ends_soon_enough_for_an_abort() -> None:
    pacer = learned(decode=0.02, token=1e-3)
    assert pacer.budget(decoding=True) < pacer.budget(decoding=False) == int(ALONE / 1e-3) // GRAIN * GRAIN


def test_small_prompts_do_not_make_large_ones_look_dear() -> None:
    pacer = learned(decode=0.005, token=5e-6)
    for _ in range(10):
        pacer.observe_prefill("small", 5, 0.005, decoding=False)
    assert pacer.budget(decoding=True) == 2048


def test_a_fast_device_takes_whole_chunks() -> None:
    assert learned(decode=0.005, token=5e-6).budget(decoding=True) == 2048


@pytest.mark.parametrize(("decode", "token", "gap"), [(0.01, 1e-3, 0.1), (0.1, 1e-3, 0.3), (0.02, 3e-4, 0.1)])
def test_a_slow_device_keeps_the_gap(decode: float, token: float, gap: float) -> None:
    budget = learned(decode=decode, token=token).budget(decoding=True)
    assert decode + budget * token <= gap + 1e-9
    assert decode + (budget + GRAIN) * token > gap


def test_a_prompt_always_goes_on() -> None:
    assert learned(decode=0.01, token=1.0).budget(decoding=True) == MIN_TOKENS
    assert learned(decode=0.01, token=1.0, max_tokens=16).budget(decoding=True) == 16


def test_the_first_estimate_serves_until_there_are_observations() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-3)
    assert pacer.budget(decoding=False) == int(ALONE / 1e-3) // GRAIN * GRAIN
    assert PrefillPacer(max_tokens=100).budget(decoding=True) == 100


def test_compiling_new_shapes_does_not_look_like_a_slow_device() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-5)
    for shape in range(100):
        pacer.observe_prefill(shape, 500, 2.0, decoding=True)
    assert pacer.budget(decoding=True) == 4096


def test_without_kernels_to_compile_a_first_step_is_believed() -> None:
    """The first estimate comes from a short prompt, and says nothing of attention over a long one."""
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-5, compiles=False)
    pacer.observe_prefill("new", 500, 500 * 2e-3, decoding=False)
    assert pacer.budget(decoding=False) == int(ALONE / 2e-3) // GRAIN * GRAIN


def test_without_kernels_to_compile_steps_grow_as_they_are_measured() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-6, compiles=False)
    budgets = []
    for shape in range(3):
        budgets.append(pacer.budget(decoding=False))
        pacer.observe_prefill(shape, budgets[-1], budgets[-1] * 1e-6, decoding=False)
    assert budgets == [FIRST_TOKENS, GROWTH * FIRST_TOKENS, 4096]
    assert PrefillPacer(max_tokens=100, compiles=False).budget(decoding=False) == 100


def test_a_device_that_is_slow_in_every_new_shape_is_slow() -> None:
    pacer = PrefillPacer(max_tokens=4096, token_seconds=1e-3)
    for shape in range(10):
        pacer.observe_prefill(shape, 500, 500 * 2e-3, decoding=False)
    assert pacer.budget(decoding=False) == int(ALONE / 2e-3) // GRAIN * GRAIN


def test_one_slow_step_does_not_change_the_pace() -> None:
    pacer = learned(decode=0.01, token=1e-3)
    before = pacer.budget(decoding=True)
    pacer.observe_prefill("shape", 100, 30.0, decoding=True)
    pacer.observe_decode(30.0)
    assert pacer.budget(decoding=True) == before
