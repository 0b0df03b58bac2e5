"""From outputs to events, over a parser that reads a toy format."""

from __future__ import annotations

import pytest

from quince.engine.messages import FinishReason, Output, TokenLogprobs
from quince.text.answer import Answer, AnswerRules
from quince.text.events import (
    Delta,
    Event,
    Finished,
    ReasoningDelta,
    StopReason,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)
from quince.text.tokenizer import Tokenizer


class ToyParser:
    """( begins reasoning, ) ends it, and each @ is a call."""

    def __init__(self) -> None:
        self._thinking = False
        self._calls = 0

    def push(self, text: str) -> list[Delta]:
        deltas: list[Delta] = []
        for letter in text:
            if letter in "()":
                self._thinking = letter == "("
            elif letter == "@":
                deltas += [ToolCallStart(self._calls, "f"), ToolCallDelta(self._calls, "{}")]
                self._calls += 1
            else:
                deltas.append(ReasoningDelta(letter) if self._thinking else TextDelta(letter))
        return deltas

    def flush(self) -> list[Delta]:
        return []


def outputs(tokenizer: Tokenizer, text: str, reason: FinishReason = FinishReason.LENGTH) -> list[Output]:
    """One token per character, each with its own logprob."""
    made = []
    for letter in text:
        for token_id in tokenizer.encode(letter, add_special_tokens=False):
            logprob = TokenLogprobs(-0.1 * len(made), [token_id], [-0.1 * len(made)])
            made.append(Output("r", [token_id], logprobs=[logprob]))
    made[-1].finish_reason = reason
    return made


def events_of(tokenizer: Tokenizer, text: str, per_push: int = 1, **rules: object) -> list[Event]:
    answer = Answer(tokenizer, AnswerRules(stop_token_ids=(), **rules), prompt_tokens=3)  # type: ignore[arg-type]
    all_outputs, events = outputs(tokenizer, text), []
    for start in range(0, len(all_outputs), per_push):
        events += answer.push(all_outputs[start : start + per_push])
        if answer.finished:
            break
    return events


def shown(events: list[Event]) -> tuple[str, str, list[str]]:
    """Text, reasoning, and the tokens whose logprobs came with the text."""
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    tokens = [token.text for event in events if isinstance(event, TextDelta) for token in event.logprobs]
    return text, reasoning, tokens


@pytest.mark.parametrize("per_push", [1, 2, 5, 100])
def test_reasoning_text_and_calls_and_whose_logprobs(tokenizer: Tokenizer, per_push: int) -> None:
    events = events_of(tokenizer, "(hm)yes@@", per_push, parser=ToyParser())
    assert shown(events) == ("yes", "hm", ["y", "e", "s"])
    assert [event.index for event in events if isinstance(event, ToolCallStart)] == [0, 1]
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == (StopReason.LENGTH, 9)
    assert end.usage.reasoning_tokens == 3  # with the mark that ends it


@pytest.mark.parametrize("per_push", [1, 3, 100])
def test_stop_strings_take_their_logprobs_with_them(tokenizer: Tokenizer, per_push: int) -> None:
    events = events_of(tokenizer, "abcSTOPdef", per_push, stop=["STOP"])
    assert shown(events) == ("abc", "", ["a", "b", "c"])
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is StopReason.STOP


def test_what_only_looked_like_a_stop_string_is_shown_with_its_logprobs(tokenizer: Tokenizer) -> None:
    assert shown(events_of(tokenizer, "abST", stop=["STOP"])) == ("abST", "", ["a", "b", "S", "T"])


def test_stop_strings_are_not_looked_for_in_reasoning(tokenizer: Tokenizer) -> None:
    text, reasoning, _ = shown(events_of(tokenizer, "(aSTOPb)cSTOPd", parser=ToyParser(), stop=["STOP"]))
    assert (text, reasoning) == ("c", "aSTOPb")


def test_a_torn_character_has_all_its_tokens(tokenizer: Tokenizer) -> None:
    text, _, tokens = shown(events_of(tokenizer, "a👋b"))
    assert text == "a👋b"
    assert len(tokens) == 2 + len(tokenizer.encode("👋", add_special_tokens=False))


def test_answers_that_call_say_so(tokenizer: Tokenizer) -> None:
    answer = Answer(tokenizer, AnswerRules(stop_token_ids=(), parser=ToyParser()), 1)
    [*_, end] = answer.push(outputs(tokenizer, "@", FinishReason.STOP))
    assert isinstance(end, Finished)
    assert end.reason is StopReason.TOOL_CALLS


def test_one_call_is_enough_if_it_must_be(tokenizer: Tokenizer) -> None:
    events = events_of(tokenizer, "@@@", parser=ToyParser(), max_calls=1)
    assert sum(isinstance(event, ToolCallStart) for event in events) == 1
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is StopReason.TOOL_CALLS


def test_special_tokens_that_a_parser_wants_to_see(tokenizer: Tokenizer) -> None:
    end = tokenizer.special_tokens["<|im_end|>"]
    made = [Output("r", [token_id]) for token_id in (*tokenizer.encode("a", add_special_tokens=False), end)]
    made[-1].finish_reason = FinishReason.LENGTH
    rules = [AnswerRules(stop_token_ids=()), AnswerRules(stop_token_ids=(), visible_token_ids=frozenset({end}))]
    assert [shown(Answer(tokenizer, rule, 1).push(made))[0] for rule in rules] == ["a", "a<|im_end|>"]


def test_text_held_for_a_stop_string_comes_before_a_call(tokenizer: Tokenizer) -> None:
    events = events_of(tokenizer, "abST@", parser=ToyParser(), stop=["STOP"])
    kinds = [type(event) for event in events]
    assert shown(events)[0] == "abST"
    assert kinds.index(ToolCallStart) > max(i for i, kind in enumerate(kinds) if kind is TextDelta)


def test_held_text_is_not_lost_where_calls_end_the_answer(tokenizer: Tokenizer) -> None:
    assert shown(events_of(tokenizer, "@ST@", parser=ToyParser(), stop=["STOP"], max_calls=1))[0] == "ST"


def test_hidden_special_tokens_tear_no_character(tokenizer: Tokenizer) -> None:
    hidden = [Output("r", [tokenizer.special_tokens["<|im_end|>"]]) for _ in range(8)]
    answer = Answer(tokenizer, AnswerRules(stop_token_ids=()), 1)
    assert shown(answer.push([*hidden, *outputs(tokenizer, "😀")]))[0] == "😀"
