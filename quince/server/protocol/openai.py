"""OpenAI's chat completions, completions and models: requests, answers and stream chunks."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from quince.errors import InvalidRequest, QuinceError
from quince.text.events import Usage
from quince.text.generation import GenerationParams

# Known to OpenAI's API and not honoured by this version: refused by name unless absent or at the value that asks for
# nothing. Unknown fields are ignored, as clients send each other's extensions.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "response_format": ({"type": "text"},),
    "reasoning_effort": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
}

# More than any vocabulary, and still a small integer for the engine.
MAX_TOP_K = 2**31 - 1

# A length limit also makes pydantic refuse lone surrogates, which no tokenizer and no answer can encode.
Text = Annotated[str, Field(max_length=64 * 2**20)]
Name = Annotated[str, Field(max_length=1024)]


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class TextPart(_Wire):
    type: Literal["text"]
    text: Text


class ImagePart(_Wire):
    """Understood, so that it can be refused by name: this server's models read text."""

    type: Literal["image_url"]
    image_url: dict[str, Any] | str


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class FunctionCall(_Wire):
    name: Name
    arguments: Text | dict[str, Any] = ""


class ToolCall(_Wire):
    id: Name | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPart] | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Name | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant"):
            raise ValueError(f"a message with role '{self.role}' needs content")
        return self


class StreamOptions(_Wire):
    include_usage: bool = False


class _GenerationRequest(_Wire):
    """What chat completions and completions share."""

    model: Name | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: Name | Annotated[list[Name], Field(max_length=16)] | None = None
    ignore_eos: bool | None = False
    user: Text | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, harmless in _UNSUPPORTED.items():
                value = values.get(name)
                if value is not None and value not in harmless:
                    raise InvalidRequest(f"'{name}' is not supported by this server", param=name)
        return values

    def params(self) -> GenerationParams:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerationParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else min(max(self.top_k, 0), MAX_TOP_K),
            min_p=self.min_p,
            seed=self.seed,
            stop=stop,
            ignore_eos=bool(self.ignore_eos),
        )

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatCompletionRequest(_GenerationRequest):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def params(self) -> GenerationParams:
        own = self.max_completion_tokens
        return dataclasses.replace(
            super().params(),
            max_tokens=self.max_tokens if own is None else own,
            template_kwargs=self.chat_template_kwargs or {},
        )

    def template_messages(self) -> list[dict[str, Any]]:
        """The messages as plain objects for the chat template. Raises InvalidRequest for what is not text."""
        for message in self.messages:
            if isinstance(message.content, list):
                for part in message.content:
                    if isinstance(part, ImagePart):
                        raise InvalidRequest("this model reads text only: it cannot be given images", param="messages")
        return [message.model_dump(exclude_none=True) for message in self.messages]


class CompletionRequest(_GenerationRequest):
    prompt: Text | list[int]


# Answers. Structs encode in microseconds: there is one per streamed chunk.


class UsageBody(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        total = usage.prompt_tokens + usage.completion_tokens
        return cls(usage.prompt_tokens, usage.completion_tokens, total)


class AnswerMessage(msgspec.Struct, frozen=True):
    content: str
    role: str = "assistant"


class ChatChoice(msgspec.Struct, frozen=True):
    message: AnswerMessage
    finish_reason: str
    index: int = 0
    logprobs: None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    delta: Delta
    finish_reason: str | None = None
    index: int = 0
    logprobs: None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageBody | None = None


class TextChoice(msgspec.Struct, frozen=True):
    text: str
    finish_reason: str | None = None
    index: int = 0
    logprobs: None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole answer, or one chunk of it."""

    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "quince"
    type: str
    state: str
    max_model_len: int | None


class ModelList(msgspec.Struct, frozen=True):
    data: list[Model]
    object: str = "list"


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorBody

    @classmethod
    def of(cls, error: QuinceError) -> ErrorAnswer:
        return cls(ErrorBody(error.message, error.type, error.param, error.code))


def encode_error(error: QuinceError) -> bytes:
    return msgspec.json.encode(ErrorAnswer.of(error))
