"""A conversation to a prompt, and what its answer may look like: template, tools, thinking, format."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quince.engine.messages import MediaInput
from quince.engine.preprocess import PreparedMedia
from quince.errors import InvalidRequest
from quince.sampling import ThinkingBudget
from quince.text import chat_template
from quince.text.output_format import OutputFormat, compile_error, json_schema
from quince.text.parser import Parser, new_call_id
from quince.text.reasoning_parsers import ReasoningFormat
from quince.text.tokenizer import Tokenizer
from quince.text.tool_parsers import Grammar, Tool, ToolFormat, chain
from quince.text.vision import locate, place

Message = dict[str, Any]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# Tokens of thinking for templates that can only turn thinking on and off; None: as many as the model likes.
EFFORT_BUDGETS: dict[ReasoningEffort, int | None] = {
    "minimal": 512,
    "low": 2048,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}

# For templates that know efforts but not all of these names.
NEAREST_EFFORT: dict[ReasoningEffort, ReasoningEffort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}

# Text at the end of a prompt that tells whether it leaves the model thinking.
PROMPT_TAIL = 200


@dataclass(frozen=True, kw_only=True)
class ToolChoice:
    """What a request says of its tools. ``definitions`` are the tools as the client wrote them, for the template.

    ``forced``: the answer must be a call; ``name``: of this function. ``parallel``: it may be several.
    """

    tools: Sequence[Tool]
    definitions: Sequence[dict[str, Any]]
    forced: bool = False
    name: str | None = None
    parallel: bool = True

    @property
    def callable(self) -> list[Tool]:
        return [tool for tool in self.tools if self.name in (None, tool.name)]


@dataclass(frozen=True, kw_only=True)
class ChatParams:
    """What a chat request asks besides sampling. ``thinking_budget`` is in tokens."""

    tools: ToolChoice | None = None
    reasoning_effort: ReasoningEffort | None = None
    thinking_budget: int | None = None
    template_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt that is ready for the engine, and how its answer is to be read.

    ``field`` is what the client calls it, for errors; ``echo`` is what the answer begins with. The rest as in
    SamplingParams and AnswerRules.
    """

    token_ids: list[int]
    field: str
    grammar: str | None = None
    thinking: ThinkingBudget | None = None
    make_parser: Callable[[], Parser | None] = lambda: None
    visible_token_ids: frozenset[int] = frozenset()
    after: Sequence[int] = ()
    max_calls: int | None = None
    echo: str = ""
    media: Sequence[MediaInput] = ()
    new_call_id: Callable[[str, int], str] = new_call_id


class ChatPrompter:
    """One model's way to chat: its template, and the formats of its thinking and its calls (None: it has none)."""

    def __init__(self, tokenizer: Tokenizer, reasoning: ReasoningFormat | None, tools: ToolFormat | None) -> None:
        self._tokenizer = tokenizer
        self._reasoning = reasoning
        self._tools = tools
        self._as_parts = chat_template.wants_parts(tokenizer)

    def prepare(
        self,
        messages: Sequence[Message],
        params: ChatParams,
        output_format: OutputFormat | None,
        media: Sequence[PreparedMedia] = (),
        check_text: Callable[[str], None] = lambda text: None,
    ) -> Prompt:
        """``media`` is what the messages' placeholders stand for, in order. Raises InvalidRequest for what this model
        cannot do, and what ``check_text`` raises for the text before it is tokenized. May take long for long prompts
        and large schemas."""
        if output_format is not None:
            output_format.check()
        tools = params.tools
        if tools is not None:
            self._check_tools(tools, beside_format=output_format is not None)
        definitions = None if tools is None else tools.definitions
        text = chat_template.render(
            self._tokenizer, messages, self._template_kwargs(params), definitions, as_parts=self._as_parts
        )
        check_text(text)
        if media:
            text = place(text, media)
        token_ids = self._tokenizer.encode_prompt(text)
        tail = text[-PROMPT_TAIL:]
        opened = self._reasoning is not None and self._reasoning.opened(tail)
        closed = self._reasoning is not None and self._reasoning.closed(tail)
        return Prompt(
            token_ids=token_ids,
            field="messages",
            media=locate(token_ids, media) if media else (),
            grammar=self._grammar(tools, output_format, opened=None if closed else opened),
            thinking=None if closed else self._thinking_budget(params, opened=opened),
            make_parser=lambda: self._parser(tools, opened=opened),
            visible_token_ids=self._visible_token_ids(tools),
            max_calls=None if tools is None or tools.parallel else 1,
            new_call_id=new_call_id if self._tools is None else self._tools.new_id,
        )

    # Reading the answer

    def _parser(self, tools: ToolChoice | None, *, opened: bool) -> Parser | None:
        reasoning = None if self._reasoning is None else self._reasoning.parser(opened)
        calls = None if tools is None or self._tools is None else self._tools.parser(tools.tools)
        if reasoning is None or calls is None:
            return reasoning or calls
        return chain(reasoning, calls)

    def _visible_token_ids(self, tools: ToolChoice | None) -> frozenset[int]:
        marks = () if self._reasoning is None else self._reasoning.markers
        if tools is not None and self._tools is not None:
            marks = (*marks, *self._tools.markers)
        return frozenset(number for mark in marks if (number := self._tokenizer.token_id(mark)) is not None)

    # Thinking

    def _template_kwargs(self, params: ChatParams) -> dict[str, Any]:
        """The template's own variables; an effort as the one of them that this template knows."""
        effort = params.reasoning_effort
        if effort is None:
            return params.template_kwargs
        template = self._tokenizer.chat_template or ""
        if "reasoning_effort" in template:
            known = effort if f"'{effort}'" in template or f'"{effort}"' in template else NEAREST_EFFORT[effort]
            return {"reasoning_effort": known, **params.template_kwargs}
        if "enable_thinking" in template:
            return {"enable_thinking": effort != "none", **params.template_kwargs}
        if effort == "none" and self._reasoning is None:
            return params.template_kwargs
        raise InvalidRequest("reasoning_effort: this model cannot be told how much to think", param="reasoning_effort")

    def _thinking_budget(self, params: ChatParams, *, opened: bool) -> ThinkingBudget | None:
        tokens = params.thinking_budget
        if tokens is None and params.reasoning_effort is not None:
            known = "reasoning_effort" in (self._tokenizer.chat_template or "")
            tokens = None if known else EFFORT_BUDGETS.get(params.reasoning_effort)
        if tokens is None:
            return None
        marks = None if self._reasoning is None else self._reasoning.marks
        opening, closing = (self._tokenizer.token_id(mark) for mark in marks) if marks else (None, None)
        if self._reasoning is None or opening is None or closing is None:
            if params.thinking_budget is None:
                return None
            raise InvalidRequest("thinking_budget: this model does not mark its thinking", param="thinking_budget")
        return ThinkingBudget(
            max_tokens=tokens,
            open_token_id=None if opened else opening,
            close_token_id=closing,
            end_token_ids=tuple(self._tokenizer.encode(self._reasoning.end_text, add_special_tokens=False)),
        )

    # Holding the answer to a form

    def _check_tools(self, tools: ToolChoice, *, beside_format: bool) -> None:
        if self._tools is None or "tools" not in (self._tokenizer.chat_template or ""):
            raise InvalidRequest("tools: this model's chat template knows no tools", param="tools")
        if tools.name is not None and not tools.callable:
            raise InvalidRequest(f"tool_choice: there is no tool '{tools.name}'", param="tool_choice")
        held = tools.forced or beside_format or any(tool.strict for tool in tools.tools)
        for tool in tools.callable if held else []:
            json_schema(dict(tool.parameters), f"tools.{tool.name}.parameters").check()

    def _grammar(
        self, tools: ToolChoice | None, output_format: OutputFormat | None, *, opened: bool | None
    ) -> str | None:
        """Thinking (which the prompt may have opened; None: there is none), then text in the format that is asked for,
        or calls, or text and perhaps calls. None where nothing is to be held to."""
        forced = tools is not None and tools.forced
        strict = tools is not None and any(tool.strict for tool in tools.tools)
        if output_format is None and not forced and not strict:
            return None
        rules: list[str] = []
        branches: list[str] = []
        if not forced:
            text = "/(?s:.*)/" if output_format is None else output_format.expression
            rules.append(f"answer: {text}\n")
            branches.append(self._after_thinking("answer", rules, opened=opened, content=True))
        if tools is not None and self._tools is not None:
            calls = self._calls_grammar(tools, free_text=not forced and output_format is None)
            rules.append(calls.rules)
            branches.append(self._after_thinking(calls.start, rules, opened=opened, content=False))
            if not forced and output_format is None and self._text_before_calls(opened=opened):
                branches.append(f"{branches[0]} {calls.start}")
        grammar = self._tokenizer.spell_out(f"start: {' | '.join(branches)}\n" + "".join(rules))
        if problem := compile_error(grammar):
            raise InvalidRequest(f"tools: the model's call format cannot be held to them: {problem}", param="tools")
        return grammar

    def _calls_grammar(self, tools: ToolChoice, *, free_text: bool) -> Grammar:
        assert self._tools is not None
        calls = self._tools.grammar(
            tools.callable, parallel=tools.parallel, special_tokens=self._tokenizer.special_tokens
        )
        if free_text and not calls.has_special_tokens:
            raise InvalidRequest(
                "tools: 'strict' needs tool_choice 'required' or a named function with this model: "
                "its calls begin with nothing that text could not spell",
                param="tools",
            )
        return calls

    def _text_before_calls(self, *, opened: bool | None) -> bool:
        """Whether this model writes text and calls into one message."""
        if self._reasoning is None or opened is None:
            return True
        text, call = (self._reasoning.grammar(opened, content=content) for content in (True, False))
        return text == call

    def _after_thinking(self, rule: str, rules: list[str], *, opened: bool | None, content: bool) -> str:
        if self._reasoning is None or opened is None:
            return rule
        special = self._tokenizer.special_tokens
        thinking = self._reasoning.grammar(opened, content=content, special_tokens=special)
        if thinking.rules not in rules:
            rules.append(thinking.rules)
        return f"{thinking.start} {rule}"
