"""Texts to vectors: one model's tokenizer and prompts in front of its engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from quince.engine.client import EngineClient
from quince.engine.messages import PoolInput, PoolRequest
from quince.errors import InvalidRequest
from quince.metrics import current_request
from quince.text.generation import maybe_on_thread
from quince.text.pooling import Numbers, check_inputs, check_texts, pool
from quince.text.prompts import PromptChoice, Prompts
from quince.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EmbeddingParams:
    """``dimensions`` None: all that the model has. ``truncate``: texts that are too long are cut, not refused."""

    dimensions: int | None = None
    truncate: bool = False
    prompt: PromptChoice = field(default_factory=PromptChoice)


@dataclass(frozen=True)
class Embeddings:
    """One row for each input: [inputs, dimensions]."""

    vectors: Numbers
    prompt_tokens: int


class TextEmbedder:
    """``lower_case``: the publisher wants all texts so."""

    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, prompts: Prompts, *, lower_case: bool) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._lower_case = lower_case

    async def embed(self, request_id: str, inputs: Sequence[str | list[int]], params: EmbeddingParams) -> Embeddings:
        """Token ids are taken as they are: no prompt, no special tokens.

        Cancelling the task aborts the request. Raises InvalidRequest, and what EngineClient.pool raises.
        """
        prompt = self._prompts.choose(params.prompt)
        if params.prompt and any(not isinstance(one, str) for one in inputs):
            raise InvalidRequest("input: nothing can be put before token ids; send texts", param="input")
        request = current_request()
        with request.answered_as(request_id), self._engine.admit(request_id):
            ready = await self._engine.wait_ready()
            if params.dimensions is not None and params.dimensions > ready.dimensions:
                raise InvalidRequest(
                    f"dimensions: this model has {ready.dimensions}, which is less than {params.dimensions}",
                    param="dimensions",
                )
            limit = ready.max_model_len if params.truncate else None

            def prepare() -> list[PoolInput]:
                if limit is None:
                    texts = ([one] if isinstance(one, str) else [] for one in inputs)
                    check_texts(self._tokenizer, texts, ready, field="input", truncate_field="truncate")
                made = self._encode(inputs, prompt, limit)
                check_inputs(made, ready, field="input", truncate_field="truncate")
                return made

            encoded = await maybe_on_thread(prepare, sum(map(len, inputs)))
            vectors = await pool(self._engine, PoolRequest(request_id, encoded), ready.dimensions)
        prompt_tokens = sum(len(one.token_ids) for one in encoded)
        request.pooled(prompt_tokens)
        return Embeddings(_cut(vectors, params.dimensions), prompt_tokens)

    def _encode(self, inputs: Sequence[str | list[int]], prompt: str, limit: int | None) -> list[PoolInput]:
        texts = [self._text(prompt + one) for one in inputs if isinstance(one, str)]
        encoded = iter(self._tokenizer.encode_texts(texts, max_length=limit))
        skipped = self._length_of(prompt) if prompt else 0
        return [
            PoolInput(next(encoded), prompt_tokens=skipped) if isinstance(one, str) else PoolInput(one[:limit])
            for one in inputs
        ]  # fmt: skip

    def _text(self, text: str) -> str:
        return text.lower() if self._lower_case else text

    def _length_of(self, prompt: str) -> int:
        """How many tokens at the beginning are the prompt's, with those that begin every text."""
        alone = self._tokenizer.encode_texts([self._text(prompt)])[0]
        ending = alone[-1:] == self._tokenizer.encode_texts([""])[0][-1:]
        return len(alone) - ending


def _cut(vectors: Numbers, dimensions: int | None) -> Numbers:
    """The first ``dimensions`` numbers of every vector, of length 1 again (Kusupati et al., 2022)."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dimensions]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.asarray(kept / np.maximum(lengths, 1e-12), np.float32)
