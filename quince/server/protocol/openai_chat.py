"""OpenAI's chat completions: requests, answers and stream chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, field_validator, model_validator

from quince.errors import InvalidRequest
from quince.server.protocol.openai import GenerationRequest, Name, Text, TopLogprob, UsageBody, Wire
from quince.text.chat import ChatParams, ReasoningEffort, ToolChoice
from quince.text.events import TokenLogprob
from quince.text.generation import GenerationParams
from quince.text.media import MediaDetail, MediaReference
from quince.text.tool_parsers import Tool

MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 512


class TextPart(Wire):
    type: Literal["text"]
    text: Text


class ImageUrl(Wire):
    url: Text
    detail: MediaDetail | None = None


class ImagePart(Wire):
    type: Literal["image_url"]
    image_url: ImageUrl | Text

    def reference(self, place: str) -> MediaReference:
        written = self.image_url
        if isinstance(written, str):
            return MediaReference("image", written, f"{place}.image_url")
        return MediaReference("image", written.url, f"{place}.image_url.url", written.detail or "auto")


class VideoUrl(Wire):
    url: Text


class VideoPart(Wire):
    """Not OpenAI's: what vLLM and others call it."""

    type: Literal["video_url"]
    video_url: VideoUrl | Text

    def reference(self, place: str) -> MediaReference:
        written = self.video_url
        if isinstance(written, str):
            return MediaReference("video", written, f"{place}.video_url")
        return MediaReference("video", written.url, f"{place}.video_url.url")


ContentPart = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class FunctionCall(Wire):
    name: Name
    arguments: Text | dict[str, Any] | None = ""


class ToolCall(Wire):
    id: Name | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPart] | None = None
    reasoning_content: Text | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Name | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant"):
            raise ValueError(f"a message with role '{self.role}' needs content")
        return self


class FunctionDefinition(Wire):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _describes_an_object(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if parameters and parameters.get("type", "object") != "object":
            raise ValueError("a function's parameters are an object: their type must be 'object'")
        return parameters


class ToolDefinition(Wire):
    type: Literal["function"]
    function: FunctionDefinition

    def tool(self) -> Tool:
        function = self.function
        return Tool(function.name, function.description, function.parameters or {}, bool(function.strict))


class FunctionName(Wire):
    name: Name


class NamedTool(Wire):
    type: Literal["function"]
    function: FunctionName


class ChatCompletionRequest(GenerationRequest):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def params(self) -> GenerationParams:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs: it needs logprobs to be true", param="top_logprobs")
        own = self.max_completion_tokens
        return dataclasses.replace(
            super().params(),
            max_tokens=self.max_tokens if own is None else own,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            chat=ChatParams(
                tools=self._tool_choice(),
                reasoning_effort=self.reasoning_effort,
                thinking_budget=self.thinking_budget,
                template_kwargs=self.chat_template_kwargs or {},
            ),
        )

    def _tool_choice(self) -> ToolChoice | None:
        """None where there is nothing to call: the model is not shown tools that it must not use."""
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        if not self.tools:
            if named is not None or self.tool_choice == "required":
                raise InvalidRequest("tool_choice: there are no tools", param="tool_choice")
            return None
        names = [tool.function.name for tool in self.tools]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InvalidRequest(f"tools: there are several with the name '{twice}'", param="tools")
        if self.tool_choice == "none":
            return None
        return ToolChoice(
            tools=[tool.tool() for tool in self.tools],
            definitions=[tool.model_dump(exclude_none=True) for tool in self.tools],
            forced=named is not None or self.tool_choice == "required",
            name=named,
            # Who names one function wants one call of it.
            parallel=self.parallel_tool_calls is not False and named is None,
        )

    def template_messages(self) -> tuple[list[dict[str, Any]], list[MediaReference]]:
        """As ``template_messages`` of this module."""
        return template_messages(self.messages)


def template_messages(messages: Sequence[ChatMessage]) -> tuple[list[dict[str, Any]], list[MediaReference]]:
    """The messages as plain objects for the chat template, and the images and videos that they refer to.

    Each of these leaves ``{"type": "image"}`` or ``{"type": "video"}`` in its place; the references are in the order of
    those.
    """
    references: list[MediaReference] = []
    plain: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        written = message.content
        if isinstance(written, str) or written is None or all(isinstance(part, TextPart) for part in written):
            plain.append(message.model_dump(exclude_none=True))
            continue
        content: list[dict[str, str]] = []
        for n, part in enumerate(written):
            if isinstance(part, TextPart):
                content.append(part.model_dump())
            else:
                references.append(part.reference(f"messages.{number}.content.{n}"))
                content.append({"type": references[-1].kind})
        plain.append({**message.model_dump(exclude_none=True, exclude={"content"}), "content": content})
    return plain, references


# Answers


class TokenInfo(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(msgspec.Struct, frozen=True):
    content: list[TokenInfo]
    refusal: None = None

    @classmethod
    def of(cls, tokens: tuple[TokenLogprob, ...]) -> ChoiceLogprobs:
        return cls([
            TokenInfo(token.text, token.logprob, list(token.data), [TopLogprob.of(top) for top in token.top])
            for token in tokens
        ])  # fmt: skip


class CalledFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class CallBody(msgspec.Struct, frozen=True):
    id: str
    function: CalledFunction
    type: str = "function"


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[CallBody] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody


class CallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    index: int
    function: CalledFunction
    id: str | None = None
    type: str | None = None


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    delta: Delta
    finish_reason: str | None = None
    index: int = 0
    logprobs: ChoiceLogprobs | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageBody | None = None
