"""Files of every accepted kind."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF")
VIDEOS = {
    "MP4": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
    "MP4 in a box of 256 bytes": b"\0\0\1\0ftypisom" + bytes(244),
    "MOV": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    "old MOV": b"\0\0\0\x08wide\0\0\0\0mdat",
    "WebM": b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01webm",
    "AVI": b"RIFF\x10\0\0\0AVI LIST",
}


def picture(format_name: str = "PNG", size: tuple[int, int] = (7, 5), mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(out, format_name, **options)
    return out.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def huge(format_name: str) -> bytes:
    """A small file whose header promises 50,000 x 50,000 pixels."""
    data = bytearray(picture(format_name, (7, 5)))
    match format_name:
        case "PNG":
            data[16:24] = (50_000).to_bytes(4, "big") * 2
        case "GIF":
            data[6:10] = (50_000).to_bytes(2, "little") * 2
        case "JPEG":
            start = data.index(b"\xff\xc0") + 5
            data[start : start + 4] = (50_000).to_bytes(2, "big") * 2
        case "BMP":
            data[18:26] = (50_000).to_bytes(4, "little") * 2
            data[30] = 1  # compressed: the file may be smaller than its rows
        case "WebP":
            data[12:40] = b"VP8X\x0a\0\0\0\0\0\0\0" + (49_999).to_bytes(3, "little") * 2 + bytes(10)
        case "TIFF":
            for tag in (b"\0\1", b"\1\1"):
                start = data.index(tag + b"\4\0\1\0\0\0") + 8
                data[start : start + 4] = (50_000).to_bytes(4, "little")
    return bytes(data)
