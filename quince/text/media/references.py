"""What clients write, what becomes of it, and how it is refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from quince.errors import InvalidRequest

MediaKind = Literal["image", "video"]
MediaDetail = Literal["auto", "low", "high"]


@dataclass(frozen=True)
class MediaReference:
    """What a client wrote. ``param`` says where, for errors: ``messages.0.content.1.image_url.url``."""

    kind: MediaKind
    url: str
    param: str
    detail: MediaDetail = "auto"


@dataclass(frozen=True)
class MediaItem:
    """An encoded file, whole and of an accepted type, but not decoded yet. ``digest`` is the SHA-256 of ``data`` in
    hexadecimal digits."""

    kind: MediaKind
    data: bytes
    digest: str
    param: str
    detail: MediaDetail = "auto"


class Refusal(Exception):
    """Why one item cannot be taken: a sentence for the client, to which the loader adds which item it is about."""


class Budget:
    """The bytes that all items of one request may still have together."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size

    def take(self, count: int) -> None:
        """Raises Refusal if there are not so many."""
        self._left -= count
        if self._left < 0:
            raise Refusal(f"the images and videos of one request may have {self._size} bytes together")


def check_kinds(references: Sequence[MediaReference], kinds: Collection[MediaKind]) -> None:
    """Raises InvalidRequest for the first reference that a model which takes ``kinds`` cannot be given."""
    for reference in references:
        if reference.kind not in kinds:
            reads = " and ".join(["text", *(f"{kind}s" for kind in sorted(kinds))])
            raise InvalidRequest(
                f"{reference.param}: this model reads {reads} only: it cannot be given {reference.kind}s",
                param=reference.param,
            )
