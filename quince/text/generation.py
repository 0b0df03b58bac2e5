"""The one stream that every API translates: prompts in, events out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from quince.engine.client import ANSWER_MARK, EngineClient
from quince.engine.messages import AddRequest, Ready
from quince.engine.preprocess import PreparedMedia
from quince.errors import InvalidRequest
from quince.metrics import AnswerRecord, current_request
from quince.sampling import SamplingParams
from quince.text.answer import Answer, AnswerRules
from quince.text.chat import ChatParams, ChatPrompter, Message, Prompt
from quince.text.events import Event, TextDelta
from quince.text.length import characters, prompt_too_long
from quince.text.media import MediaKind, MediaReference, check_kinds
from quince.text.output_format import OutputFormat
from quince.text.tokenizer import Tokenizer
from quince.text.vision import KINDS, MediaReader

# Prompts longer than this (in characters) are rendered and tokenized on a thread: shorter ones take less than a switch.
LONG_PROMPT = 4000

T = TypeVar("T")


@dataclass(frozen=True)
class SamplingDefaults:
    """What a request gets for a parameter that it leaves out."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    adapter: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationParams:
    """What a request asked for; None where it left the choice to the server. ``max_tokens`` is cut to the context.

    ``n`` answers are given to each prompt. ``output_format`` holds an answer's text to a grammar. ``echo``: the answer
    to a prompt that is continued begins with the prompt. ``adapter``: one of the model's, by its name.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    logprobs: int | None = None
    n: int = 1
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    echo: bool = False
    output_format: OutputFormat | None = None
    adapter: str | None = None
    chat: ChatParams = dataclasses.field(default_factory=ChatParams)


class TextGenerator:
    """One model's text: its tokenizer in front of its engine."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        prompter: ChatPrompter,
        defaults: SamplingDefaults,
        media_reader: MediaReader | None = None,
    ) -> None:
        """``media_reader``: None for a model that reads text only."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._prompter = prompter
        self._defaults = defaults
        self._media_reader = media_reader

    def with_adapter(self, adapter: str) -> TextGenerator:
        """The same model, for requests that name this adapter by the model's name."""
        defaults = dataclasses.replace(self._defaults, adapter=adapter)
        return TextGenerator(self._engine, self._tokenizer, self._prompter, defaults, self._media_reader)

    @property
    def media_kinds(self) -> frozenset[MediaKind]:
        """What this model takes besides text."""
        return frozenset() if self._media_reader is None else KINDS

    async def chat(
        self,
        request_id: str,
        messages: Sequence[Message],
        params: GenerationParams,
        media: Sequence[MediaReference] = (),
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """Answer a conversation. Events come with the number of the answer that they belong to.

        ``media`` is what the messages' placeholders stand for, in order. Closing the iterator aborts the request.
        """
        check_kinds(media, self.media_kinds)

        chat, names = params.chat, _names(request_id, params.n)
        size = characters(messages) + characters(chat.template_kwargs) + _format_size(params)
        if chat.tools is not None:
            size += characters(chat.tools.definitions)
        with current_request().answered_as(request_id), self._engine.admit(*names):
            ready = await self._engine.wait_ready()

            def prepare(prepared: Sequence[PreparedMedia]) -> Prompt:
                def check(text: str) -> None:
                    self._check_text(text, ready, "messages")

                return self._prompter.prepare(messages, chat, params.output_format, prepared, check)

            async with contextlib.AsyncExitStack() as stack:
                async with self._engine.interruptible(names):
                    prepared = await stack.enter_async_context(self._read(media))
                size += sum(one.tokens for one in prepared)
                prompt = await maybe_on_thread(lambda: prepare(prepared), size)
                async with aclosing(self._answers(names, [prompt], params)) as events:
                    async for event in events:
                        yield event

    @contextlib.asynccontextmanager
    async def _read(self, media: Sequence[MediaReference]) -> AsyncIterator[list[PreparedMedia]]:
        if self._media_reader is None or not media:
            yield []
            return
        current_request().vision = True
        async with self._media_reader.read(media) as prepared:
            yield prepared

    async def complete(
        self, request_id: str, prompts: Sequence[str | list[int]], params: GenerationParams
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """Continue texts (or token ids) as they are. The answers to prompt ``i`` have numbers from ``i * n`` on."""
        size = sum(len(prompt) for prompt in prompts)
        names = _names(request_id, len(prompts) * params.n)
        with current_request().answered_as(request_id), self._engine.admit(*names):
            ready = await self._engine.wait_ready()

            def prepare() -> list[Prompt]:
                if params.output_format is not None:
                    params.output_format.check()
                return [self._continuation(prompt, params, ready) for prompt in prompts]

            prepared = await maybe_on_thread(prepare, size + _format_size(params))
            async with aclosing(self._answers(names, prepared, params)) as events:
                async for event in events:
                    yield event

    def _continuation(self, prompt: str | list[int], params: GenerationParams, ready: Ready) -> Prompt:
        if isinstance(prompt, str):
            self._check_text(prompt, ready, "prompt")
        elif len(prompt) >= ready.max_model_len:
            raise prompt_too_long(ready.max_model_len, str(len(prompt)), "prompt")
        output_format, echo = params.output_format, ""
        if params.echo:
            echo = prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
        if isinstance(prompt, str):
            prompt = self._tokenizer.encode(prompt, add_special_tokens=True)
        grammar = None if output_format is None else self._tokenizer.spell_out(f"start: {output_format.expression}")
        return Prompt(token_ids=prompt, field="prompt", grammar=grammar, after=prompt, echo=echo)

    async def _answers(
        self, names: Sequence[str], prompts: Sequence[Prompt], params: GenerationParams
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """``params.n`` answers to each prompt, all at once; ``names`` are the answers' ids for the engine."""
        ready = await self._engine.wait_ready()
        for prompt in prompts:
            self._check(prompt, params, ready)
        asked = [(number, choice) for number in range(len(prompts)) for choice in range(params.n)]
        streams = [
            self._answer(name, prompts[number], self._sampling(prompts[number], params, ready, choice), params, number)
            for name, (number, choice) in zip(names, asked, strict=True)
        ]
        if len(streams) == 1:  # spares it a task for each event
            async with aclosing(streams[0]) as events:
                async for event in events:
                    yield 0, event
            return
        async with aclosing(merge(streams)) as merged:
            async for numbered in merged:
                yield numbered

    async def _answer(
        self, request_id: str, prompt: Prompt, sampling: SamplingParams, params: GenerationParams, number: int
    ) -> AsyncGenerator[Event, None]:
        """``number`` is the prompt's among the request's."""
        rules = AnswerRules(
            stop_token_ids=sampling.stop_token_ids,
            stop=params.stop,
            parser=prompt.make_parser(),
            visible_token_ids=prompt.visible_token_ids,
            after=prompt.after,
            max_calls=prompt.max_calls,
            new_call_id=prompt.new_call_id,
        )
        answer = Answer(self._tokenizer, rules, len(prompt.token_ids))
        boundaries = ends_of(prompt.token_ids, self._tokenizer.eos_token_ids)  # messages end with what ends answers
        request = AddRequest(
            request_id, prompt.token_ids, sampling, boundaries, list(prompt.media), self._adapter(params)
        )
        with AnswerRecord(current_request(), number, len(prompt.token_ids)) as record:
            async with aclosing(self._engine.generate(request)) as batches:
                echo = prompt.echo
                async for outputs in batches:
                    if outputs[0].started:
                        record.started(outputs[0].cached_tokens)
                    if echo:
                        yield TextDelta(echo)
                        echo = ""
                    events = answer.push(outputs)
                    record.advance(answer.completion_tokens, answer.reasoning_tokens)
                    record.finish_reason = answer.finish_reason and answer.finish_reason.value
                    for event in events:
                        yield event
                    if answer.finished:
                        return

    def _check_text(self, text: str, ready: Ready, field: str) -> None:
        """Refuse what is far too long before it is tokenized, which would take long, too."""
        least = self._tokenizer.at_least([text], ready.max_model_len)
        if least is not None:
            raise prompt_too_long(ready.max_model_len, f"at least {least}", field)

    def _check(self, prompt: Prompt, params: GenerationParams, ready: Ready) -> None:
        """Refuse what the loaded model cannot take."""
        self._adapter(params)
        length, last = len(prompt.token_ids), ready.vocab_size - 1
        if not length:
            raise InvalidRequest("the prompt is empty", param=prompt.field)
        if length >= ready.max_model_len:
            raise prompt_too_long(ready.max_model_len, str(length), prompt.field)
        if max(prompt.token_ids) > last or min(prompt.token_ids) < 0:
            raise InvalidRequest(f"token ids must be between 0 and {last}", param=prompt.field)
        if params.logit_bias and max(params.logit_bias) > last:
            raise InvalidRequest(f"logit_bias: token ids must be between 0 and {last}", param="logit_bias")
        if prompt.grammar is not None and not self._tokenizer.has_file:
            raise InvalidRequest(
                "this model has no tokenizer.json: it cannot be held to a format", param="response_format"
            )

    def _adapter(self, params: GenerationParams) -> str | None:
        """The adapter that the request asks for. Raises InvalidRequest for one that there is not."""
        asked, default = params.adapter, self._defaults.adapter
        if asked is None:
            return default
        if asked not in self._engine.adapters:
            there = f"It has: {', '.join(self._engine.adapters)}." if self._engine.adapters else "It has none."
            raise InvalidRequest(f"This model has no adapter '{asked}'. {there}", param="adapters")
        if default not in (None, asked):
            raise InvalidRequest(
                f"adapters asks for '{asked}' and model for '{default}': a request has one adapter", param="adapters"
            )
        return asked

    def _sampling(self, prompt: Prompt, params: GenerationParams, ready: Ready, choice: int) -> SamplingParams:
        """Fill in the defaults. Answers to one prompt differ by their seeds."""
        defaults = self._defaults
        room = ready.max_model_len - len(prompt.token_ids)
        # A grammar ends an answer by the token that ends answers.
        endless = params.ignore_eos and prompt.grammar is None
        return SamplingParams(
            max_tokens=min(_first(params.max_tokens, defaults.max_tokens, room), room),
            temperature=_first(params.temperature, defaults.temperature),
            top_p=_first(params.top_p, defaults.top_p),
            top_k=_first(params.top_k, defaults.top_k),
            min_p=_first(params.min_p, defaults.min_p),
            seed=secrets.randbits(64) if params.seed is None else (params.seed + choice) % 2**64,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            repetition_penalty=_first(params.repetition_penalty, defaults.repetition_penalty),
            logit_bias=tuple(params.logit_bias.items()),
            grammar=prompt.grammar,
            thinking=prompt.thinking,
            stop_token_ids=() if endless else self._tokenizer.eos_token_ids,
            logprobs=params.logprobs,
        )


def _names(request_id: str, count: int) -> list[str]:
    return [request_id] if count == 1 else [f"{request_id}{ANSWER_MARK}{number}" for number in range(count)]


async def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Items of all streams as they come, with their stream's number. An error of one ends all.

    Closing the iterator closes the streams.
    """
    waiting = {asyncio.create_task(_next(stream)): number for number, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                number = waiting.pop(task)
                for item in task.result():
                    waiting[asyncio.create_task(_next(streams[number]))] = number
                    yield number, item
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _next(stream: AsyncGenerator[T, None]) -> list[T]:
    """The next item, or nothing at the end."""
    async for item in stream:
        return [item]
    return []


async def maybe_on_thread(work: Callable[[], T], size: int) -> T:
    """Tokenizing of ``size`` characters: on a thread, if that takes longer than changing to one."""
    return await asyncio.to_thread(work) if size > LONG_PROMPT else work()


def _format_size(params: GenerationParams) -> int:
    """Grammars are checked on a thread, however small."""
    return 0 if params.output_format is None else LONG_PROMPT


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def ends_of(token_ids: list[int], marks: Iterable[int]) -> list[int]:
    """Where the text behind each of the ``marks`` begins, in order; without looking at every token in Python."""
    found: list[int] = []
    for mark in set(marks):
        end = 0
        with contextlib.suppress(ValueError):  # no more of them
            while True:
                end = token_ids.index(mark, end) + 1
                found.append(end)
    return sorted(found)
