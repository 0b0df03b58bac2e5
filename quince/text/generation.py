"""The one stream that every API translates: a prompt in, events out."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from quince.engine.client import EngineClient
from quince.engine.messages import FinishReason, Output
from quince.errors import ContextLengthExceeded, InvalidRequest
from quince.sampling import SamplingParams
from quince.text import chat_template
from quince.text.events import Event, Finished, StopReason, TextDelta, Usage
from quince.text.stop import StopStrings
from quince.text.tokenizer import Tokenizer

# Prompts longer than this (in characters) are rendered and tokenized on a thread: shorter ones take less than a switch.
LONG_PROMPT = 4000

_REASONS = {
    FinishReason.STOP: StopReason.STOP,
    FinishReason.LENGTH: StopReason.LENGTH,
    FinishReason.ABORT: StopReason.ABORT,
}


@dataclass(frozen=True)
class SamplingDefaults:
    """What a request gets for a parameter that it leaves out."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True, kw_only=True)
class GenerationParams:
    """What a request asked for; None where it left the choice to the server. ``max_tokens`` is cut to the context."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    template_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


class TextGenerator:
    """One model's text: its tokenizer in front of its engine."""

    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, defaults: SamplingDefaults) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._defaults = defaults

    async def chat(
        self, request_id: str, messages: Sequence[dict[str, Any]], params: GenerationParams
    ) -> AsyncGenerator[Event, None]:
        """Answer a conversation. Closing the iterator aborts the request."""

        def tokenize() -> list[int]:
            prompt = chat_template.render(self._tokenizer, messages, params.template_kwargs)
            return self._tokenizer.encode(prompt, add_special_tokens=False)

        size = sum(len(str(message)) for message in messages) + len(str(params.template_kwargs))
        prompt_token_ids = await _maybe_on_thread(tokenize, size)
        async with aclosing(self.tokens(request_id, prompt_token_ids, params, field="messages")) as events:
            async for event in events:
                yield event

    async def complete(
        self, request_id: str, prompt: str | list[int], params: GenerationParams
    ) -> AsyncGenerator[Event, None]:
        """Continue a text (or token ids) as it is."""
        if isinstance(prompt, str):
            text = prompt
            prompt = await _maybe_on_thread(lambda: self._tokenizer.encode(text, add_special_tokens=True), len(prompt))
        async with aclosing(self.tokens(request_id, prompt, params, field="prompt")) as events:
            async for event in events:
                yield event

    async def tokens(
        self, request_id: str, prompt_token_ids: list[int], params: GenerationParams, *, field: str
    ) -> AsyncGenerator[Event, None]:
        """Continue token ids; ``field`` is what the client calls them, for errors."""
        sampling = await self._sampling(prompt_token_ids, params, field)
        answer = _Answer(self._tokenizer, sampling, params.stop, len(prompt_token_ids))
        async with aclosing(self._engine.generate(request_id, prompt_token_ids, sampling)) as batches:
            async for outputs in batches:
                for event in answer.push(outputs):
                    yield event
                if answer.finished:
                    return

    async def _sampling(self, prompt_token_ids: list[int], params: GenerationParams, field: str) -> SamplingParams:
        """Fill in the defaults and check the request against the loaded model."""
        ready = await self._engine.wait_ready()
        room = ready.max_model_len - len(prompt_token_ids)
        if not prompt_token_ids:
            raise InvalidRequest("the prompt is empty", param=field)
        if room < 1:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {ready.max_model_len} tokens, "
                f"but the prompt has {len(prompt_token_ids)} tokens and leaves no room for an answer.",
                param=field,
            )
        if max(prompt_token_ids) >= ready.vocab_size or min(prompt_token_ids) < 0:
            raise InvalidRequest(f"token ids must be between 0 and {ready.vocab_size - 1}", param=field)
        defaults = self._defaults
        wanted = _first(params.max_tokens, defaults.max_tokens, room)
        return SamplingParams(
            max_tokens=min(wanted, room),
            temperature=_first(params.temperature, defaults.temperature),
            top_p=_first(params.top_p, defaults.top_p),
            top_k=_first(params.top_k, defaults.top_k),
            min_p=_first(params.min_p, defaults.min_p),
            seed=secrets.randbits(64) if params.seed is None else params.seed % 2**64,
            stop_token_ids=() if params.ignore_eos else self._tokenizer.eos_token_ids,
        )


class _Answer:
    """Turns one request's outputs into events, token by token."""

    def __init__(self, tokenizer: Tokenizer, sampling: SamplingParams, stop: Sequence[str], prompt_tokens: int) -> None:
        self._detokenizer = tokenizer.detokenizer()
        self._stop_token_ids = sampling.stop_token_ids
        self._stop = StopStrings(stop)
        self._prompt_tokens = prompt_tokens
        self._completion_tokens = 0
        self.finished = False

    def push(self, outputs: Sequence[Output]) -> list[Event]:
        """All text that the outputs bring is one delta, so a slow reader gets fewer and larger ones."""
        pieces: list[str] = []
        reason: StopReason | None = None
        for output in outputs:
            reason = self._push_tokens(output, pieces)
            if reason is not None:
                break
        events: list[Event] = []
        if text := "".join(pieces):
            events.append(TextDelta(text))
        if reason is not None:
            self.finished = True
            events.append(Finished(reason, Usage(self._prompt_tokens, self._completion_tokens)))
        return events

    def _push_tokens(self, output: Output, pieces: list[str]) -> StopReason | None:
        for token_id in output.token_ids:
            self._completion_tokens += 1
            if token_id in self._stop_token_ids:
                break
            pieces.append(self._stop.push(self._detokenizer.push(token_id)))
            if self._stop.matched:
                return StopReason.STOP
        if output.finish_reason is None:
            return None
        pieces.append(self._stop.push(self._detokenizer.flush()))
        if self._stop.matched:
            return StopReason.STOP
        pieces.append(self._stop.flush())
        return _REASONS[output.finish_reason]


async def _maybe_on_thread(tokenize: Callable[[], list[int]], size: int) -> list[int]:
    return await asyncio.to_thread(tokenize) if size > LONG_PROMPT else tokenize()


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
