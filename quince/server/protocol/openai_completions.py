"""OpenAI's completions: requests, answers and stream chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import msgspec
from pydantic import Field

from quince.errors import InvalidRequest
from quince.server.protocol.openai import MAX_CHOICES, GenerationRequest, Text, UsageBody
from quince.text.events import TokenLogprob
from quince.text.generation import GenerationParams

MAX_LOGPROBS = 20

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(GenerationRequest):
    prompt: Text | Annotated[list[TokenId] | list[Text | TokenIds], Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = False
    best_of: Annotated[int, Field(ge=1)] | None = None

    def params(self) -> GenerationParams:
        params = super().params()
        if self.best_of is not None and self.best_of != params.n:
            raise InvalidRequest("best_of: only as many answers are made as n asks for", param="best_of")
        if len(self.prompts) * params.n > MAX_CHOICES:
            raise InvalidRequest(f"n: at most {MAX_CHOICES} answers are made at once", param="n")
        if self.echo and self.logprobs is not None:
            raise InvalidRequest("echo: the logprobs of a prompt are not computed", param="echo")
        return dataclasses.replace(params, logprobs=self.logprobs, echo=bool(self.echo))

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, each as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        token_ids = [one for one in self.prompt if isinstance(one, int)]
        return [token_ids] if token_ids else [one for one in self.prompt if not isinstance(one, int)]


class TextLogprobs(msgspec.Struct, frozen=True):
    """Parallel lists, one entry per token; ``text_offset`` counts characters from the beginning of the text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprob], offset: int, *, top: bool) -> TextLogprobs:
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += sum(byte & 0xC0 != 0x80 for byte in token.data)  # characters that begin in the token
        likeliest = [{one.text: one.logprob for one in (*token.top, token)} for token in tokens]
        return cls(
            [token.text for token in tokens],
            [token.logprob for token in tokens],
            likeliest if top else None,
            offsets,
        )


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    index: int = 0
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole answer, or one chunk of it."""

    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody | None = None
