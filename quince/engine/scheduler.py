"""Which requests run in the next step: first come, first served, within fixed limits. No MLX in here.

Invariants
- A request is in exactly one of ``_waiting``, ``_followers``, ``disk``, ``_prefilling``, ``_decoding``,
  ``_completing``, ``_preempted`` until it is finished; before it is added, at most in ``disk``.
- The runner holds rows for ``_prefilling`` and ``_decoding``; together they are at most ``max_running_requests``.
- Whoever leaves those two with a row is in ``_free`` and is named in the next Batch. ``_completing`` and ``_preempted``
  wait for the token that is in flight.
- Between two steps the row of a request that prefills holds its first ``num_prefilled`` tokens, and that of one that
  decodes all of its ``token_ids``: what is inserted into the prefix cache is what the row holds.
- The buffers of all rows and the prefix cache take at most ``memory.max_bytes`` after each step. The oldest request is
  never preempted, so there is always progress.
- The work of a step grows with the running requests, never with the waiting ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from quince.engine.batch import Batch, DecodeRow, PrefillChunk, SampledToken
from quince.engine.disk_cache import DiskCache
from quince.engine.followers import MIN_SHARED, Followers, leaders
from quince.engine.grouping import DecodeGroups
from quince.engine.memory import GroupPlan, KVMemory, Rectangle
from quince.engine.messages import FinishReason, Output
from quince.engine.pacing import PrefillPacer
from quince.engine.prefill import Lane, LaneRules, PrefillLanes, save_points
from quince.engine.prefix_cache import Match, PrefixCache, common_prefix
from quince.engine.request import STATUS_OF, Request, RequestStatus

LOOKAHEAD = 32  # waiting requests that are looked at in one step


@dataclass(frozen=True)
class SchedulerConfig:
    """``lanes``: which prompts may be prefilled together. ``snapshot_interval``: tokens between two snapshots of a long
    prompt."""

    max_running_requests: int
    lanes: LaneRules
    snapshot_interval: int = 512


class Scheduler:
    """``schedule`` hands out a Batch; ``update`` takes the tokens that came back, one step later.

    Because the runner works one step ahead, a request that stops on a token has one decode step in flight already:
    its result is dropped. A request that reaches max_tokens has none, since its count is known in advance.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        pacer: PrefillPacer,
        prefix_cache: PrefixCache,
        memory: KVMemory,
        groups: DecodeGroups,
        disk: DiskCache | None = None,
    ) -> None:
        self.prefix_cache = prefix_cache
        self.disk = disk
        self.memory = memory
        self.cached_tokens = self.cache_hits = self.preemptions = self.row_bytes = 0
        self._cache_bytes = prefix_cache.max_bytes
        self._config = config
        self._pacer = pacer
        self._groups = groups
        self._lanes = PrefillLanes(config.lanes)
        self._waiting: OrderedDict[str, Request] = OrderedDict()
        self._followers = Followers()
        self._prefilling: dict[str, Request] = {}
        self._decoding: dict[str, Request] = {}
        self._completing: dict[str, Request] = {}
        self._preempted: dict[str, Request] = {}
        self._advanced: list[Request] = []  # those that the last Batch prefilled
        self._free: list[str] = []
        self._loaded: list[Request] = []  # see take_loaded
        self._outputs: list[Output] = []  # what happened between two steps: starts and aborts
        self._arrived = 0
        self._next_groups: dict[int, Rectangle] = {}
        self._bound_cache()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._followers) + len(self._preempted) + self.num_loading

    @property
    def num_loading(self) -> int:
        """Those that wait for the disk."""
        return 0 if self.disk is None else len(self.disk)

    @property
    def num_running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    def has_work(self) -> bool:
        queues = (self._waiting, self._prefilling, self._decoding, self._completing, self._preempted)
        if any(queues) or self._free or self._outputs:
            return True
        return self.disk is not None and self.disk.is_ready()

    def add(self, request: Request) -> None:
        self._arrived += 1
        request.number = self._arrived
        self._waiting[request.request_id] = request
        most = self.memory.most_tokens
        if len(request.prompt_token_ids) < most:
            request.max_tokens = min(request.max_tokens, most - len(request.prompt_token_ids))
        else:
            self._refuse(request, self._too_long(request))

    def load(self, request: Request) -> bool:
        """Whether a request that is not added yet waits for the disk from now on. ``take_loaded`` gives it back."""
        return self.disk is not None and self.disk.start(request, self._match(request), request.adapter)

    def take_loaded(self) -> list[Request]:
        loaded, self._loaded = self._loaded, []
        return loaded

    def refuse(self, request: Request, error: str) -> None:
        """Finish a request that cannot be run, by its own fault."""
        self._waiting[request.request_id] = request
        self._refuse(request, error)

    def abort(self, request_ids: Iterable[str]) -> None:
        """Finish these requests; unknown and finished ones are ignored. Their rows go with the next Batch."""
        for request_id in request_ids:
            request = self._find(request_id)
            if request is not None:
                self._outputs.append(self._finish(request, FinishReason.ABORT))

    def abort_all(self) -> None:
        """Finish every request; what rows hold is kept."""
        self.abort(self.disk.request_ids if self.disk is not None else ())
        while requests := [*self._waiting, *self._prefilling, *self._decoding]:  # whose followers wait then
            self.abort(requests)

    def schedule(self) -> Batch:
        self._save_prefilled()
        self._advance_decoding()
        joining = self._place_prefilled()
        tight = self._make_room(joining)
        self.memory.commit(self._next_groups)
        join = [self._join(request, group) for request, group in joining.values()]
        self._take_loaded()
        if self._waiting and self.num_running < self._config.max_running_requests:
            self._admit(self._budget(0, len(self._waiting)))
        prefill, width = self._prefill()
        self._bound_cache()
        free, self._free = self._free, []
        cache = self.prefix_cache.take_operations()
        write = [] if self.disk is None else self.disk.writes()
        decoding = len(self._decoding)
        return Batch(
            cache=cache,
            free=free,
            join=join,
            prefill=prefill,
            prefill_width=width,
            decoding=decoding,
            tight=tight,
            write=write,
        )

    def _budget(self, start: int, rows: int) -> int:
        """Tokens of prompts for this step: of so many rows, each ``start`` tokens into its own."""
        return self._pacer.budget(decoding=bool(self._decoding), start=start, rows=rows)

    def update(self, tokens: Iterable[SampledToken]) -> list[Output]:
        """Give each sampled token to its request and finish those that are done."""
        outputs, self._outputs = self._outputs, []
        for token in tokens:
            name = token.request_id
            request = self._decoding.get(name) or self._completing.get(name) or self._preempted.get(name)
            if request is not None:
                outputs.append(self._append(request, token))
        for request in self._preempted.values():
            request.preempt()
            self._wait_again(request)
        self._preempted.clear()
        return outputs

    def fail_running(self, error: str) -> list[Output]:
        """The step failed and took every row with it, and what was kept of others: finish all that ran, keep those
        that wait."""
        outputs, self._outputs = self._outputs, []
        running = (self._prefilling, self._decoding, self._completing, self._preempted)
        for request in [request for queue in running for request in queue.values()]:
            outputs.append(self._finish(request, FinishReason.ERROR, error))
        self.prefix_cache.clear()
        self.memory.clear()
        self._groups.clear()
        self._lanes.clear()
        self._advanced.clear()
        self._free.clear()
        return outputs

    def _find(self, request_id: str) -> Request | None:
        for queue in (self._waiting, self._prefilling, self._decoding, self._completing, self._preempted):
            if request_id in queue:
                return queue[request_id]
        request = self._followers.get(request_id)
        return self.disk.get(request_id) if request is None and self.disk is not None else request

    # Decode

    def _advance_decoding(self) -> None:
        """Launch one more token of every decoding request; those that have launched all give up their rows."""
        complete = [r for r in self._decoding.values() if r.num_launched == r.max_tokens]
        for request in complete:
            self._leave_decoding(request)
            self._completing[request.request_id] = request
        for request in self._decoding.values():
            request.num_launched += 1
        self._groups.advance()

    def _place_prefilled(self) -> dict[str, tuple[Request, int]]:
        """The requests whose whole prompt has been handed to the runner, with the groups that they can join."""
        ready = [request for request in self._prefilling.values() if request.num_to_prefill == 0]
        return {request.request_id: (request, self._place(request)) for request in ready}

    def _place(self, request: Request) -> int:
        kind = None if self._config.lanes.mix_adapters else request.adapter
        return self._groups.place(request.request_id, len(request.input_token_ids), kind)

    def _join(self, request: Request, group: int) -> DecodeRow:
        request_id, sampling = request.request_id, request.sampling
        self._leave_prefill(request)
        self._decoding[request_id] = request
        request.num_launched = request.num_generated + 1
        return DecodeRow(
            request_id,
            request.input_token_ids[-1],
            sampling,
            group,
            [token for token in request.prompt_token_ids if token >= 0] if sampling.repetition_penalty != 1 else [],
            request.output_token_ids.copy(),
        )

    def _leave_decoding(self, request: Request) -> None:
        """Its row goes with the next Batch; what it holds is kept."""
        del self._decoding[request.request_id]
        self._groups.remove(request.request_id)
        self._free.append(request.request_id)
        self._keep(request, request.token_ids)

    # Prefill

    def _prefill(self) -> tuple[list[PrefillChunk], int]:
        chunks, width = self._lanes.next_chunks(self._budget)
        self._advanced = [self._prefilling[chunk.request_id] for chunk in chunks]
        return chunks, width

    def _save_prefilled(self) -> None:
        """Keep what the last Batch has computed of prompts, where others may resume."""
        for request in self._advanced:
            if request.request_id not in self._prefilling:
                continue
            if request.save_points and request.save_points[0] <= request.num_prefilled:
                request.save_points.pop(0)
                self._save(request)
            elif self._followers.are_due(request):
                self._save(request)
            self._release_followers(request, request.num_prefilled)
        self._advanced = []

    def _save(self, request: Request) -> None:
        self._keep(request, request.input_token_ids[: request.num_prefilled])

    def _keep(self, request: Request, token_ids: list[int]) -> None:
        """Its row holds these tokens."""
        self.prefix_cache.insert(token_ids, request.request_id, request.adapter)

    def _leave_prefill(self, request: Request) -> None:
        del self._prefilling[request.request_id]
        self._lanes.remove(request)
        self._release_followers(request, None)

    def _release_followers(self, leader: Request, position: int | None) -> None:
        for request in reversed(self._followers.release(leader, position)):
            self._wait_again(request)

    def _wait_again(self, request: Request) -> None:
        """At the head of the queue."""
        self._waiting[request.request_id] = request
        self._waiting.move_to_end(request.request_id, last=False)

    # Admission

    def _admit(self, budget: int) -> None:
        """Start waiting requests in order, in new lanes of those that can be prefilled together."""
        lanes: list[Lane] = []
        for request in list(islice(self._waiting.values(), LOOKAHEAD)):
            if self.num_running >= self._config.max_running_requests:
                break
            if self._follows(request):
                continue
            self._keep_shared(request)
            match = self._match(request)
            if self.disk is not None and self.disk.start(request, match, request.adapter):
                del self._waiting[request.request_id]
                continue
            work = len(request.input_token_ids) - 1 - match.length
            lane = next((lane for lane in lanes if lane.takes(request, match.length, budget)), None)
            if lane is None and work > 0 and not self._lanes.may_add(work, budget):
                continue
            if not self._fits(request, match, lane):
                break
            self._start(request, match)
            if lane is None and work > 0:
                lane = self._lanes.add()
                lanes.append(lane)
            if lane is not None and work > 0:
                lane.add(request)

    def _take_loaded(self) -> None:
        """Go on with requests for which the disk has been read."""
        if self.disk is not None:
            for request in reversed(self.disk.advance()):
                if request.number:
                    self._wait_again(request)
                else:
                    self._loaded.append(request)

    def num_cached(self, request: Request) -> int:
        """How much of a waiting request's prompt the prefix cache has now, in tokens."""
        return self._match(request).length

    def _match(self, request: Request) -> Match:
        """What the prefix cache has of the request; looked up again when the cache has changed."""
        if request.match is None or request.match[0] != self.prefix_cache.version:
            token_ids = request.input_token_ids
            match = self.prefix_cache.match(token_ids, len(token_ids) - 1, request.adapter)
            request.match = (self.prefix_cache.version, match)
        return request.match[1]

    def _keep_shared(self, request: Request) -> None:
        """Keep what rows that decode have of the request's prompt and the cache has not. A row is kept as a whole when
        it leaves; before, only if somebody can use it: copies cost."""
        if not self.prefix_cache.enabled or self.prefix_cache.needs_snapshots:
            return
        own = request.input_token_ids[:-1]
        for row in self._decoding.values():
            if row.adapter != request.adapter or row.input_token_ids[:MIN_SHARED] != own[:MIN_SHARED]:
                continue
            theirs = row.input_token_ids[:-1]  # the last one may not be in the row yet
            shared = common_prefix(own, theirs)
            if shared - self._match(request).length >= MIN_SHARED:
                self._keep(row, theirs[:shared])

    def _start(self, request: Request, match: Match) -> None:
        request_id = request.request_id
        del self._waiting[request_id]
        if match.length:
            self.prefix_cache.restore(match, request_id)
        request.num_prefilled = match.length
        if self.prefix_cache.needs_snapshots:
            end = len(request.input_token_ids) - 1
            interval = self._config.snapshot_interval
            request.save_points = save_points(request.boundaries, match.length, end, interval)
        if request.status is RequestStatus.WAITING:
            self.cached_tokens += match.length
            self.cache_hits += match.length > 0
            self._outputs.append(Output(request_id, started=True, cached_tokens=match.length))
        request.status = RequestStatus.RUNNING
        self._prefilling[request_id] = request

    def _follows(self, request: Request) -> bool:
        """Whether the request waits for one that is computing more of its prompt than the cache has."""
        if not self.prefix_cache.enabled:
            return False
        for leader, shared in leaders(request, self._prefilling.values()):
            if shared - self._match(request).length < MIN_SHARED:
                continue
            if shared <= leader.num_prefilled:
                if not self.prefix_cache.needs_snapshots:
                    self._save(leader)
                continue
            if self.prefix_cache.needs_snapshots and shared not in leader.save_points:
                leader.save_points = sorted([*leader.save_points, shared])
            del self._waiting[request.request_id]
            self._followers.add(request, leader, shared)
            return True
        return False

    # Memory

    def _bound_cache(self) -> None:
        """The prefix cache may take what rows leave, up to its own limit."""
        self.row_bytes = self._row_bytes()
        self.prefix_cache.resize(min(self._cache_bytes, self.memory.max_bytes - self.row_bytes))

    def _row_bytes(self) -> int:
        """What all rows take."""
        memory = self.memory
        return memory.group_bytes(memory.groups.values()) + sum(map(memory.lane_bytes, self._lanes.rectangles))

    def _fits(self, request: Request, match: Match, lane: Lane | None) -> bool:
        """Whether there is room for the request now: for its prompt, and for its row when it decodes, and for those of
        all others that prefill. What the prefix cache keeps makes place."""
        memory = self.memory
        need = memory.row_bytes(len(request.input_token_ids))
        if self.num_running > 0:
            reserved = sum(memory.row_bytes(len(other.input_token_ids)) for other in self._prefilling.values())
            lane = lane or self._lanes.new()
            need += reserved + memory.lane_bytes(lane.grown(request)) - memory.lane_bytes(lane.rectangle)
        missing = self._row_bytes() + need + self.prefix_cache.nbytes - memory.max_bytes
        if missing <= 0:
            return True
        if missing > self.prefix_cache.nbytes:
            return False
        if match.length:
            self.prefix_cache.pin(match)
        freed = self.prefix_cache.evict(missing)
        if match.length:
            self.prefix_cache.unpin(match)
        if freed < missing and self.num_running == 0:
            # Nobody will free more: the row and what it would be copied from do not fit together. The next step finds
            # what is left of that.
            self.prefix_cache.evict(missing - freed)
        return freed >= missing

    def _make_room(self, joining: dict[str, tuple[Request, int]]) -> bool:
        """See to it that the next Batch has the memory it needs. Returns whether its buffers must be tight."""
        while True:
            for tight in (False, True):
                missing = self._plan(joining, tight) - self.memory.max_bytes
                if missing + self.prefix_cache.nbytes <= 0:
                    return tight
                self.prefix_cache.evict(missing + self.prefix_cache.nbytes)
                if missing + self.prefix_cache.nbytes <= 0:
                    return tight
            running = [*self._prefilling.values(), *self._decoding.values()]
            if len(running) <= 1:
                return True
            self._preempt(max(running, key=lambda request: request.number), joining)

    def _plan(self, joining: dict[str, tuple[Request, int]], tight: bool) -> int:
        """Size the decode groups for the next Batch. Returns what all rows will take."""
        plans: dict[int, GroupPlan] = {}
        adopted_bytes = 0
        for number, rows in self._groups.lengths.items():
            new = [name for name in rows if name in joining]
            adopted = None
            if number not in self.memory.groups and len(new) == len(rows):
                adopted = self._lanes.whole([joining[name][0] for name in new])
                adopted_bytes += 0 if adopted is None else self.memory.lane_bytes(adopted)
            plans[number] = GroupPlan(list(rows.values()), [rows[name] for name in new], adopted)
        self._next_groups = self.memory.plan(plans, tight=tight)
        lanes = sum(map(self.memory.lane_bytes, self._lanes.rectangles))
        return self.memory.group_bytes(self._next_groups.values()) + lanes - adopted_bytes

    def _preempt(self, request: Request, joining: dict[str, tuple[Request, int]]) -> None:
        """Take the request's row. What it holds is kept if there is room, and the request waits for its turn."""
        request_id = request.request_id
        self.preemptions += 1
        request.status = RequestStatus.PREEMPTED
        if request_id in joining:
            del joining[request_id]
            self._groups.remove(request_id)
        if request_id in self._prefilling:
            held = request.input_token_ids[: request.num_prefilled]
            self._leave_prefill(request)
            if request.num_prefilled > 0:
                self._free.append(request_id)
        else:
            held = request.token_ids
            del self._decoding[request_id]
            self._groups.remove(request_id)
            self._free.append(request_id)
        # Not waiting before the next step: one Batch must not free a row and restore it.
        self._preempted[request_id] = request
        room = self.memory.max_bytes - self._plan(joining, tight=True)
        self.prefix_cache.resize(min(self._cache_bytes, room))
        self._keep(request, held)

    # The end

    def _append(self, request: Request, token: SampledToken) -> Output:
        request.output_token_ids.append(token.token_id)
        reason = None
        if token.error is not None:
            output = self._finish(request, FinishReason.ERROR, f"the format cannot be held to: {token.error}")
            output.refused = True
            return output
        if token.token_id in request.stop_token_ids:
            reason = FinishReason.STOP
        elif request.num_generated == request.max_tokens:
            reason = FinishReason.LENGTH
        output = self._finish(request, reason) if reason else Output(request.request_id)
        output.token_ids = [token.token_id]
        if token.logprobs is not None:
            output.logprobs = [token.logprobs]
        return output

    def _refuse(self, request: Request, error: str) -> None:
        self._outputs.append(self._finish(request, FinishReason.ERROR, error))
        self._outputs[-1].refused = True

    def _too_long(self, request: Request) -> str:
        tokens = len(request.prompt_token_ids)
        need, have = self.memory.row_bytes(tokens + 1), self.memory.max_bytes
        return (
            f"the prompt has {tokens} tokens, whose keys and values take {need / 2**20:.0f} MiB, but there are only "
            f"{have / 2**20:.0f} MiB for them: at most {max(0, self.memory.most_tokens - 1)} tokens fit"
        )

    def _finish(self, request: Request, reason: FinishReason, error: str | None = None) -> Output:
        request_id = request.request_id
        if request_id in self._prefilling:
            self._save(request)
            self._leave_prefill(request)
            if request.num_prefilled > 0:  # else the runner has no row yet
                self._free.append(request_id)
        elif request_id in self._decoding:
            self._leave_decoding(request)
        for queue in (self._waiting, self._completing, self._preempted):
            queue.pop(request_id, None)
        self._followers.discard(request_id)
        if self.disk is not None:
            self.disk.discard(request)
        request.status = STATUS_OF[reason]
        return Output(request_id, finish_reason=reason, error=error)
