"""Which requests run in the next step: first come, first served, within fixed limits. No MLX in here.

Invariants
- A request is in exactly one of ``_waiting``, ``_following``, ``_prefilling``, ``_decoding``, ``_completing`` until it
  is finished.
- The runner holds rows for ``_prefilling`` and ``_decoding``; together they are at most ``max_running_requests``.
- Whoever leaves those two with a row is in ``_free`` and is named in the next Batch. ``_completing`` waits for its last token.
- Between two steps the row of a request that prefills holds its first ``num_prefilled`` tokens, and that of one that
  decodes all of its ``token_ids``: what is inserted into the prefix cache is what the row holds.
- The work of a step grows with the running requests, never with the waiting ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from quince.engine.batch import Batch, DecodeRow, PrefillChunk, SampledToken
from quince.engine.grouping import DecodeGroups
from quince.engine.kv_layout import KVLayout
from quince.engine.messages import FinishReason, Output
from quince.engine.pacing import PrefillPacer
from quince.engine.prefill import Lane, PrefillLanes, save_points
from quince.engine.prefix_cache import Match, PrefixCache, common_prefix
from quince.engine.request import STATUS_OF, Request, RequestStatus

LOOKAHEAD = 32  # waiting requests that are looked at in one step
MIN_SHARED = 64  # tokens that make it worth to wait for a request that is computing them


class Scheduler:
    """``schedule`` hands out a Batch; ``update`` takes the tokens that came back, one step later.

    Because the runner works one step ahead, a request that stops on a token has one decode step in flight already:
    its result is dropped. A request that reaches max_tokens has none, since its count is known in advance.
    """

    def __init__(
        self,
        *,
        max_running_requests: int,
        pacer: PrefillPacer,
        pad_prefill: bool = True,
        prefix_cache: PrefixCache | None = None,
        groups: DecodeGroups | None = None,
        snapshot_interval: int = 512,
    ) -> None:
        """``pad_prefill``: whether prompts of different lengths may be prefilled together."""
        self.prefix_cache = prefix_cache or PrefixCache(KVLayout(), max_bytes=0)
        self.cached_tokens = self.cache_hits = 0
        self._pacer = pacer
        self._max_running_requests = max_running_requests
        self._groups = groups or DecodeGroups(max_padding=2**62)
        self._snapshot_interval = snapshot_interval
        self._lanes = PrefillLanes(pad=pad_prefill)
        self._waiting: OrderedDict[str, Request] = OrderedDict()
        self._following: dict[str, Request] = {}
        self._followers: dict[str, list[tuple[int, Request]]] = {}  # by leader: (tokens to wait for, who)
        self._prefilling: dict[str, Request] = {}
        self._decoding: dict[str, Request] = {}
        self._completing: dict[str, Request] = {}
        self._advanced: list[Request] = []  # those that the last Batch prefilled
        self._free: list[str] = []
        self._outputs: list[Output] = []  # what happened between two steps: starts and aborts
        self._arrived = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._following)

    @property
    def num_running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    def has_work(self) -> bool:
        return bool(
            self._waiting or self._prefilling or self._decoding or self._completing or self._free or self._outputs
        )

    def add(self, request: Request) -> None:
        self._arrived += 1
        request.number = self._arrived
        self._waiting[request.request_id] = request

    def abort(self, request_ids: Iterable[str]) -> None:
        """Finish these requests; unknown and finished ones are ignored. Their rows go with the next Batch."""
        for request_id in request_ids:
            request = self._find(request_id)
            if request is not None:
                self._outputs.append(self._finish(request, FinishReason.ABORT))

    def refuse(self, request: Request, error: str) -> None:
        """Finish a request that cannot be run, by its own fault."""
        self.add(request)
        self._outputs.append(self._finish(request, FinishReason.ERROR, error))
        self._outputs[-1].refused = True

    def schedule(self) -> Batch:
        self._save_prefilled()
        self._advance_decoding()
        join = self._join_prefilled()
        budget = self._pacer.budget(decoding=bool(self._decoding))
        self._admit(budget)
        prefill = self._prefill(budget)
        free, self._free = self._free, []
        cache = self.prefix_cache.take_operations()
        return Batch(cache=cache, free=free, join=join, prefill=prefill, decoding=len(self._decoding))

    def update(self, tokens: Iterable[SampledToken]) -> list[Output]:
        """Give each sampled token to its request and finish those that are done."""
        outputs, self._outputs = self._outputs, []
        for token in tokens:
            request = self._decoding.get(token.request_id) or self._completing.get(token.request_id)
            if request is not None:
                outputs.append(self._append(request, token))
        return outputs

    def fail_running(self, error: str) -> list[Output]:
        """The step failed and took every row with it, and what was kept of others: finish all that ran, keep those
        that wait."""
        outputs, self._outputs = self._outputs, []
        running = (self._prefilling, self._decoding, self._completing)
        for request in [request for queue in running for request in queue.values()]:
            outputs.append(self._finish(request, FinishReason.ERROR, error))
        self.prefix_cache.clear()
        self._groups.clear()
        self._lanes.clear()
        self._advanced.clear()
        self._free.clear()
        return outputs

    def _find(self, request_id: str) -> Request | None:
        for queue in (self._waiting, self._following, self._prefilling, self._decoding, self._completing):
            if request_id in queue:
                return queue[request_id]
        return None

    # Decode

    def _join_prefilled(self) -> list[DecodeRow]:
        """Move the requests whose whole prompt has been handed to the runner to decoding."""
        ready = [request for request in self._prefilling.values() if request.num_to_prefill == 0]
        return [self._join(request) for request in ready]

    def _join(self, request: Request) -> DecodeRow:
        request_id, sampling = request.request_id, request.sampling
        self._leave_prefill(request)
        self._decoding[request_id] = request
        request.num_launched = request.num_generated + 1
        return DecodeRow(
            request_id,
            request.input_token_ids[-1],
            sampling,
            self._groups.place(request_id, len(request.input_token_ids)),
            request.prompt_token_ids if sampling.repetition_penalty != 1 else [],
            request.output_token_ids.copy(),
        )

    def _advance_decoding(self) -> None:
        """Launch one more token of every decoding request; those that have launched all give up their rows."""
        complete = [r for r in self._decoding.values() if r.num_launched == r.sampling.max_tokens]
        for request in complete:
            self._leave_decoding(request)
            self._completing[request.request_id] = request
        for request in self._decoding.values():
            request.num_launched += 1
        self._groups.advance()

    def _leave_decoding(self, request: Request) -> None:
        """Its row goes with the next Batch; what it holds is kept."""
        del self._decoding[request.request_id]
        self._groups.remove(request.request_id)
        self._free.append(request.request_id)
        self.prefix_cache.insert(request.token_ids, request.request_id)

    # Prefill

    def _prefill(self, budget: int) -> list[PrefillChunk]:
        chunks = self._lanes.next_chunks(budget)
        self._advanced = [self._prefilling[chunk.request_id] for chunk in chunks]
        return chunks

    def _save_prefilled(self) -> None:
        """Keep what the last Batch has computed of prompts, where others may resume."""
        for request in self._advanced:
            if request.request_id not in self._prefilling:
                continue
            done = request.num_to_prefill == 0
            if request.save_points and request.save_points[0] <= request.num_prefilled:
                request.save_points.pop(0)
                self._save(request)
            elif done or any(due <= request.num_prefilled for due, _ in self._followers.get(request.request_id, ())):
                self._save(request)
            self._release_followers(request, request.num_prefilled)
        self._advanced = []

    def _save(self, request: Request) -> None:
        self.prefix_cache.insert(request.input_token_ids[: request.num_prefilled], request.request_id)

    def _leave_prefill(self, request: Request) -> None:
        del self._prefilling[request.request_id]
        self._lanes.remove(request)
        self._release_followers(request, None)

    def _admit(self, budget: int) -> None:
        """Start waiting requests in order, in new lanes of those that can be prefilled together."""
        lanes: list[Lane] = []
        for request in list(islice(self._waiting.values(), LOOKAHEAD)):
            if self.num_running >= self._max_running_requests:
                break
            if self._follows(request):
                continue
            match = self._match(request)
            work = len(request.input_token_ids) - 1 - match.length
            lane = next((lane for lane in lanes if lane.takes(request, match.length, budget)), None)
            if lane is None and work > 0:
                if not self._lanes.may_add(work, budget):
                    continue
                lane = self._lanes.add()
                lanes.append(lane)
            self._start(request, match)
            if lane is not None and work > 0:
                lane.requests.append(request)

    def _match(self, request: Request) -> Match:
        """What the prefix cache has of the request; looked up again when the cache has changed."""
        if request.match is None or request.match[0] != self.prefix_cache.version:
            match = self.prefix_cache.match(request.input_token_ids, len(request.input_token_ids) - 1)
            request.match = (self.prefix_cache.version, match)
        return request.match[1]

    def _start(self, request: Request, match: Match) -> None:
        request_id = request.request_id
        del self._waiting[request_id]
        if match.length:
            self.prefix_cache.restore(match, request_id)
        request.num_prefilled = match.length
        if self.prefix_cache.needs_snapshots:
            end = len(request.input_token_ids) - 1
            request.save_points = save_points(request.boundaries, match.length, end, self._snapshot_interval)
        if request.status is RequestStatus.WAITING:
            self.cached_tokens += match.length
            self.cache_hits += match.length > 0
            self._outputs.append(Output(request_id, started=True, cached_tokens=match.length))
        request.status = RequestStatus.RUNNING
        self._prefilling[request_id] = request

    # Requests that wait for another to compute what both begin with

    def _follows(self, request: Request) -> bool:
        """Whether the request waits for one that is computing more of its prompt than the cache has."""
        if not self.prefix_cache.enabled:
            return False
        for leader, shared in self._leaders(request):
            if shared - self._match(request).length < MIN_SHARED:
                continue
            if shared <= leader.num_prefilled:
                if not self.prefix_cache.needs_snapshots:
                    self._save(leader)
                continue
            if self.prefix_cache.needs_snapshots and shared not in leader.save_points:
                leader.save_points = sorted([*leader.save_points, shared])
            del self._waiting[request.request_id]
            self._following[request.request_id] = request
            self._followers.setdefault(leader.request_id, []).append((shared, request))
            return True
        return False

    def _leaders(self, request: Request) -> Iterator[tuple[Request, int]]:
        """Who is computing a prompt that begins as this one does, and how many tokens they share."""
        own = request.input_token_ids
        for leader in self._prefilling.values():
            theirs = leader.input_token_ids
            if leader.num_to_prefill > 0 and theirs[:MIN_SHARED] == own[:MIN_SHARED]:
                yield leader, common_prefix(own[:-1], theirs[:-1])

    def _release_followers(self, leader: Request, position: int | None) -> None:
        """Those that waited for tokens up to ``position`` (None: for any) go back to the head of the queue."""
        followers = self._followers.pop(leader.request_id, [])
        left = [entry for entry in followers if position is not None and entry[0] > position]
        if left:
            self._followers[leader.request_id] = left
        for due, request in reversed(followers):
            arrived = position is None or due <= position
            if arrived and self._following.pop(request.request_id, None) is not None:
                self._waiting[request.request_id] = request
                self._waiting.move_to_end(request.request_id, last=False)

    # The end

    def _append(self, request: Request, token: SampledToken) -> Output:
        request.output_token_ids.append(token.token_id)
        reason = None
        if token.error is not None:
            return self._finish(request, FinishReason.ERROR, token.error)
        if token.token_id in request.stop_token_ids:
            reason = FinishReason.STOP
        elif request.num_generated == request.sampling.max_tokens:
            reason = FinishReason.LENGTH
        output = self._finish(request, reason) if reason else Output(request.request_id)
        output.token_ids = [token.token_id]
        if token.logprobs is not None:
            output.logprobs = [token.logprobs]
        return output

    def _finish(self, request: Request, reason: FinishReason, error: str | None = None) -> Output:
        request_id = request.request_id
        if request_id in self._prefilling:
            self._save(request)
            self._leave_prefill(request)
            if request.num_prefilled > 0:  # else the runner has no row yet
                self._free.append(request_id)
        elif request_id in self._decoding:
            self._leave_decoding(request)
        for queue in (self._waiting, self._following, self._completing):
            queue.pop(request_id, None)
        request.status = STATUS_OF[reason]
        return Output(request_id, finish_reason=reason, error=error)
