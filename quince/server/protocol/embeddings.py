"""POST /v1/embeddings: OpenAI's request and answer, with the extensions that other servers' clients send."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from pydantic import ConfigDict, Field, model_validator

from quince.errors import InvalidRequest
from quince.server.protocol.openai import Name, Text, Wire
from quince.text.embedding import EmbeddingParams
from quince.text.pooling import Numbers
from quince.text.prompts import PromptChoice

MAX_INPUTS = 2048

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
# Also the names that Cohere's and NVIDIA's clients send.
Truncate = bool | Literal["NONE", "END"]


class TextInput(Wire):
    """As Jina's clients write texts beside images."""

    model_config = ConfigDict(extra="forbid")

    text: Text


class EmbeddingRequest(Wire):
    """``truncate`` (also ``truncation``) cuts texts that are too long. What is put before the texts is chosen by
    ``prompt_name``, ``input_type`` (also ``task``) or ``instruction``, at most one. ``embedding_type`` is Jina's word
    for ``encoding_format``; of its ``normalized`` and ``late_chunking`` there is one value each."""

    model: Name | None = None
    input: (
        Text
        | Annotated[list[Text | TextInput], Field(min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    embedding_type: Literal["float", "base64"] | None = None
    normalized: Literal[True] | None = None
    late_chunking: Literal[False] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: Truncate | None = None
    truncation: bool | None = None
    prompt_name: Name | None = None
    input_type: Name | None = None
    task: Name | None = None
    instruction: Text | None = None
    user: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _bound_inputs(cls, values: Any) -> Any:
        """Before the union, whose complaints about each of its branches would hide this one."""
        given = values.get("input") if isinstance(values, dict) else None
        if isinstance(given, list) and len(given) > MAX_INPUTS and not isinstance(given[0], int):
            raise InvalidRequest(f"input: it has {len(given)} texts, and may have {MAX_INPUTS}", param="input")
        return values

    @model_validator(mode="after")
    def _is_one_purpose(self) -> EmbeddingRequest:
        if self.task is not None and self.input_type is not None and self.task != self.input_type:
            raise InvalidRequest("task cannot be combined with input_type", param="task")
        if self.embedding_type is not None and self.encoding_format is not None:
            raise InvalidRequest("embedding_type cannot be combined with encoding_format", param="embedding_type")
        return self

    @property
    def numbers_as(self) -> str | None:
        return self.encoding_format or self.embedding_type

    @property
    def inputs(self) -> list[str | list[int]]:
        """As several, given as texts or as token ids."""
        if isinstance(self.input, str):
            return [self.input]
        token_ids = [one for one in self.input if isinstance(one, int)]
        if token_ids:
            return [token_ids]
        return [one.text if isinstance(one, TextInput) else one for one in self.input if not isinstance(one, int)]

    def params(self) -> EmbeddingParams:
        return EmbeddingParams(
            dimensions=self.dimensions,
            truncate=self.truncate in (True, "END") or bool(self.truncation),
            prompt=PromptChoice(
                prompt_name=self.prompt_name,
                input_type=self.task if self.input_type is None else self.input_type,
                instruction=self.instruction,
            ),
        )


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """``embedding``: numbers, or float32 numbers, little-endian, in base64."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def encode_vectors(vectors: Numbers, encoding_format: str | None) -> list[Embedding]:
    """Rows of [inputs, dimensions] as the client asked for them; without a word, as numbers."""
    if encoding_format == "base64":
        rows = np.ascontiguousarray(vectors, "<f4")
        return [
            Embedding(index=index, embedding=base64.b64encode(row.tobytes()).decode("ascii"))
            for index, row in enumerate(rows)
        ]
    return [Embedding(index=index, embedding=row.tolist()) for index, row in enumerate(vectors)]
