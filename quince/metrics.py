"""What requests did: one record for each, and the counts that records leave behind.

Invariants
- A request has one record, made where its HTTP request begins and counted once, where that ends. Whatever happens in
  between - a preemption, another life of the engine, several answers - only adds to it.
- All of it happens on the event loop, and so does reading: no locks.
- What runs for each piece of a stream is O(1), whatever the number of its tokens.
"""

from __future__ import annotations

import enum
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from quince.errors import QuinceError

# Upper bounds of histograms' buckets, in seconds and in tokens.
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
LENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131072.0)

RECENT_REQUESTS = 1000  # whose speed is remembered

ABORT = "abort"  # why an answer ended that nobody waited for
CANCELLED_STATUS = 499
REJECTED_STATUS = 429


class RequestKind(enum.Enum):
    """What a request asks for, by its route."""

    TEXT = "text"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"


VISION = "vision"  # a TEXT request that has images
REQUEST_TYPES = (
    *(f"{kind}{ending}" for kind in (VISION, "text", "completion") for ending in ("", "_stream")),
    RequestKind.EMBEDDING.value,
    RequestKind.RERANK.value,
)


class Outcome(enum.Enum):
    """REJECTED: no room in the queue. ABORTED: the client left, or /v1/cancel ended it."""

    SUCCESS = "success"
    ERROR = "error"
    REJECTED = "rejected"
    ABORTED = "aborted"


class Histogram:
    """``counts`` has one number for each bucket, and one for what is above ``bounds``."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count


class ModelCounts:
    """What the requests to one model have come to. Tokens are counted as they come, the rest when requests end."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, Outcome]] = Counter()
        self.finished: Counter[str] = Counter()  # answers, by why they ended
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.reasoning_tokens = 0
        self.cache_queries = 0  # prompt tokens that were looked up, for every answer
        self.cache_hits = 0
        self.queue_time = Histogram(LATENCIES)
        self.time_to_first_token = Histogram(LATENCIES)
        self.inter_token_latency = Histogram(GAPS)
        self.latency = Histogram(LATENCIES)
        self.prompt_length = Histogram(LENGTHS)
        self.generation_length = Histogram(LENGTHS)


class Metrics:
    """Of one server, since it started. The counts of requests whose model is not known are those of model ``""``."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self.models: dict[str, ModelCounts] = {}
        self.total_tokens = 0  # of requests that have ended, and
        self.total_time = 0.0  # how long the engines took for those of them that have tokens
        self.recent_speeds: deque[float] = deque(maxlen=RECENT_REQUESTS)  # tokens per second

    def of(self, model: str) -> ModelCounts:
        """``model`` is a name that this server knows, never one that a client has made up."""
        return self.models.setdefault(model, ModelCounts())

    def by_type(self) -> Counter[str]:
        types: Counter[str] = Counter()
        for counts in self.models.values():
            for (type, _), count in counts.requests.items():
                types[type] += count
        return types

    def by_outcome(self) -> Counter[Outcome]:
        outcomes: Counter[Outcome] = Counter()
        for counts in self.models.values():
            for (_, outcome), count in counts.requests.items():
                outcomes[outcome] += count
        return outcomes

    def count(self, request: RequestRecord) -> None:
        """Once for every request of a kind, when it has ended."""
        counts, outcome = request.counts, request.outcome
        counts.requests[request.type, outcome] += 1
        counts.finished.update(request.finish_reasons)
        counts.cached_tokens += request.cached_tokens
        counts.reasoning_tokens += request.reasoning_tokens
        if request.queue_time is not None:
            counts.queue_time.observe(request.queue_time)
        if request.time_to_first_token is not None:
            counts.time_to_first_token.observe(request.time_to_first_token)
        if outcome is Outcome.SUCCESS:
            counts.latency.observe(request.duration)
            counts.prompt_length.observe(request.prompt_tokens)
            counts.generation_length.observe(request.completion_tokens)
        if request.completion_tokens:
            self.total_tokens += request.completion_tokens
            self.total_time += request.computing_time
            self.recent_speeds.append(request.tokens_per_second)


class RequestRecord:
    """One request, from its first byte to the last of its answer. Times are in seconds.

    ``request_id`` is the one that the client sees. ``kind`` None: it computes nothing, and is not counted.
    """

    def __init__(self, request_id: str, kind: RequestKind | None, metrics: Metrics) -> None:
        self.request_id = request_id
        self.kind = kind
        self.vision = False  # set by who reads its images
        self.streamed = False
        self.model = ""
        self.counts = metrics.of("")
        self.status: int | None = None  # of the HTTP answer, once that has begun
        self.error: QuinceError | None = None
        self.client_left = False
        self.queue_time: float | None = None
        self.waited = 0.0  # before the engine started it: for the model's load, in the queue
        self.time_to_first_token: float | None = None
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.finish_reasons: list[str] = []
        self.duration = 0.0
        self._metrics = metrics
        self._started = time.perf_counter()
        self._prompts: dict[int, tuple[int, int]] = {}  # by its number: tokens, and how many of them were cached

    def acquired(self, model: str) -> None:
        """Which model it is for."""
        self.model = model
        self.counts = self._metrics.of(model)

    def queued(self, seconds: float) -> None:
        """The engine has started it, ``seconds`` after it was given to it. Of several answers, the first counts."""
        if self.queue_time is None:
            self.queue_time = seconds
            self.waited = time.perf_counter() - self._started

    def read(self, prompt: int, tokens: int, cached: int = 0) -> None:
        """The engine reads prompt number ``prompt``, once for each of its answers; as in usage, it counts once, as
        cached only as far as it was for all of them."""
        self.counts.cache_queries += tokens
        self.counts.cache_hits += cached
        if prompt in self._prompts:
            cached = min(cached, self._prompts[prompt][1])
        else:
            self.counts.prompt_tokens += tokens
        self._prompts[prompt] = (tokens, cached)

    def pooled(self, tokens: int) -> None:
        """It is done: a request for embedding or reranking has read so many."""
        self.counts.prompt_tokens += tokens
        self._prompts[0] = (tokens, 0)
        self.finish_reasons.append("stop")

    def fail(self, error: QuinceError) -> None:
        """The first error is why the request failed; others come of it."""
        self.error = self.error or error

    @contextmanager
    def answered_as(self, request_id: str) -> Iterator[None]:
        """The block makes the answer, whose id this is; what ends it is noted."""
        self.request_id = request_id
        try:
            yield
        except QuinceError as error:
            self.fail(error)
            raise

    def answered(self, tokens: int, reasoning_tokens: int, finish_reason: str | None) -> None:
        self.completion_tokens += tokens
        self.reasoning_tokens += reasoning_tokens
        if finish_reason is not None:
            self.finish_reasons.append(finish_reason)

    def first_token(self, now: float) -> None:
        if self.time_to_first_token is None:
            self.time_to_first_token = now - self._started

    def end(self) -> None:
        """The last byte is sent, or nobody reads it: count it."""
        self.duration = time.perf_counter() - self._started
        if self.kind is not None:
            self._metrics.count(self)

    def summary(self) -> dict[str, str | int | float | None]:
        """For a log. Nothing of what the client wrote is in it, but by way of an error's code."""
        error = None if self.error is None else self.error.code or self.error.type
        if self.kind is None:
            return {"error": error}
        return {
            "type": self.type,
            "model": self.model or None,
            "outcome": self.outcome.value,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "queue_time": _rounded(self.queue_time),
            "ttft": _rounded(self.time_to_first_token),
            "tps": round(self.tokens_per_second, 2) if self.completion_tokens else None,
            "finish_reason": ",".join(sorted(set(self.finish_reasons))) or None,
            "error": error,
        }

    @property
    def prompt_tokens(self) -> int:
        return sum(tokens for tokens, _ in self._prompts.values())

    @property
    def cached_tokens(self) -> int:
        return sum(cached for _, cached in self._prompts.values())

    @property
    def tokens_per_second(self) -> float:
        """Since the engine started it: prefill is included, waiting for the model and in the queue is not."""
        return self.completion_tokens / self.computing_time if self.computing_time else 0.0

    @property
    def computing_time(self) -> float:
        return self.duration - self.waited

    @property
    def type(self) -> str:
        """One of REQUEST_TYPES, for requests of a kind."""
        if self.kind is None:
            return ""
        base = VISION if self.vision and self.kind is RequestKind.TEXT else self.kind.value
        return f"{base}_stream" if self.streamed else base

    @property
    def outcome(self) -> Outcome:
        status = self.status if self.error is None else self.error.status
        cancelled = self.error is None and ABORT in self.finish_reasons
        if self.client_left or cancelled or status is None or status == CANCELLED_STATUS:
            return Outcome.ABORTED
        if status == REJECTED_STATUS:
            return Outcome.REJECTED
        return Outcome.SUCCESS if status < 400 else Outcome.ERROR


class AnswerRecord:
    """A context manager around one answer of a request, to prompt number ``prompt``, which has ``prompt_tokens``."""

    def __init__(self, request: RequestRecord, prompt: int, prompt_tokens: int) -> None:
        self._request = request
        self._counts = request.counts
        self._prompt = prompt
        self._prompt_tokens = prompt_tokens
        self._tokens = 0
        self._reasoning_tokens = 0
        self._last = 0.0
        self.finish_reason: str | None = None

    def __enter__(self) -> AnswerRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without a reason to finish it has failed, or nobody waits for the rest."""
        if isinstance(error, QuinceError):
            self._request.fail(error)
        left = self._request.error is None and not isinstance(error, Exception)
        self._request.answered(self._tokens, self._reasoning_tokens, self.finish_reason or (ABORT if left else None))

    def started(self, cached_tokens: int) -> None:
        """The engine has begun with it, by reading the prompt."""
        self._request.read(self._prompt, self._prompt_tokens, cached_tokens)

    def advance(self, tokens: int, reasoning_tokens: int) -> None:
        """It has so many now. Those that came together share the time since those before."""
        new = tokens - self._tokens
        if not new:
            return
        now = time.perf_counter()
        self._counts.generation_tokens += new
        if self._tokens:
            self._counts.inter_token_latency.observe((now - self._last) / new, new)
        else:
            self._request.first_token(now)
            self._counts.inter_token_latency.observe(0.0, new - 1)
        self._tokens, self._reasoning_tokens, self._last = tokens, reasoning_tokens, now


_current: ContextVar[RequestRecord | None] = ContextVar("request", default=None)


def current_request() -> RequestRecord:
    """The record of the HTTP request that this code works for; outside of any, one that nobody sees."""
    return _current.get() or RequestRecord("", None, Metrics())


def current_request_id() -> str:
    """Empty outside of requests."""
    request = _current.get()
    return "" if request is None else request.request_id


@contextmanager
def recording(request: RequestRecord) -> Iterator[None]:
    """The block, and the tasks that it starts, work for ``request``."""
    token = _current.set(request)
    try:
        yield
    finally:
        _current.reset(token)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
