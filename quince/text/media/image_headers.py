"""The size of an image by its header, for the formats that are accepted, without decoding a pixel.

Each function takes the whole file and returns (width, height) as a decoder would allocate them. Raises Refusal for a
file that ends too early or contradicts itself, as far as that shows without decoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NoReturn

from quince.text.media.references import Refusal

Size = tuple[int, int]

# More blocks than this before the pixels are nobody's metadata, and would only take time.
_MAX_BLOCKS = 10_000
_PNG_END = b"IEND\xaeB`\x82"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset([0x01, *range(0xD0, 0xD8)])


def png(data: bytes) -> Size:
    length, kind, width, height = _unpack(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        _broken()
    if data.find(_PNG_END, 33) < 0:
        _truncated()
    return width, height


def gif(data: bytes) -> Size:
    """The larger of the screen and the first frame, to which decoders stretch the screen."""
    width, height, flags = _unpack("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # behind the table of colours
    in_extension = False
    for _ in range(_MAX_BLOCKS):
        (mark,) = _unpack("B", data, position)
        if in_extension:
            position += 1 + mark  # the length of a part; 0 ends the extension
            in_extension = mark > 0
        elif mark == 0x21:
            position += 2
            in_extension = True
        elif mark == 0x2C:
            left, top, frame_width, frame_height, _ = _unpack("<4HB", data, position + 1)
            return max(width, left + frame_width), max(height, top + frame_height)
        else:
            break
    _broken()


def jpeg(data: bytes) -> Size:
    """By the one frame header before the first scan; the file must have an end after it."""
    size: Size | None = None
    for marker, position, length in _segments(data):
        if marker == 0xDA:
            if size is None:
                break
            if data.find(b"\xff\xd9", position + length) < 0:
                _truncated()
            return size
        if marker in _FRAME_HEADERS:
            if size is not None:
                break
            height, width = _unpack(">HH", data, position + 3)
            size = width, height
    _broken()


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Markers with the offset and the length of what belongs to them. Ends where the file is no JPEG file."""
    position = 2
    for _ in range(_MAX_BLOCKS):
        prefix, marker = _unpack("BB", data, position)
        if prefix != 0xFF:
            return
        if marker == 0xFF:  # fills up
            position += 1
            continue
        position += 2
        if marker not in _BARE_MARKERS:
            (length,) = _unpack(">H", data, position)
            if length < 2:
                return
            yield marker, position, length
            position += length


def webp(data: bytes) -> Size:
    (length,) = _unpack("<I", data, 4)
    if length + 8 > len(data):
        _truncated()
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = _unpack("<HBHB", data, 24)
        return (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    if kind == b"VP8L":
        mark, bits = _unpack("<BI", data, 20)
        if mark != 0x2F:
            _broken()
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        mark, width, height = _unpack("<3sHH", data, 23)
        if mark != b"\x9d\x01\x2a":
            _broken()
        return width & 0x3FFF, height & 0x3FFF
    _broken()


def bmp(data: bytes) -> Size:
    start, header = _unpack("<II", data, 10)
    if header == 12:
        width, height, _, bits = _unpack("<HHHH", data, 18)
        compression = 0
    elif header >= 40:
        width, height, _, bits, compression = _unpack("<iiHHI", data, 18)
        height = abs(height)  # negative: rows from top to bottom
    else:
        _broken()
    row = (width * bits + 31) // 32 * 4
    if compression == 0 and start + row * height > len(data):
        _truncated()
    return width, height


def tiff(data: bytes) -> Size:
    """The first directory's."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = _unpack(order + "I", data, 4)
    (count,) = _unpack(order + "H", data, start)
    sides: dict[int, int] = {}
    for number in range(min(count, _MAX_BLOCKS)):
        entry = start + 2 + 12 * number
        tag, kind, values = _unpack(order + "HHI", data, entry)
        if tag in (256, 257):
            if kind not in (3, 4) or values != 1 or tag in sides:
                _broken()
            (sides[tag],) = _unpack(order + ("H" if kind == 3 else "I"), data, entry + 8)
    if len(sides) != 2:
        _broken()
    return sides[256], sides[257]


def _unpack(layout: str, data: bytes, offset: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(layout, data, offset)
    except struct.error:
        _truncated()


def _broken() -> NoReturn:
    raise Refusal("the image file is broken")


def _truncated() -> NoReturn:
    raise Refusal("the image file is truncated")
