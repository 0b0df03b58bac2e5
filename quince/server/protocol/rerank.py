"""POST /v1/rerank: the fields of Jina's and of Cohere's API, and an answer that both's clients read."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import Field, model_validator

from quince.errors import InvalidRequest
from quince.server.protocol.embeddings import Truncate
from quince.server.protocol.openai import Name, Text, Wire
from quince.text.reranking import Ranking, RerankParams

MAX_DOCUMENTS = 2048


class TextDocument(Wire):
    text: Text


class RerankRequest(Wire):
    model: Name | None = None
    query: Annotated[str, Field(min_length=1, max_length=64 * 2**20)]
    documents: Annotated[list[Text | TextDocument], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = True  # as Jina; Cohere's clients do not mind
    truncate: Truncate | None = None
    truncation: bool | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None
    instruction: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        if isinstance(values, dict):
            if values.get("rank_fields") not in (None, [], ["text"]):
                raise InvalidRequest("rank_fields: documents are ranked by their text only", param="rank_fields")
            if values.get("max_chunks_per_doc") not in (None, 1):
                raise InvalidRequest(
                    "max_chunks_per_doc: documents are ranked whole, or cut with max_tokens_per_doc",
                    param="max_chunks_per_doc",
                )
        return values

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]

    def params(self) -> RerankParams:
        return RerankParams(
            top_n=self.top_n,
            truncate=self.truncate in (True, "END") or bool(self.truncation),
            max_tokens_per_doc=self.max_tokens_per_doc,
            instruction=self.instruction,
        )


class RankedDocument(msgspec.Struct, frozen=True):
    text: str


class RankedResult(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    relevance_score: float
    document: RankedDocument | msgspec.UnsetType = msgspec.UNSET


class RerankUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class RerankMeta(msgspec.Struct, frozen=True):
    """What Cohere's clients look for: the kind of the answer, and what would be billed."""

    api_version: dict[str, str]
    billed_units: dict[str, int]


class RerankAnswer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "list"
    model: str
    results: list[RankedResult]
    usage: RerankUsage
    meta: RerankMeta

    @classmethod
    def of(cls, request_id: str, model: str, ranking: Ranking, documents: list[str] | None) -> RerankAnswer:
        """``documents``: the texts to give back with their scores."""
        results = [
            RankedResult(
                index=index,
                relevance_score=score,
                document=msgspec.UNSET if documents is None else RankedDocument(documents[index]),
            )
            for index, score in ranking.results
        ]
        tokens = ranking.prompt_tokens
        return cls(
            id=request_id,
            model=model,
            results=results,
            usage=RerankUsage(tokens, tokens),
            meta=RerankMeta({"version": "1"}, {"search_units": 1}),
        )
