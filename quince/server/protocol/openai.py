"""What OpenAI's routes share: the parameters of generation, usage, logprobs, models and errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from quince.errors import InvalidRequest, QuinceError
from quince.text import output_format
from quince.text.events import TokenLogprob, Usage
from quince.text.generation import GenerationParams
from quince.text.output_format import OutputFormat

# Known to OpenAI's API and not honoured by this server: refused by name unless absent or at the value that asks for
# nothing. Unknown fields are ignored, as clients send each other's extensions.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("auto", "none"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "suffix": ("",),
}

# More than any vocabulary, and still a small integer for the engine.
MAX_TOP_K = 2**31 - 1
MAX_CHOICES = 128

# A length limit also makes pydantic refuse lone surrogates, which no tokenizer and no answer can encode.
Text = Annotated[str, Field(max_length=64 * 2**20)]
Name = Annotated[str, Field(max_length=1024)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Wire):
    include_usage: bool = False


class TextFormat(Wire):
    type: Literal["text"]


class JsonObjectFormat(Wire):
    type: Literal["json_object"]


class JsonSchema(Wire):
    name: Name | None = None
    description: Text | None = None
    schema_: dict[str, Any] | bool = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Wire):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class GenerationRequest(Wire):
    """What chat completions and completions share. ``guided_*`` are vLLM's names for more kinds of formats."""

    model: Name | None = None
    adapters: Name | Annotated[list[Name], Field(max_length=1)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=1024)] | None = None
    stop: Name | Annotated[list[Name], Field(max_length=16)] | None = None
    ignore_eos: bool | None = False
    response_format: ResponseFormat | None = None
    guided_json: Text | dict[str, Any] | None = None
    guided_regex: Text | None = None
    guided_choice: Annotated[list[Text], Field(min_length=1, max_length=1024)] | None = None
    guided_grammar: Text | None = None
    user: Text | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, harmless in UNSUPPORTED.items():
                value = values.get(name)
                if value is not None and value not in harmless:
                    raise InvalidRequest(f"'{name}' is not supported by this server", param=name)
        return values

    def params(self) -> GenerationParams:
        return GenerationParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else min(max(self.top_k, 0), MAX_TOP_K),
            min_p=self.min_p,
            seed=self.seed,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=self.repetition_penalty,
            logit_bias={int(token_id): value for token_id, value in (self.logit_bias or {}).items()},
            n=self.n or 1,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or [],
            ignore_eos=bool(self.ignore_eos),
            output_format=self.output_format(),
            adapter=self.adapter,
        )

    @property
    def adapter(self) -> str | None:
        named = [self.adapters] if isinstance(self.adapters, str) else self.adapters
        return named[0] if named else None

    def output_format(self) -> OutputFormat | None:
        """The one format that is asked for. Raises InvalidRequest if there are several."""
        asked = [made for made in (self._response_format(), *self._guided()) if made is not None]
        if len(asked) > 1:
            raise InvalidRequest(f"{asked[1].param} cannot be combined with {asked[0].param}", param=asked[1].param)
        return asked[0] if asked else None

    def _response_format(self) -> OutputFormat | None:
        match self.response_format:
            case JsonObjectFormat():
                return output_format.json_object("response_format")
            case JsonSchemaFormat(json_schema=wanted):
                return output_format.json_schema(wanted.schema_, "response_format")
        return None

    def _guided(self) -> list[OutputFormat | None]:
        schema = self.guided_json
        if isinstance(schema, str):
            schema = _schema_in(schema)
        return [
            None if schema is None else output_format.json_schema(schema, "guided_json"),
            None if self.guided_regex is None else output_format.regex(self.guided_regex, "guided_regex"),
            None if self.guided_choice is None else output_format.choice(self.guided_choice, "guided_choice"),
            None if self.guided_grammar is None else output_format.lark(self.guided_grammar, "guided_grammar"),
        ]

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def _schema_in(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"guided_json: it is not a JSON object: {error}", param="guided_json") from error


# Answers. Structs encode in microseconds: there is one per streamed chunk.


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class UsageBody(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        return cls(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens + usage.completion_tokens,
            PromptTokensDetails(usage.cached_tokens),
            CompletionTokensDetails(usage.reasoning_tokens),
        )


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]

    @classmethod
    def of(cls, token: TokenLogprob) -> TopLogprob:
        return cls(token.text, token.logprob, list(token.data))


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """``parent``: of an adapter, the model that it is over."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "quince"
    type: str
    state: str
    max_model_len: int | None
    parent: str | msgspec.UnsetType = msgspec.UNSET


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
