"""The engine's centre: schedule, run, update."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
from llguidance import LLMatcher

from quince.engine.attention import widest_chunk
from quince.engine.batch import Batch
from quince.engine.batch_cache import BatchCache
from quince.engine.cuda.sample import DTYPES, CudaSampleKernel
from quince.engine.device import builds_kernels_by_size, compiles_kernels, gains_from_kernels, memory_budget
from quince.engine.disk_cache import DiskCache
from quince.engine.disk_tier import DiskTier
from quince.engine.forward import Forward
from quince.engine.grouping import DecodeGroups
from quince.engine.kv_layout import KVQuantization
from quince.engine.media import keyed_token_ids, problem
from quince.engine.memory import KVMemory
from quince.engine.messages import AddRequest, EngineStats, Output
from quince.engine.model_runner import ModelRunner
from quince.engine.pacing import PrefillPacer
from quince.engine.prefill import LaneRules
from quince.engine.prefix_cache import PrefixCache
from quince.engine.request import Request
from quince.engine.sampler import SampleKernel
from quince.engine.scheduler import Scheduler, SchedulerConfig
from quince.engine.structured import Constraint, GrammarCompiler
from quince.engine.support import Costs, measure, probe, quantization_error
from quince.errors import ModelLoadError

logger = logging.getLogger(__name__)

STEP_SHARE = 4  # that part of what weights leave may be what a step needs for a moment
POOL_SHARE = 16  # that part of an engine's memory may be buffers that nothing uses: other programs need some, too

# What a model's own code may raise for images that it stumbles over.
_FORWARD_FAILURES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError)


@dataclass(frozen=True)
class CoreConfig:
    """How much an engine does at once: ``prefill_tokens`` of prompts in a step (None: no more than of one prompt), of
    which ``prefill_chunk_size`` are one prompt's. Of ``memory_bytes`` (None: what the device has, up to
    ``memory_limit``), weights included, ``prefix_cache_bytes`` may be kept across requests (0: nothing, None: half of
    what is left). ``snapshot_interval``: tokens of a long prompt between two snapshots. ``round_widths``: see
    LaneRules; None: where the device needs it."""

    max_running_requests: int
    prefill_chunk_size: int
    prefill_tokens: int | None = None
    memory_bytes: int | None = None
    memory_limit: int | None = None
    prefix_cache_bytes: int | None = None
    snapshot_interval: int = 512
    kv_quantization: KVQuantization | None = None
    round_widths: bool | None = None


def make_core(
    forward: Forward, vocab_size: int, grammars: GrammarCompiler, config: CoreConfig, tier: DiskTier | None = None
) -> EngineCore:
    """An engine for this model, within what its code can do (see support.py). Raises ModelLoadError if there is no
    memory for its caches. ``tier``: of the prefix cache, for this model."""
    support, quantization = probe(forward, vocab_size), config.kv_quantization
    if quantization is not None:
        _check_quantization(forward, vocab_size, quantization, support.mask_axes)
    costs = measure(forward, vocab_size, quantization)
    chunk = config.prefill_chunk_size
    runner = ModelRunner(
        forward,
        vocab_size,
        partial(BatchCache, forward, mask_axes=support.mask_axes, quantization=quantization),
        prefill_chunk_size=chunk,
        write=None if tier is None else lambda write, host: tier.write(write.entry, host, write.used),
        sample_kernel=sample_kernel(),
    )
    budget = _limit_memory(config)
    step_tokens = _step_tokens(costs, config, budget - mx.get_active_memory())
    pacer = PrefillPacer(
        max_tokens=step_tokens,
        token_seconds=costs.token_seconds,
        compiles=compiles_kernels(),
        known_width=widest_chunk(forward.model),
    )
    kv_bytes = _kv_bytes(budget, costs.token_memory * step_tokens, forward.reserved_bytes)
    memory = KVMemory(costs.layout, max_bytes=kv_bytes, max_width=chunk)
    cache_bytes = memory.max_bytes // 2 if config.prefix_cache_bytes is None else config.prefix_cache_bytes
    if not support.batches:
        logger.warning("this architecture cannot share a batch: requests run one after the other")
    if cache_bytes and not costs.layout.reusable:
        logger.warning("this architecture's caches cannot be saved: every prompt is computed anew")
    logger.info("%d MiB for keys and values: rows of at most %d tokens", memory.max_bytes >> 20, memory.most_tokens)
    prefix_cache = PrefixCache(costs.layout, max_bytes=cache_bytes, is_stored=runner.store.__contains__)
    disk = None
    if tier is not None and prefix_cache.enabled:
        disk = DiskCache(tier, prefix_cache, costs.layout, lambda: pacer.token_seconds)
    scheduler = Scheduler(
        SchedulerConfig(
            max_running_requests=config.max_running_requests if support.batches else 1,
            lanes=LaneRules(
                max_width=chunk,
                pad=support.pads,
                mix_adapters=forward.mixes_adapters,
                round_widths=builds_kernels_by_size() if config.round_widths is None else config.round_widths,
            ),
            snapshot_interval=config.snapshot_interval,
        ),
        pacer=pacer,
        prefix_cache=prefix_cache,
        memory=memory,
        groups=DecodeGroups(max_padding=costs.padding_tokens),
        disk=disk,
    )
    return EngineCore(scheduler, runner, forward, pacer, grammars)


def _check_quantization(forward: Forward, vocab_size: int, quantization: KVQuantization, mask_axes: int) -> None:
    try:
        error = quantization_error(forward, vocab_size, quantization, mask_axes)
    except ValueError as reason:
        bits, group_size = quantization
        raise ModelLoadError(
            f"this model cannot keep keys and values in {bits} bits by groups of {group_size}: {reason}"
        ) from reason
    logger.info("keys and values in %d bits move the logits by %.2g %% of their size", quantization.bits, 100 * error)


def sample_kernel() -> SampleKernel | None:
    """Compiled and tried now, not when the first request needs it; None where MLX's operations do as well."""
    if not gains_from_kernels():
        return None
    kernel = CudaSampleKernel()
    for dtype in DTYPES:
        kernel.takes(mx.zeros((1, 1), dtype))
    return kernel


def _limit_memory(config: CoreConfig) -> int:
    """Tell MLX how much memory it may take. Returns that."""
    budget = memory_budget(config.memory_bytes, config.memory_limit)
    mx.set_memory_limit(budget)  # above it, MLX gives back buffers that it keeps for later
    mx.set_cache_limit(budget // POOL_SHARE)
    return budget


def _step_tokens(costs: Costs, config: CoreConfig, free: int) -> int:
    """Tokens of prompts in a step: as many as asked for, if a share of the free memory holds what they need while they
    are computed; as one prompt may have in any case."""
    asked = config.prefill_tokens or config.prefill_chunk_size
    fitting = free // STEP_SHARE // max(1, costs.token_memory)
    return max(config.prefill_chunk_size, min(asked, fitting))


def _kv_bytes(budget: int, step_bytes: int, reserved: int) -> int:
    """What weights and forward passes leave for keys and values."""
    free = budget - mx.get_active_memory()
    room = free - min(step_bytes, free // STEP_SHARE) - reserved
    if room <= 0:
        raise ModelLoadError(
            f"the model takes {mx.get_active_memory() / 2**20:.0f} MiB, which leaves nothing of the engine's "
            f"{budget / 2**20:.0f} MiB for keys and values"
        )
    return room


class EngineCore:
    """Drives one model. Every method is called by the engine thread, which owns MLX."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        forward: Forward,
        pacer: PrefillPacer,
        grammars: GrammarCompiler,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._forward = forward
        self._pacer = pacer
        self._grammars = grammars
        self._compiling: dict[str, tuple[Request, Future[LLMatcher]]] = {}
        self._media_ends: dict[str, int] = {}  # where the last image of an open request's prompt ends, in tokens
        self._encoding: dict[str, Request] = {}  # those whose images are not all encoded yet, the first to come first
        self._encoded = False  # whether this step's time is not the batch's alone
        self._launched: Batch | None = None  # the step that is computing, if its time tells something, and since when
        self._launched_at = 0.0
        self._steps = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0

    def add(self, message: AddRequest) -> None:
        token_ids = keyed_token_ids(message.prompt_token_ids, message.media)
        # The next question about an image parts from this one behind it.
        boundaries = sorted(
            [*message.boundaries, *(start + count for one in message.media for start, count in one.runs[-1:])]
        )
        request = Request(message.request_id, token_ids, message.sampling, boundaries, message.adapter)
        if (message.media or message.adapter) and not self._introduce(message, request):
            return
        if request.sampling.grammar is not None:
            self._compiling[request.request_id] = (request, self._grammars.compile(request.sampling))
            return
        if request.sampling.thinking is not None:
            self.runner.constrain(request.request_id, Constraint(None, request.sampling.thinking))
        self._enqueue(request)

    def _introduce(self, message: AddRequest, request: Request) -> bool:
        """Read what came with the request; False if it is refused."""
        what = "images" if message.media else "adapter"
        try:
            if reason := problem(message.prompt_token_ids, message.media):
                raise ValueError(reason)
            self._forward.add(message)
        except _FORWARD_FAILURES as error:
            logger.error("%s: its %s cannot be used: %s: %s", request.request_id, what, type(error).__name__, error)
            self.scheduler.refuse(request, f"its {what} cannot be used")
            return False
        if message.media:
            start, length = message.media[-1].runs[-1]
            self._media_ends[request.request_id] = start + length
        return True

    def _enqueue(self, request: Request) -> None:
        """Wait for a row; before, with images, for the vision tower."""
        if request.request_id in self._media_ends:
            self._encoding[request.request_id] = request
        else:
            self.scheduler.add(request)

    def abort(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if request_id in self._compiling:
                request, future = self._compiling.pop(request_id)
                future.cancel()
                self.scheduler.add(request)
            elif request_id in self._encoding:
                self.scheduler.add(self._encoding.pop(request_id))
            self.scheduler.abort([request_id])

    def is_compiling(self) -> bool:
        """There are requests that wait for their grammars, or for the disk: there will be work."""
        return bool(self._compiling) or self.scheduler.num_loading > 0

    def has_work(self) -> bool:
        compiled = any(matcher.done() for _, matcher in self._compiling.values())
        return compiled or bool(self._encoding) or self.scheduler.has_work()

    def step(self) -> list[Output]:
        self._take_compiled()
        self._encode()
        batch = self.scheduler.schedule()
        self._encoding.update({request.request_id: request for request in self.scheduler.take_loaded()})
        encoded = self._forward.encoded_media
        tokens = self.runner.run(batch)
        self._pace(batch, with_media=self._forward.encoded_media > encoded)
        outputs = self.scheduler.update(tokens)
        self._count(batch, outputs)
        self._release(outputs)
        return outputs

    def close(self, seconds: float) -> None:
        """The process is about to end: have what is kept in memory written to the disk, as far as that goes in so much
        time."""
        disk, deadline = self.scheduler.disk, time.monotonic() + seconds
        if disk is None:
            return
        self.scheduler.abort_all()
        while disk.has_unwritten() or self.scheduler.num_running:
            left = deadline - time.monotonic()
            if left <= 0 or not disk.wait_for_room(left):
                return
            self.step()
        disk.tier.drain(max(0.0, deadline - time.monotonic()))

    def fail_step(self, error: str) -> list[Output]:
        """After ``step`` raised: end the requests that ran and start over with those that wait."""
        self.runner.reset()
        self._launched = None
        outputs = self.scheduler.fail_running(error)
        self._release(outputs)
        return outputs

    def stats(self, *, active_memory: int = 0, peak_memory: int = 0) -> EngineStats:
        disk = self.scheduler.disk
        return EngineStats(
            running=self.scheduler.num_running,
            waiting=self.scheduler.num_waiting + len(self._compiling) + len(self._encoding),
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            active_memory=active_memory,
            peak_memory=peak_memory,
            cached_tokens=self.scheduler.cached_tokens,
            cache_hits=self.scheduler.cache_hits,
            cache_bytes=self.scheduler.prefix_cache.nbytes,
            preemptions=self.scheduler.preemptions,
            encoded_media=self._forward.encoded_media,
            kv_bytes=self.scheduler.row_bytes,
            kv_limit=self.scheduler.memory.max_bytes,
            disk_bytes=0 if disk is None else disk.tier.nbytes,
            disk_tokens=0 if disk is None else disk.loaded_tokens,
        )

    def _take_compiled(self) -> None:
        """Requests whose grammar is ready get in the queue."""
        for request_id, (request, future) in list(self._compiling.items()):
            if not future.done():
                continue
            del self._compiling[request_id]
            error = future.exception()
            if error is not None:
                self.scheduler.refuse(request, f"the grammar cannot be compiled: {error}")
                continue
            self.runner.constrain(request_id, Constraint(future.result(), request.sampling.thinking))
            self._enqueue(request)

    def _encode(self) -> None:
        """One image of the request that has waited longest goes through the vision tower: running streams wait for
        that, so it is one in a step. Requests that need none, since the features of their images are kept or the prefix
        cache has all that those are for, do not wait for each other; nor do those whose prefix comes from the disk."""
        self._encoded = False
        while self._encoding and not self._encoded:
            request_id, request = next(iter(self._encoding.items()))
            before = self._forward.encoded_media
            try:
                start = self.scheduler.num_cached(request)
                cached = start >= self._media_ends[request_id]
                if not cached and self.scheduler.load(request):
                    del self._encoding[request_id]
                    continue
                complete = cached or self._forward.encode(request_id, start)
            except _FORWARD_FAILURES as error:
                logger.exception("an image could not be encoded")
                del self._encoding[request_id]
                self.scheduler.refuse(request, f"the model cannot take the images: {error}")
                self._encoded = True
                return
            self._encoded = self._forward.encoded_media > before
            if complete:
                del self._encoding[request_id]
                self.scheduler.add(request)

    def _release(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if output.finish_reason is not None:
                self.runner.release(output.request_id)
                self._media_ends.pop(output.request_id, None)

    def _pace(self, batch: Batch, *, with_media: bool) -> None:
        """``run`` has just started this batch, having waited for the one before: tell how long that one took.
        ``with_media``: this one has the vision tower's work in it.

        Not until now: MLX's CPU build computes most of a step while it is handed over."""
        now = self.runner.started_at
        before, seconds = self._launched, now - self._launched_at
        if self._encoded:
            before = None  # the vision tower's time is no prompt token's
        if before is not None and before.prefill:
            decoding = before.decoding > 0
            self._pacer.observe_prefill(before.prefill_shape, before.prefill_size, seconds, decoding=decoding)
        elif before is not None and before.decoding:
            self._pacer.observe_decode(seconds)
        self._launched, self._launched_at = None if with_media else batch, now

    def _count(self, batch: Batch, outputs: list[Output]) -> None:
        self._steps += 1
        self._prompt_tokens += sum(len(chunk.token_ids) for chunk in batch.prefill) + len(batch.join)
        self._generation_tokens += sum(len(output.token_ids) for output in outputs)
