"""From references to checked bytes: where each comes from, and what all of a request may be together."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpcore2

from quince.errors import InvalidRequest
from quince.text.media import data_urls, files, formats
from quince.text.media.addresses import CheckedBackend
from quince.text.media.fetch import Fetcher
from quince.text.media.references import Budget, MediaItem, MediaKind, MediaReference, Refusal

# Downloads that are under way at once, of all requests; more wait for them.
MAX_DOWNLOADS = 64
# What is longer than this is decoded, looked at and hashed on a thread: the rest takes no longer than a switch.
_ON_THREAD = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What is taken from where. Sizes are in bytes, of encoded files; ``timeout`` is in seconds for each download."""

    directories: tuple[Path, ...]
    allow_private: bool
    max_bytes: int
    max_request_bytes: int
    max_items: int
    max_pixels: int
    timeout: float


@dataclass(frozen=True)
class _Loaded:
    data: bytes
    digest: str


class MediaLoader:
    """Fetches and checks what conversations refer to. Holds nothing between two calls; for the event loop.

    ``backend`` connects to web servers and decides to which, by default as ``limits`` says.
    """

    def __init__(self, limits: MediaLimits, backend: httpcore2.AsyncNetworkBackend | None = None) -> None:
        self._limits = limits
        self._fetcher = Fetcher(backend or CheckedBackend(allow_private=limits.allow_private), limits.timeout)
        self._downloads = asyncio.Semaphore(MAX_DOWNLOADS)

    async def load(self, references: Sequence[MediaReference]) -> list[MediaItem]:
        """In the order of ``references``. Raises InvalidRequest that names the part.

        What is referred to several times is read once. The first fault ends all downloads of the call, as does
        cancelling it.
        """
        if len(references) > self._limits.max_items:
            first = references[self._limits.max_items].param
            raise InvalidRequest(
                f"{first}: a request has at most {self._limits.max_items} images and videos, and here are "
                f"{len(references)}",
                param=first,
            )
        firsts: dict[tuple[MediaKind, str], MediaReference] = {}
        for reference in references:
            firsts.setdefault(_key(reference), reference)
        budget = Budget(self._limits.max_request_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {key: group.create_task(self._load(reference, budget)) for key, reference in firsts.items()}
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [_item(reference, tasks[_key(reference)].result()) for reference in references]

    async def _load(self, reference: MediaReference, budget: Budget) -> _Loaded:
        try:
            data = await self._read(reference.url, budget)
            if len(data) > _ON_THREAD:
                return await asyncio.to_thread(self._examined, reference.kind, data)
            return self._examined(reference.kind, data)
        except Refusal as refusal:
            raise InvalidRequest(f"{reference.param}: {refusal}", param=reference.param) from None

    def _examined(self, kind: MediaKind, data: bytes) -> _Loaded:
        """Raises Refusal."""
        formats.check(kind, data, self._limits.max_pixels)
        return _Loaded(data, hashlib.sha256(data).hexdigest())

    async def _read(self, url: str, budget: Budget) -> bytes:
        """Raises Refusal."""
        limit = self._limits.max_bytes
        match _scheme(url):
            case "http" | "https":
                async with self._downloads:
                    return await self._fetcher.fetch(url, limit, budget)
            case "data" if len(url) <= _ON_THREAD:
                data = data_urls.decode(url, limit)
            case "data":
                data = await asyncio.to_thread(data_urls.decode, url, limit)
            case "file":
                data = await asyncio.to_thread(files.read, files.path_of(url), self._limits.directories, limit)
            case _:
                raise Refusal("it is no data:, http://, https:// or file:// URL and no absolute path")
        budget.take(len(data))
        return data


def _scheme(url: str) -> str:
    return "file" if url.startswith("/") else url[:8].partition(":")[0].lower()


def _key(reference: MediaReference) -> tuple[MediaKind, str]:
    return reference.kind, reference.url


def _item(reference: MediaReference, loaded: _Loaded) -> MediaItem:
    return MediaItem(reference.kind, loaded.data, loaded.digest, reference.param, reference.detail)
