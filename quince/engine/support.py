"""What a model's code can do with several rows, found out by trying it once when the model is loaded.

Most of mlx-lm's models batch. Some do not: their state has no batched form, or they raise on a mask for several rows;
some let the padding of a shorter prompt into a recurrent state (mamba and jamba of mlx-lm 0.32.2). Such a model must
answer slowly rather than wrongly.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from random import Random

import mlx.core as mx

from quince.engine.batch import PrefillChunk
from quince.engine.batch_cache import BatchCache, RowChange
from quince.engine.forward import Forward
from quince.engine.kv_layout import COLUMN_STEP, KVLayout, KVQuantization

# Very different lengths, so that padding that leaks in is most of what the shorter row has seen.
SHORT, LONG = 3, 16
MEASURED = 40  # tokens of the prompt whose time and memory are measured
# Rounding differs between batch sizes by a few percent at the most (bf16); a row that saw the wrong tokens by far more.
TOLERANCE = 0.2
MAX_QUANTIZATION_ERROR = 0.5
READS = 8


@dataclass(frozen=True)
class Support:
    """``batches``: rows may share a batch. ``pads``: prompts of different lengths may be prefilled together.

    ``mask_axes``: axes of the attention mask; 5 where grouped heads have an axis of their own (gemma2).
    """

    batches: bool
    pads: bool
    mask_axes: int = 4


def probe(forward: Forward, vocab_size: int) -> Support:
    """Compare two rows together with the same rows alone. Runs on the engine thread, before any request."""
    prompts = [_random_prompt(vocab_size, length) for length in (SHORT, LONG)]
    expected = mx.concatenate([_next_logits(forward, [prompt]) for prompt in prompts])
    for mask_axes in (4, 5):
        if _agrees(forward, prompts, expected, pad=False, mask_axes=mask_axes):
            return Support(True, _agrees(forward, prompts, expected, pad=True, mask_axes=mask_axes), mask_axes)
    return Support(batches=False, pads=False)


@dataclass(frozen=True)
class Costs:
    """What running the model takes here, roughly. ``token_memory``: bytes that a forward pass needs for a moment, per
    token of a prompt. ``padding_tokens``: how many tokens' keys and values are read in the time of one more pass."""

    token_seconds: float
    token_memory: int
    padding_tokens: int
    layout: KVLayout


def quantization_error(forward: Forward, vocab_size: int, quantization: KVQuantization, mask_axes: int) -> float:
    """How far quantised keys and values move the logits, relative to their size. Raises ValueError if the model's
    code or the size of its heads cannot do with them."""
    prompt = _random_prompt(vocab_size, MEASURED)
    plain = _next_logits(forward, [prompt], mask_axes=mask_axes)
    try:
        logits = _next_logits(forward, [prompt], mask_axes=mask_axes, quantization=quantization)
        error = float(mx.linalg.norm(logits - plain) / mx.linalg.norm(plain))
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error_in_model:
        raise ValueError(str(error_in_model)) from error_in_model
    if not error < MAX_QUANTIZATION_ERROR:
        raise ValueError(f"it would move the logits by {error:.0%} of their size")
    return error


def measure(forward: Forward, vocab_size: int, quantization: KVQuantization | None = None) -> Costs:
    """Each time is the second one, since kernels are compiled at the first."""
    prompt = _random_prompt(vocab_size, MEASURED)
    for _ in range(2):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        started = time.perf_counter()
        cache = _prefill(forward, [prompt], mask_axes=4, quantization=quantization)
        mx.eval(cache.arrays())
    token_memory = max(0, mx.get_peak_memory() - before - cache.nbytes) // MEASURED
    token_seconds = (time.perf_counter() - started) / (MEASURED - 1)
    for _ in range(3):
        started = time.perf_counter()
        cache.begin(1)
        mx.eval(forward.logits(mx.array([prompt[-1:]]), cache), cache.arrays())
        cache.commit()
    pass_seconds = time.perf_counter() - started
    layout = cache.layout()
    padding = pass_seconds / (_byte_seconds() * layout.token_bytes) if layout.token_bytes else 2.0**40
    return Costs(token_seconds, token_memory, max(COLUMN_STEP, int(padding)), layout)


@functools.cache
def _byte_seconds() -> float:
    """How long it takes to read a byte of memory."""
    block = mx.ones((16, 2**20))
    mx.eval(block)
    # Several, since starting one on a GPU takes time of its own. On a CPU, they would be most of a small model's load.
    reads = 1 if mx.default_device() == mx.Device(mx.cpu) else READS
    for _ in range(2):
        started = time.perf_counter()
        mx.eval([block.max(axis=1) for _ in range(reads)])
    return (time.perf_counter() - started) / (reads * block.nbytes)


def _random_prompt(vocab_size: int, length: int) -> list[int]:
    random = Random(length)
    return [random.randrange(vocab_size) for _ in range(length)]


def _agrees(forward: Forward, prompts: list[list[int]], expected: mx.array, *, pad: bool, mask_axes: int) -> bool:
    try:
        logits = _next_logits(forward, prompts, pad=pad, mask_axes=mask_axes)
        error, size = mx.linalg.norm(logits - expected, axis=-1), mx.linalg.norm(expected, axis=-1)
        return not bool(mx.any(error > TOLERANCE * size + 1e-3))  # not a number tells nothing
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError):
        return False  # whatever the model's code stumbles over


def _next_logits(
    forward: Forward,
    prompts: list[list[int]],
    *,
    pad: bool = False,
    mask_axes: int = 4,
    quantization: KVQuantization | None = None,
) -> mx.array:
    """The logits after each prompt, float32 [rows, vocabulary]: all but the last token prefilled, then one step."""
    batch = BatchCache(forward, max_width=1, mask_axes=mask_axes, quantization=quantization)
    groups = [prompts] if pad else [[prompt] for prompt in prompts]
    prefilled = [
        (_prefill(forward, group, mask_axes, quantization), index) for group in groups for index in range(len(group))
    ]
    batch.change(RowChange.plan(0, [], len(prompts)), prefilled)
    batch.begin(1)
    logits = forward.logits(mx.array([[prompt[-1]] for prompt in prompts]), batch)[:, -1]
    batch.commit()
    return logits.astype(mx.float32)


def _prefill(
    forward: Forward, prompts: list[list[int]], mask_axes: int, quantization: KVQuantization | None = None
) -> BatchCache:
    counts = [len(prompt) - 1 for prompt in prompts]
    width = max(counts)
    cache = BatchCache(forward, max_width=width, mask_axes=mask_axes, quantization=quantization)
    cache.add_empty_rows(len(prompts))
    cache.begin(width, counts if min(counts) < width else None)
    chunks = [PrefillChunk("", prompt[:-1], 0, count) for prompt, count in zip(prompts, counts, strict=True)]
    forward.prefill(chunks, cache)
    cache.commit()
    return cache
