"""Which requests run in the next step: first come, first served, within fixed limits. No MLX in here.

Invariants
- A request is in exactly one of ``_waiting``, ``_prefilling``, ``_decoding``, ``_completing`` until it is finished.
- The runner holds rows for ``_prefilling`` and ``_decoding``; together they are at most ``max_running_requests``.
- Whoever leaves those two is in ``_free`` and is named in the next Batch. ``_completing`` waits for its last token.
- The work of a step grows with the running requests, never with the waiting ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from quince.engine.batch import Batch, DecodeRow, PrefillChunk, SampledToken
from quince.engine.messages import FinishReason, Output
from quince.engine.pacing import PrefillPacer
from quince.engine.request import STATUS_OF, Request, RequestStatus


class Scheduler:
    """``schedule`` hands out a Batch; ``update`` takes the tokens that came back, one step later.

    Because the runner works one step ahead, a request that stops on a token has one decode step in flight already:
    its result is dropped. A request that reaches max_tokens has none, since its count is known in advance.
    """

    def __init__(self, *, max_running_requests: int, pacer: PrefillPacer, pad_prefill: bool = True) -> None:
        """``pad_prefill``: whether prompts of different lengths may be prefilled together."""
        self._pacer = pacer
        self._pad_prefill = pad_prefill
        self._max_running_requests = max_running_requests
        self._waiting: OrderedDict[str, Request] = OrderedDict()
        self._prefilling: dict[str, Request] = {}
        self._decoding: dict[str, Request] = {}
        self._completing: dict[str, Request] = {}
        self._free: list[str] = []
        self._outputs: list[Output] = []  # what happened between two steps: starts and aborts

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    def has_work(self) -> bool:
        return bool(
            self._waiting or self._prefilling or self._decoding or self._completing or self._free or self._outputs
        )

    def add(self, request: Request) -> None:
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
        self._advance_decoding()
        join = self._join_prefilled()
        budget = self._pacer.budget(decoding=bool(self._decoding))
        prefill = self._continue_prefill(budget) or self._admit(budget)
        free, self._free = self._free, []
        return Batch(free=free, join=join, prefill=prefill, decoding=len(self._decoding))

    def update(self, tokens: Iterable[SampledToken]) -> list[Output]:
        """Give each sampled token to its request and finish those that are done."""
        outputs, self._outputs = self._outputs, []
        for token in tokens:
            request = self._decoding.get(token.request_id) or self._completing.get(token.request_id)
            if request is not None:
                outputs.append(self._append(request, token))
        return outputs

    def fail_running(self, error: str) -> list[Output]:
        """The step failed and took every row with it: finish all that ran, keep those that wait."""
        outputs, self._outputs = self._outputs, []
        running = (self._prefilling, self._decoding, self._completing)
        for request in [request for queue in running for request in queue.values()]:
            outputs.append(self._finish(request, FinishReason.ERROR, error))
        self._free.clear()
        return outputs

    def _find(self, request_id: str) -> Request | None:
        for queue in (self._waiting, self._prefilling, self._decoding, self._completing):
            if request_id in queue:
                return queue[request_id]
        return None

    def _join_prefilled(self) -> list[DecodeRow]:
        """Move the requests whose whole prompt has been handed to the runner to decoding."""
        ready = [request for request in self._prefilling.values() if request.num_to_prefill == 0]
        for request in ready:
            del self._prefilling[request.request_id]
            self._decoding[request.request_id] = request
            request.num_launched = 1
        return [
            DecodeRow(
                r.request_id,
                r.prompt_token_ids[-1],
                r.sampling,
                r.prompt_token_ids if r.sampling.repetition_penalty != 1 else [],
            )
            for r in ready
        ]

    def _advance_decoding(self) -> None:
        """Launch one more token of every decoding request; those that have launched all give up their rows."""
        complete = [r for r in self._decoding.values() if r.num_launched == r.sampling.max_tokens]
        for request in complete:
            del self._decoding[request.request_id]
            self._completing[request.request_id] = request
            self._free.append(request.request_id)
        for request in self._decoding.values():
            request.num_launched += 1

    def _continue_prefill(self, budget: int) -> list[PrefillChunk]:
        """The next chunk of the one long prompt in progress, if there is one."""
        for request in self._prefilling.values():
            if request.num_to_prefill > 0:
                return [self._chunk(request, budget)]
        return []

    def _admit(self, budget: int) -> list[PrefillChunk]:
        """Start waiting requests in order, as many as fit one rectangle of ``budget`` tokens.

        Padding counts. A prompt longer than the budget starts alone and goes on in the next steps.
        """
        chunks: list[PrefillChunk] = []
        width = 0
        while self._waiting and self.num_running < self._max_running_requests:
            request = next(iter(self._waiting.values()))
            need = max(width, request.num_to_prefill)
            if chunks and need * (len(chunks) + 1) > budget:
                break
            if chunks and not self._pad_prefill and request.num_to_prefill not in (0, width):
                break
            del self._waiting[request.request_id]
            self._start(request)
            if request.num_to_prefill > 0:  # a prompt of one token has nothing to prefill
                width = need
                chunks.append(self._chunk(request, budget))
        return chunks

    def _start(self, request: Request) -> None:
        request.status = RequestStatus.RUNNING
        self._prefilling[request.request_id] = request
        self._outputs.append(Output(request.request_id, started=True))

    def _chunk(self, request: Request, budget: int) -> PrefillChunk:
        start = request.num_prefilled
        stop = start + min(request.num_to_prefill, budget)
        request.num_prefilled = stop
        prompt = request.prompt_token_ids
        return PrefillChunk(request.request_id, prompt[start:stop], start, len(prompt) - 1)

    def _append(self, request: Request, token: SampledToken) -> Output:
        request.num_generated += 1
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
        if request_id in self._prefilling or request_id in self._decoding:
            self._free.append(request_id)
        for queue in (self._waiting, self._prefilling, self._decoding, self._completing):
            queue.pop(request_id, None)
        request.status = STATUS_OF[reason]
        return Output(request_id, finish_reason=reason, error=error)
