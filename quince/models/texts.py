"""Tokenizers of models whose engines need not be loaded."""

from __future__ import annotations

import asyncio

from quince.config import ServeConfig
from quince.models.loaded import ModelText, make_text
from quince.models.store import StoredModel

# A tokenizer of a large vocabulary takes some 100 MB.
MAX_TEXTS = 4


class TextCache:
    """Keeps the tokenizers that were used last. For the event loop."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, float], ModelText] = {}  # the last used at the end
        self._lock = asyncio.Lock()

    async def get(self, stored: StoredModel, config: ServeConfig) -> ModelText:
        """Reads one at a time, for seconds, on a thread. ``config`` is the model's own.

        Raises ModelLoadError for an unusable tokenizer.
        """
        key = (str(stored.path), stored.manifest.installed_at)
        async with self._lock:
            text = self._texts.pop(key, None)
            if text is None:
                text = await asyncio.to_thread(make_text, stored, config)
            self._texts[key] = text
            while len(self._texts) > MAX_TEXTS:
                del self._texts[next(iter(self._texts))]
            return text
