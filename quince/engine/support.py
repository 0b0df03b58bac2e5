"""What a model's code can do with several rows, found out by trying it once when the model is loaded.

Most of mlx-lm's models batch. Some do not: their state has no batched form, or they raise on a mask for several rows;
some let the padding of a shorter prompt into a recurrent state (mamba and jamba of mlx-lm 0.32.2). Such a model must
answer slowly rather than wrongly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random

import mlx.core as mx
from mlx.nn.layers.base import Module

from quince.engine.batch_cache import BatchCache, RowChange

# Very different lengths, so that padding that leaks in is most of what the shorter row has seen.
SHORT, LONG = 3, 40
# Rounding differs between batch sizes by a few percent at the most (bf16); a row that saw the wrong tokens by far more.
TOLERANCE = 0.2


@dataclass(frozen=True)
class Support:
    """``batches``: rows may share a batch. ``pads``: prompts of different lengths may be prefilled together.

    ``mask_axes``: axes of the attention mask; 5 where grouped heads have an axis of their own (gemma2).
    """

    batches: bool
    pads: bool
    mask_axes: int = 4


def probe(model: Module, vocab_size: int) -> Support:
    """Compare two rows together with the same rows alone. Runs on the engine thread, before any request."""
    prompts = [_random_prompt(vocab_size, length) for length in (SHORT, LONG)]
    expected = mx.concatenate([_next_logits(model, [prompt]) for prompt in prompts])
    for mask_axes in (4, 5):
        if _agrees(model, prompts, expected, pad=False, mask_axes=mask_axes):
            return Support(True, _agrees(model, prompts, expected, pad=True, mask_axes=mask_axes), mask_axes)
    return Support(batches=False, pads=False)


def token_seconds(model: Module, vocab_size: int) -> float:
    """What a prompt token costs here, roughly: the second time, since kernels are compiled at the first."""
    prompt = _random_prompt(vocab_size, LONG)
    for _ in range(2):
        started = time.perf_counter()
        mx.eval(_prefill(model, [prompt], mask_axes=4).arrays())
    return (time.perf_counter() - started) / (LONG - 1)


def _random_prompt(vocab_size: int, length: int) -> list[int]:
    random = Random(length)
    return [random.randrange(vocab_size) for _ in range(length)]


def _agrees(model: Module, prompts: list[list[int]], expected: mx.array, *, pad: bool, mask_axes: int) -> bool:
    try:
        logits = _next_logits(model, prompts, pad=pad, mask_axes=mask_axes)
        error, size = mx.linalg.norm(logits - expected, axis=-1), mx.linalg.norm(expected, axis=-1)
        return not bool(mx.any(error > TOLERANCE * size + 1e-3))  # not a number tells nothing
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError):
        return False  # whatever the model's code stumbles over


def _next_logits(model: Module, prompts: list[list[int]], *, pad: bool = False, mask_axes: int = 4) -> mx.array:
    """The logits after each prompt, float32 [rows, vocabulary]: all but the last token prefilled, then one step."""
    batch = BatchCache(model, max_width=1, mask_axes=mask_axes)
    groups = [prompts] if pad else [[prompt] for prompt in prompts]
    prefilled = [(_prefill(model, group, mask_axes), index) for group in groups for index in range(len(group))]
    batch.change(RowChange.plan(0, [], len(prompts)), prefilled)
    batch.begin(1)
    logits: mx.array = model(mx.array([[prompt[-1]] for prompt in prompts]), cache=batch.layers)[:, -1]
    batch.commit()
    return logits.astype(mx.float32)


def _prefill(model: Module, prompts: list[list[int]], mask_axes: int) -> BatchCache:
    counts = [len(prompt) - 1 for prompt in prompts]
    width = max(counts)
    cache = BatchCache(model, max_width=width, mask_axes=mask_axes)
    cache.add_empty_rows(len(prompts))
    cache.begin(width, counts if min(counts) < width else None)
    model(mx.array([prompt[:-1] + [0] * (width + 1 - len(prompt)) for prompt in prompts]), cache=cache.layers)
    cache.commit()
    return cache
