"""Images of a message: found in its text as paths, sent as data: URLs."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

from quince.errors import UsageError

MAX_SIZE = 20 * 2**20  # bytes; base64 makes a third more of them, and servers bound their bodies
_SUFFIXES = "png|jpe?g|webp|gif|bmp"
# A path that a terminal pastes: quoted, or with its spaces escaped. Bare words are no paths: "draw me a cat.png".
_PATH = re.compile(
    rf"""'(?P<single>[^'\n]+\.(?:{_SUFFIXES}))'|"(?P<double>[^"\n]+\.(?:{_SUFFIXES}))\""""
    rf"|(?<!\S)(?P<bare>(?:\.{{0,2}}|~)/(?:\\.|[^\s\\])+\.(?:{_SUFFIXES}))(?!\S)",
    re.IGNORECASE,
)


def extract(text: str) -> tuple[str, list[Path]]:
    """``text`` without the paths in it that are image files here, and those files."""
    found: list[Path] = []

    def take(match: re.Match[str]) -> str:
        name = match["single"] or match["double"] or re.sub(r"\\(.)", r"\1", match["bare"])
        path = os.path.expanduser(name)
        if not os.path.isfile(path):  # unlike Path's, false also for what can be no path at all
            return match[0]
        found.append(Path(path))
        return ""

    left = _PATH.sub(take, text)
    return (left.strip() if found else text), found


def data_url(path: Path) -> str:
    """Raises UsageError for what is no image, or one that is too large; OSError for what cannot be read."""
    with open(os.path.expanduser(path), "rb") as file:
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise UsageError(f"{path} is too large for an image to send: more than {MAX_SIZE >> 20} MiB")
    return f"data:{_media_type(data, path)};base64,{base64.b64encode(data).decode()}"


def _media_type(data: bytes, path: Path) -> str:
    """By what the file is, not by its name."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    known = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp"}
    for magic, name in known.items():
        if data.startswith(magic):
            return f"image/{name}"
    raise UsageError(f"{path} is no image: PNG, JPEG, WebP, GIF and BMP are")
