"""Images and videos that a conversation refers to: from what a client wrote to checked bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MediaKind = Literal["image", "video"]


@dataclass(frozen=True)
class MediaReference:
    """What a client wrote. ``param`` says where, for errors: ``messages.0.content.1``."""

    kind: MediaKind
    url: str
    param: str
    detail: Literal["auto", "low", "high"] = "auto"


@dataclass(frozen=True)
class MediaItem:
    """An encoded file, whole and of an accepted type, but not decoded yet. ``digest`` is the SHA-256 of ``data`` in
    hexadecimal digits."""

    kind: MediaKind
    data: bytes
    digest: str
    param: str
    detail: Literal["auto", "low", "high"] = "auto"


class MediaLoader:
    """Fetches and checks what conversations refer to."""

    async def load(self, references: Sequence[MediaReference]) -> list[MediaItem]:
        """In the order of ``references``. Raises InvalidRequest that names the part."""
        raise NotImplementedError
