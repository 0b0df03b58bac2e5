"""What a file is, by its bytes: its name and what its server calls it are not asked."""

from __future__ import annotations

from collections.abc import Callable

from quince.text.media import image_headers
from quince.text.media.references import MediaKind, Refusal

_IMAGES: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes], image_headers.Size]], ...] = (
    ("JPEG", lambda data: data.startswith(b"\xff\xd8\xff"), image_headers.jpeg),
    ("PNG", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), image_headers.png),
    ("GIF", lambda data: data.startswith((b"GIF87a", b"GIF89a")), image_headers.gif),
    ("WebP", lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", image_headers.webp),
    ("BMP", lambda data: data.startswith(b"BM") and data[6:10] == bytes(4), image_headers.bmp),
    ("TIFF", lambda data: data.startswith((b"II*\0", b"MM\0*")), image_headers.tiff),
)
# What may be in MP4's kind of box without being a video.
_STILLS = (b"hei", b"hev", b"mif", b"msf", b"avi")
_SOUNDS = (b"M4A", b"M4B")
_VIDEOS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("MP4", lambda data: data[4:8] == b"ftyp" and not data[8:12].startswith((b"qt  ", *_STILLS, *_SOUNDS))),
    ("MOV", lambda data: data[4:12] == b"ftypqt  " or data[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip")),
    ("WebM or Matroska", lambda data: data.startswith(b"\x1a\x45\xdf\xa3")),
    ("AVI", lambda data: data.startswith(b"RIFF") and data[8:12] == b"AVI "),
)
# Known well enough to be refused by name.
_OTHERS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("an AVIF file", lambda data: data[4:11] == b"ftypavi"),
    ("an HEIC file", lambda data: data[4:8] == b"ftyp" and data[8:11] in _STILLS),
    ("audio", lambda data: data[4:8] == b"ftyp" and data[8:11] in _SOUNDS),
    ("audio", lambda data: data.startswith((b"ID3", b"OggS", b"fLaC", b"\xff\xfb")) or data[8:12] == b"WAVE"),
    ("a JPEG XL file", lambda data: data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL "))),
    ("a JPEG 2000 file", lambda data: data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "))),
    ("an icon", lambda data: data.startswith((b"\0\0\1\0", b"\0\0\2\0"))),
    ("a Photoshop file", lambda data: data.startswith(b"8BPS")),
    ("PostScript", lambda data: data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6"))),
    ("a PDF file", lambda data: b"%PDF-" in data[:1024]),
    ("an SVG drawing", lambda data: b"<svg" in data[:4096].lower()),
    ("an HTML page", lambda data: any(mark in data[:1024].lower() for mark in (b"<!doctype html", b"<html"))),
    ("XML", lambda data: data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml")),
    ("a ZIP archive", lambda data: data.startswith(b"PK\3\4")),
    ("compressed data", lambda data: data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))),
)
IMAGE_FORMATS = tuple(name for name, *_ in _IMAGES)
VIDEO_FORMATS = (*(name for name, _ in _VIDEOS), "GIF")


def check(kind: MediaKind, data: bytes, max_pixels: int) -> None:
    """Raises Refusal for what is no whole file of an accepted format of that kind, or an image of too many pixels."""
    if not data:
        raise Refusal("it is empty")
    if kind == "image" or data.startswith(b"GIF8"):
        _check_image(kind, data, max_pixels)
    elif _video(data) is None:
        raise Refusal(f"it is {_image(data) or _other(data) or 'of an unknown format'}: {_accepted(kind)}")


def _check_image(kind: MediaKind, data: bytes, max_pixels: int) -> None:
    size = next((read for _, fits, read in _IMAGES if fits(data)), None)
    if size is None:
        raise Refusal(f"it is {_video(data) or _other(data) or 'of an unknown format'}: {_accepted(kind)}")
    width, height = size(data)
    if width < 1 or height < 1:
        raise Refusal("the image file is broken: it has no pixels")
    if width * height > max_pixels:
        raise Refusal(f"it has {width} x {height} pixels, more than {max_pixels}")


def _other(data: bytes) -> str | None:
    return next((name for name, fits in _OTHERS if fits(data)), None)


def _image(data: bytes) -> str | None:
    return next((f"a {name} image" for name, fits, _ in _IMAGES if fits(data)), None)


def _video(data: bytes) -> str | None:
    return next((f"a {name} video" for name, fits in _VIDEOS if fits(data)), None)


def _accepted(kind: MediaKind) -> str:
    *most, last = IMAGE_FORMATS if kind == "image" else VIDEO_FORMATS
    return f"{kind}s are {', '.join(most)} or {last}"
