"""Documents to scores: how well each answers a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quince.engine.client import EngineClient
from quince.engine.messages import PoolInput, PoolRequest, Ready
from quince.errors import InvalidRequest, ModelLoadError
from quince.metrics import current_request
from quince.text.generation import maybe_on_thread
from quince.text.pooling import check_inputs, check_texts, pool
from quince.text.tokenizer import Tokenizer, read_json

# The words of Qwen3-Reranker's model card; its scores hold for these.
_QWEN3_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_QWEN3_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

# Characters of queries, all documents together: a request takes memory for what is read, not for what was sent.
MAX_QUERIES = 2**26


@dataclass(frozen=True, kw_only=True)
class RerankParams:
    """``top_n`` None: all. ``truncate``: what is too long is cut, not refused; ``max_tokens_per_doc`` cuts documents
    before they meet the query."""

    top_n: int | None = None
    truncate: bool = False
    max_tokens_per_doc: int | None = None
    instruction: str | None = None


@dataclass(frozen=True)
class Ranking:
    """Pairs of a document's number and its score in 0..1, the best first; of equal ones, the earlier."""

    results: list[tuple[int, float]]
    prompt_tokens: int


class PairFormat(Protocol):
    """How a reranker reads a query with each of several documents.

    ``label_token_ids``: the tokens (no, yes) of one that decides by them. ``encode`` cuts what is longer than
    ``max_length`` tokens; it raises InvalidRequest for an instruction that the model cannot take.
    """

    @property
    def label_token_ids(self) -> tuple[int, int] | None: ...

    def encode(
        self, query: str, documents: Sequence[str], instruction: str | None, max_length: int | None
    ) -> list[PoolInput]: ...


class CrossEncoder:
    """Query and document as two texts of one input."""

    label_token_ids = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(
        self, query: str, documents: Sequence[str], instruction: str | None, max_length: int | None
    ) -> list[PoolInput]:
        if instruction is not None:
            raise InvalidRequest("instruction: this model takes none", param="instruction")
        pairs = self._tokenizer.encode_pairs(query, documents, max_length=max_length)
        return [PoolInput(token_ids, second_from) for token_ids, second_from in pairs]


class Qwen3Reranker:
    """A question to a chat model, which answers yes or no."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises ModelLoadError if the tokenizer is not one of these models'."""
        no, yes = tokenizer.token_id("no"), tokenizer.token_id("yes")
        if no is None or yes is None or tokenizer.token_id("<|im_start|>") is None:
            raise ModelLoadError("this reranker is none of Qwen3's: its tokenizer lacks <|im_start|>, yes or no")
        self.label_token_ids = (no, yes)
        self._tokenizer = tokenizer
        self._before = tokenizer.encode(_QWEN3_BEFORE, add_special_tokens=False)
        self._after = tokenizer.encode(_QWEN3_AFTER, add_special_tokens=False)

    def encode(
        self, query: str, documents: Sequence[str], instruction: str | None, max_length: int | None
    ) -> list[PoolInput]:
        head = f"<Instruct>: {_QWEN3_INSTRUCTION if instruction is None else instruction}\n<Query>: {query}\n"
        contents = self._tokenizer.encode_bare([f"{head}<Document>: {document}" for document in documents])
        room = None if max_length is None else max(0, max_length - len(self._before) - len(self._after))
        return [PoolInput([*self._before, *content[:room], *self._after]) for content in contents]


def pair_format(path: Path, tokenizer: Tokenizer) -> PairFormat:
    """By the model's configuration. Raises ModelLoadError for a reranker whose format is not known."""
    config = read_json(path / "config.json")
    if any("ForSequenceClassification" in str(name) for name in config.get("architectures") or []):
        return CrossEncoder(tokenizer)
    if config.get("model_type") == "qwen3":
        return Qwen3Reranker(tokenizer)
    raise ModelLoadError(
        f"{path.name} cannot rerank: it has no classifier (…ForSequenceClassification in config.json) "
        "and is no Qwen3-Reranker"
    )


class TextReranker:
    """One model's tokenizer and format in front of its engine."""

    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, format: PairFormat) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._format = format

    async def rank(self, request_id: str, query: str, documents: Sequence[str], params: RerankParams) -> Ranking:
        """Cancelling the task aborts the request. Raises InvalidRequest, and what EngineClient.pool raises."""
        request = current_request()
        with request.answered_as(request_id), self._engine.admit(request_id):
            ready = await self._engine.wait_ready()

            inputs = await maybe_on_thread(
                lambda: self._encode(query, documents, params, ready), sum(map(len, documents)) + len(query)
            )
            pooled = PoolRequest(request_id, inputs, self._format.label_token_ids)
            scores = (await pool(self._engine, pooled, ready.dimensions))[:, 0].tolist()
        ranked = sorted(enumerate(scores), key=lambda one: -one[1])  # stable
        prompt_tokens = sum(len(one.token_ids) for one in inputs)
        request.pooled(prompt_tokens)
        return Ranking(ranked[: params.top_n], prompt_tokens)

    def _encode(self, query: str, documents: Sequence[str], params: RerankParams, ready: Ready) -> list[PoolInput]:
        if params.max_tokens_per_doc is not None:
            documents = [self._tokenizer.cut(text, params.max_tokens_per_doc) for text in documents]
        limit = ready.max_model_len if params.truncate else None
        if limit is None:
            pairs = ([query, document] for document in documents)
            check_texts(self._tokenizer, pairs, ready, field="documents", truncate_field="truncate")
        query, *documents = (self._tokenizer.beginning(text, limit) for text in (query, *documents))
        if len(query) * len(documents) > MAX_QUERIES:
            raise InvalidRequest(
                f"query: it is read with each of {len(documents)} documents, "
                f"and may have {MAX_QUERIES // len(documents)} characters with so many",
                param="query",
            )
        inputs = self._format.encode(query, documents, params.instruction, limit)
        check_inputs(inputs, ready, field="documents", truncate_field="truncate")
        return inputs
