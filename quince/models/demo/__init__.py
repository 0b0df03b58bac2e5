"""The embedded demo models: served when nothing is installed."""

from __future__ import annotations

from pathlib import Path

CHAT = "quince-demo"
VISION = "quince-demo-vision"
EMBEDDING = "quince-demo-embedding"
RERANKER = "quince-demo-reranker"
# In the order in which a server without a model of its own lists those of them that are there.
NAMES = (CHAT, VISION, EMBEDDING, RERANKER)


def path(name: str) -> Path | None:
    """The directory of an embedded model, None if there is none of that name."""
    directory = Path(__file__).parent / name
    return directory if name in NAMES and directory.is_dir() else None
