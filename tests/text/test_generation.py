"""The stream of events over a scripted engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

import pytest

from quince.engine.media_messages import Mark
from quince.engine.messages import AddRequest, FinishReason, Output, Ready
from quince.engine.preprocess import PreparedMedia
from quince.errors import ContextLengthExceeded, InvalidRequest
from quince.metrics import Metrics, RequestKind, RequestRecord, recording
from quince.sampling import SamplingParams
from quince.text import output_format
from quince.text.chat import ChatPrompter
from quince.text.events import Event, Finished, StopReason, TextDelta, Usage
from quince.text.generation import GenerationParams, SamplingDefaults, TextGenerator, ends_of, merge
from quince.text.media import MediaReference
from quince.text.tokenizer import Tokenizer


class ScriptedEngine:
    """Answers every request with the tokens of ``text``, ``per_step`` at a time; remembers what it was asked."""

    def __init__(self, tokenizer: Tokenizer, text: str, *, per_step: int = 1, eos: bool = True) -> None:
        self._ids = tokenizer.encode(text, add_special_tokens=False) + ([tokenizer.eos_token_ids[0]] if eos else [])
        self._per_step = per_step
        self.sampling: SamplingParams | None = None
        self.adapter: str | None = None
        self.adapters: Sequence[str] = ()
        self.closed = False

    @contextlib.contextmanager
    def admit(self, *request_ids: str) -> Iterator[None]:
        yield

    @contextlib.asynccontextmanager
    async def interruptible(self, request_ids: Sequence[str]) -> AsyncIterator[None]:
        yield

    async def wait_ready(self) -> Ready:
        return Ready(model_type="qwen3", vocab_size=4096, max_model_len=100, memory_bytes=0, device="cpu")

    async def generate(self, request: AddRequest) -> AsyncGenerator[list[Output], None]:
        request_id, sampling = request.request_id, request.sampling
        self.prompt, self.boundaries, self.media = request.prompt_token_ids, request.boundaries, request.media
        self.sampling = sampling
        self.adapter = request.adapter
        stops = set(sampling.stop_token_ids)
        try:
            outputs = [Output(request_id, started=True)]
            for count, token in enumerate(self._ids[: sampling.max_tokens], 1):
                reason = FinishReason.STOP if token in stops else None
                if reason is None and count == sampling.max_tokens:
                    reason = FinishReason.LENGTH
                outputs.append(Output(request_id, [token], reason))
                if len(outputs) >= self._per_step or reason:
                    yield outputs
                    outputs = []
                if reason:
                    return
        finally:
            self.closed = True


def make_generator(
    engine: ScriptedEngine, tokenizer: Tokenizer, defaults: SamplingDefaults | None = None
) -> TextGenerator:
    prompter = ChatPrompter(tokenizer, None, None)
    return TextGenerator(engine, tokenizer, prompter, defaults or SamplingDefaults())  # type: ignore[arg-type]


async def answer(
    tokenizer: Tokenizer, text: str, *, per_step: int = 1, **params: object
) -> tuple[list[Event], ScriptedEngine]:
    engine = ScriptedEngine(tokenizer, text, per_step=per_step)
    stream = make_generator(engine, tokenizer).complete("r", [[1, 2, 3]], GenerationParams(**params))  # type: ignore[arg-type]
    return [event async for _, event in stream], engine


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("per_step", [1, 3, 1000])
async def test_text_then_the_reason_and_the_usage(tokenizer: Tokenizer, per_step: int) -> None:
    events, _ = await answer(tokenizer, "Hello, wörld! 👋", per_step=per_step)
    assert text_of(events) == "Hello, wörld! 👋"
    count = len(tokenizer.encode("Hello, wörld! 👋", add_special_tokens=False)) + 1
    assert events[-1] == Finished(StopReason.STOP, Usage(3, count))
    if per_step == 1000:
        assert len(events) == 2, "a slow reader gets one delta"


@pytest.mark.parametrize("per_step", [1, 4])
async def test_a_stop_string_ends_the_answer_and_the_request(tokenizer: Tokenizer, per_step: int) -> None:
    events, engine = await answer(tokenizer, "one two three four", per_step=per_step, stop=["o th"])
    assert text_of(events) == "one tw"
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is StopReason.STOP
    assert events[-1].usage.completion_tokens < len(tokenizer.encode("one two three four", add_special_tokens=False))
    assert engine.closed


async def test_usage_does_not_depend_on_how_the_outputs_came(tokenizer: Tokenizer) -> None:
    ends = [(await answer(tokenizer, "one two three four", per_step=n, stop=["three"]))[0][-1] for n in (1, 2, 50)]
    assert ends[0] == ends[1] == ends[2]


async def test_max_tokens_is_cut_to_the_context(tokenizer: Tokenizer) -> None:
    _, engine = await answer(tokenizer, "x", max_tokens=10**9)
    assert engine.sampling is not None
    assert engine.sampling.max_tokens == 97


async def test_length(tokenizer: Tokenizer) -> None:
    events, _ = await answer(tokenizer, "one two three four", max_tokens=2)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is StopReason.LENGTH
    assert events[-1].usage == Usage(3, 2)


async def test_defaults_fill_what_is_left_out(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "x")
    defaults = SamplingDefaults(max_tokens=7, temperature=0.4, top_p=0.8, top_k=5, min_p=0.1)
    generator = make_generator(engine, tokenizer, defaults)
    [_ async for _ in generator.complete("r", [[1]], GenerationParams(top_k=0, seed=-1))]
    sampling = engine.sampling
    assert sampling is not None
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.4, 0.8)
    assert (sampling.top_k, sampling.min_p, sampling.seed) == (0, 0.1, 2**64 - 1)


async def test_two_requests_without_a_seed_draw_different_ones(tokenizer: Tokenizer) -> None:
    seeds = {(await answer(tokenizer, "x"))[1].sampling.seed for _ in range(5)}  # type: ignore[union-attr]
    assert len(seeds) == 5


async def test_a_prompt_without_room_for_an_answer_is_refused(tokenizer: Tokenizer) -> None:
    generator = make_generator(ScriptedEngine(tokenizer, "x"), tokenizer)
    with pytest.raises(ContextLengthExceeded, match="100 tokens"):
        [_ async for _ in generator.complete("r", [[1] * 100], GenerationParams())]


async def test_what_is_far_too_long_is_refused_before_it_is_tokenized(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator(ScriptedEngine(tokenizer, "x"), tokenizer)
    text = "So many words. " * 10_000
    for name in ("encode", "encode_prompt", "decode"):
        monkeypatch.setattr(tokenizer, name, None)
    streams = [
        generator.chat("r", [{"role": "user", "content": text}], GenerationParams()),
        generator.complete("r", [text], GenerationParams(echo=True)),
    ]
    for stream in streams:
        with pytest.raises(ContextLengthExceeded, match=r"100 tokens, but the prompt has at least [0-9]{4} tokens"):
            await anext(stream)
    with pytest.raises(ContextLengthExceeded, match="100 tokens, but the prompt has 20000 tokens"):
        await anext(generator.complete("r", [[1] * 20_000], GenerationParams(echo=True)))


@pytest.mark.parametrize("prompt", [[], [4096], [-1]])
async def test_impossible_token_ids_are_refused(tokenizer: Tokenizer, prompt: list[int]) -> None:
    generator = make_generator(ScriptedEngine(tokenizer, "x"), tokenizer)
    with pytest.raises(InvalidRequest):
        [_ async for _ in generator.complete("r", [prompt], GenerationParams())]


async def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    generator = make_generator(ScriptedEngine(tokenizer, "x"), tokenizer)
    with pytest.raises(InvalidRequest):
        [_ async for _ in generator.complete("r", ["a\ud800b"], GenerationParams())]


async def test_n_answers_to_each_prompt(tokenizer: Tokenizer) -> None:
    generator = make_generator(ScriptedEngine(tokenizer, "one two"), tokenizer)
    texts: dict[int, str] = {}
    async for index, event in generator.complete("r", ["a", [5, 6]], GenerationParams(n=3, seed=1)):
        if isinstance(event, TextDelta):
            texts[index] = texts.get(index, "") + event.text
    assert texts == dict.fromkeys(range(6), "one two")


async def test_answers_to_one_prompt_differ_by_their_seeds(tokenizer: Tokenizer) -> None:
    asked: dict[str, int] = {}

    class Remembering(ScriptedEngine):
        def generate(self, request: AddRequest) -> AsyncGenerator[list[Output], None]:
            asked[request.request_id] = request.sampling.seed
            return super().generate(request)

    generator = make_generator(Remembering(tokenizer, "x"), tokenizer)
    [_ async for _ in generator.complete("r", ["a", "b"], GenerationParams(n=2, seed=7))]
    assert asked == {"r#0": 7, "r#1": 8, "r#2": 7, "r#3": 8}


async def test_logit_bias_of_no_token_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="logit_bias"):
        await answer(tokenizer, "x", logit_bias={4096: 1.0})


async def test_a_format_needs_the_token_that_ends_answers(tokenizer: Tokenizer) -> None:
    _, engine = await answer(
        tokenizer, "x", ignore_eos=True, output_format=output_format.choice(["x"], "guided_choice")
    )
    assert engine.sampling is not None
    assert engine.sampling.grammar == 'start: "x"'
    assert engine.sampling.stop_token_ids == tokenizer.eos_token_ids


async def numbers(items: list[int], fail: bool = False) -> AsyncGenerator[int, None]:
    for item in items:
        await asyncio.sleep(0)
        yield item
    if fail:
        raise ValueError("broken")


async def test_merge_gives_all_items_in_each_streams_order() -> None:
    merged = [pair async for pair in merge([numbers([1, 2, 3]), numbers([]), numbers([4, 5])])]
    assert sorted(merged) == [(0, 1), (0, 2), (0, 3), (2, 4), (2, 5)]
    assert [item for number, item in merged if number == 0] == [1, 2, 3]


async def test_merge_ends_with_the_first_error_and_closes_all() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[int, None]:
        try:
            while True:
                await asyncio.sleep(0.001)
                yield 0
        finally:
            closed.set()

    with pytest.raises(ValueError, match="broken"):
        [_ async for _ in merge([endless(), numbers([1], fail=True)])]
    assert closed.is_set()


async def test_the_engine_is_told_where_messages_end(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "x")
    end = tokenizer.eos_token_ids[0]
    [_ async for _ in make_generator(engine, tokenizer).complete("r", [[1, end, 2, 3, end, 4]], GenerationParams())]
    assert engine.boundaries == [2, 5]


class Reader:
    """Makes three exclamation marks of every image, as long as its block lasts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.mark = Mark("?!?", tokenizer.encode(" !", add_special_tokens=False)[-1])
        self.open = False

    @contextlib.asynccontextmanager
    async def read(self, references: Sequence[MediaReference]) -> AsyncIterator[list[PreparedMedia]]:
        self.open = True
        yield [PreparedMedia(one.url, self.mark, " ! ! !", 3, []) for one in references]
        self.open = False


async def test_images_reach_the_engine_with_their_places(tokenizer: Tokenizer) -> None:
    reader = Reader(tokenizer)
    engine = ScriptedEngine(tokenizer, "yes")
    generator = TextGenerator(
        engine,  # type: ignore[arg-type]
        tokenizer,
        ChatPrompter(tokenizer, None, None),
        SamplingDefaults(),
        reader,  # type: ignore[arg-type]
    )
    messages = [{"role": "user", "content": "What is ?!? there"}]
    record = RequestRecord("r", RequestKind.TEXT, Metrics())
    with recording(record):
        async for _ in generator.chat("r", messages, GenerationParams(), [MediaReference("image", "a", "here")]):
            assert reader.open, "files are kept until the answer has ended"
    assert not reader.open
    assert record.type == "vision"
    (media,) = engine.media
    assert media.key == "a"
    places = [position for start, count in media.runs for position in range(start, start + count)]
    assert [engine.prompt[position] for position in places] == [reader.mark.token_id] * 3


async def test_a_request_has_the_adapter_that_its_model_or_its_field_names(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "x")
    engine.adapters = ("sql", "poet")

    async def used(generator: TextGenerator, adapter: str | None) -> str | None:
        [_ async for _ in generator.complete("r", ["a"], GenerationParams(adapter=adapter))]
        return engine.adapter

    plain = make_generator(engine, tokenizer)
    named = plain.with_adapter("sql")
    assert [await used(plain, None), await used(plain, "poet")] == [None, "poet"]
    assert [await used(named, None), await used(named, "sql")] == ["sql", "sql"]
    with pytest.raises(InvalidRequest, match=r"no adapter 'nobody'. It has: sql, poet\."):
        await used(plain, "nobody")
    with pytest.raises(InvalidRequest, match="adapters asks for 'poet' and model for 'sql'"):
        await used(named, "poet")
    engine.adapters = ()
    with pytest.raises(InvalidRequest, match="It has none"):
        await used(plain, "sql")


@pytest.mark.parametrize(
    ("marks", "ends"), [((), []), ((9,), []), ((1,), [1, 4]), ((1, 2), [1, 2, 4, 6]), ((2, 2, 9), [2, 6])]
)
def test_where_messages_end(marks: tuple[int, ...], ends: list[int]) -> None:
    assert ends_of([1, 2, 3, 1, 3, 2], marks) == ends
