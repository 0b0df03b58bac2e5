"""What a model is for."""

from __future__ import annotations

import enum


class ModelType(enum.Enum):
    """Decides on which routes a model answers."""

    LLM = "llm"
    VLM = "vlm"
    EMBEDDING = "embedding"
    RERANKER = "reranker"
