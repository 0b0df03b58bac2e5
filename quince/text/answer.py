"""From one request's tokens to its events: detokenize, find reasoning and calls, stop at stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quince.engine.messages import FinishReason, Output, TokenLogprobs
from quince.text.events import (
    Delta,
    Event,
    Finished,
    ReasoningDelta,
    StopReason,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from quince.text.parser import Parser, new_call_id
from quince.text.stop import StopStrings
from quince.text.tokenizer import Tokenizer

_REASONS = {
    FinishReason.STOP: StopReason.STOP,
    FinishReason.LENGTH: StopReason.LENGTH,
    FinishReason.ABORT: StopReason.ABORT,
}


@dataclass(frozen=True, kw_only=True)
class AnswerRules:
    """How an answer's tokens are read. ``parser`` None: all of it is text. ``visible_token_ids``: special tokens that
    the parser wants to see; ``after``: tokens whose text the answer goes on with; ``max_calls``: the answer ends before
    it makes more tool calls; ``new_call_id``: makes the id of a call from its name and index."""

    stop_token_ids: Sequence[int]
    stop: Sequence[str] = ()
    parser: Parser | None = None
    visible_token_ids: frozenset[int] = frozenset()
    after: Sequence[int] = ()
    max_calls: int | None = None
    new_call_id: Callable[[str, int], str] = new_call_id


class Answer:
    """Turns one request's outputs into events. ``finish_reason`` is set with the last event, the counts of tokens are
    those that have come.

    Stop strings are looked for in the text that the client sees as such: not in reasoning, not in calls.
    """

    def __init__(self, tokenizer: Tokenizer, rules: AnswerRules, prompt_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._rules = rules
        self._detokenizer = tokenizer.detokenizer(rules.visible_token_ids, rules.after)
        self._stop = StopStrings(rules.stop)
        self._logprobs = _TextLogprobs()
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = 0
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self._calls = 0
        self._last: Delta | None = None  # what the model is at: the kind of its last delta
        self._deltas: list[Delta] = []
        self.finish_reason: StopReason | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def push(self, outputs: Sequence[Output]) -> list[Event]:
        """All that the outputs bring, neighbours of one kind in one delta: a slow reader gets fewer and larger ones."""
        reason = None
        for output in outputs:
            self._cached_tokens += output.cached_tokens
            reason = self._push_output(output)
            if reason is not None:
                break
        events: list[Event] = [*_joined(self._deltas)]
        self._deltas = []
        if reason is not None:
            self.finish_reason = reason
            events.append(Finished(reason, self._usage()))
        return events

    def _push_output(self, output: Output) -> StopReason | None:
        for number, token_id in enumerate(output.token_ids):
            self.completion_tokens += 1
            if token_id in self._rules.stop_token_ids:
                break
            if reason := self._push_token(token_id, output.logprobs[number] if output.logprobs else None):
                return reason
        if output.finish_reason is None:
            return None
        return self._end() or self._reason(_REASONS[output.finish_reason])

    def _push_token(self, token_id: int, logprob: TokenLogprobs | None) -> StopReason | None:
        if logprob is not None:
            self._logprobs.add(self._described(token_id, logprob))
        reason = self._take(self._parse(self._detokenizer.push(token_id)))
        if isinstance(self._last, ReasoningDelta):
            self.reasoning_tokens += 1
        return reason

    def _parse(self, text: str) -> Sequence[Delta]:
        if not text:
            return ()
        return [TextDelta(text)] if self._rules.parser is None else self._rules.parser.push(text)

    def _take(self, deltas: Sequence[Delta]) -> StopReason | None:
        """Pass deltas on, text by way of the stop strings; why the answer ends with them, if it does."""
        for delta in deltas:
            if not isinstance(delta, TextDelta):
                self._show(self._stop.flush(), 0)  # no stop string goes on behind a call or thinking
            if isinstance(delta, ToolCallStart):
                if self._calls == self._rules.max_calls:
                    return StopReason.TOOL_CALLS
                self._calls += 1
                delta = ToolCallStart(
                    delta.index, delta.name, delta.id or self._rules.new_call_id(delta.name, delta.index)
                )
            self._last = delta
            if isinstance(delta, TextDelta):
                self._show(self._stop.push(delta.text), len(delta.text))
                if self._stop.matched:
                    return self._reason(StopReason.STOP)
            else:
                self._logprobs.drop()
                self._deltas.append(delta)
        return None

    def _show(self, text: str, pushed: int) -> None:
        logprobs = self._logprobs.shown(len(text), pushed)
        if text or logprobs:
            self._deltas.append(TextDelta(text, logprobs))

    def _end(self) -> StopReason | None:
        """No more tokens: give out what was held back."""
        rest = [*self._parse(self._detokenizer.flush())]
        if self._rules.parser is not None:
            rest += self._rules.parser.flush()
        if reason := self._take(rest):
            return reason
        text, logprobs = self._stop.flush(), self._logprobs.rest(torn=not isinstance(self._last, ToolCallDelta))
        if text or logprobs:
            self._deltas.append(TextDelta(text, logprobs))
        return None

    def _reason(self, reason: StopReason) -> StopReason:
        return StopReason.TOOL_CALLS if self._calls and reason is StopReason.STOP else reason

    def _usage(self) -> Usage:
        return Usage(self._prompt_tokens, self.completion_tokens, self._cached_tokens, self.reasoning_tokens)

    def _described(self, token_id: int, logprob: TokenLogprobs) -> TokenLogprob:
        token = self._tokenizer.vocabulary.token
        top = zip(logprob.top_ids, logprob.top_logprobs, strict=True)
        return TokenLogprob(
            *token(token_id), logprob.logprob, tuple(TokenLogprob(*token(number), value) for number, value in top)
        )


class _TextLogprobs:
    """Holds tokens' logprobs until the text that begins with them is shown; a stop string takes its own with it."""

    def __init__(self) -> None:
        self._new: list[TokenLogprob] = []  # their text is not known yet
        self._placed: list[tuple[int, TokenLogprob]] = []  # where their text begins
        self._pushed = 0
        self._shown = 0

    def add(self, logprob: TokenLogprob) -> None:
        self._new.append(logprob)

    def drop(self) -> None:
        """What was added belongs to no text."""
        self._new.clear()

    def _place(self, pushed: int) -> None:
        """``pushed`` characters are those of the last tokens; what came before them was swallowed by a parser."""
        kept, missing = [], pushed
        while self._new and missing > 0:
            kept.append(self._new.pop())
            missing -= sum(byte & 0xC0 != 0x80 for byte in kept[-1].data)  # characters that begin in the token
        self._placed += [(self._pushed, logprob) for logprob in reversed(kept)]
        self._new.clear()
        self._pushed += pushed

    def shown(self, count: int, pushed: int) -> tuple[TokenLogprob, ...]:
        """``pushed`` more characters are known, ``count`` more are shown: whose they are."""
        if pushed:
            self._place(pushed)
        self._shown += count
        ready = [logprob for start, logprob in self._placed if start < self._shown]
        del self._placed[: len(ready)]
        return tuple(ready)

    def rest(self, *, torn: bool) -> tuple[TokenLogprob, ...]:
        """At the end; ``torn``: tokens whose text is not known are of a character that was cut off, not of a mark."""
        return (*(logprob for _, logprob in self._placed), *(self._new if torn else ()))


def _joined(deltas: Sequence[Delta]) -> list[Delta]:
    joined: list[Delta] = []
    for delta in deltas:
        match joined[-1] if joined else None, delta:
            case TextDelta(before, logprobs), TextDelta(text, more):
                joined[-1] = TextDelta(before + text, logprobs + more)
            case ReasoningDelta(before), ReasoningDelta(text):
                joined[-1] = ReasoningDelta(before + text)
            case ToolCallDelta(index, before), ToolCallDelta(_, arguments):
                joined[-1] = ToolCallDelta(index, before + arguments)
            case _:
                joined.append(delta)
    return joined
