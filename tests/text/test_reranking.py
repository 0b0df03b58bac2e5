from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from quince.engine.messages import Ready
from quince.errors import InvalidRequest
from quince.text import reranking
from quince.text.reranking import CrossEncoder, RerankParams, TextReranker
from quince.text.tokenizer import Tokenizer
from tests import pooling_models


class LoadedEngine:
    @contextlib.contextmanager
    def admit(self, *request_ids: str) -> Iterator[None]:
        yield

    async def wait_ready(self) -> Ready:
        return Ready(model_type="bert", vocab_size=128, max_model_len=256, memory_bytes=0, device="cpu")


async def test_a_query_is_not_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is, it is put together with each of the documents."""
    monkeypatch.setattr(reranking, "MAX_QUERIES", 5_000)
    pooling_models.save("bert", tmp_path)
    tokenizer = Tokenizer(tmp_path)
    reranker = TextReranker(LoadedEngine(), tokenizer, CrossEncoder(tokenizer))  # type: ignore[arg-type]
    with pytest.raises(
        InvalidRequest, match="query: it is read with each of 100 documents, and may have 50 characters"
    ):
        await reranker.rank("r", "q" * 51, ["x"] * 100, RerankParams(truncate=True))
