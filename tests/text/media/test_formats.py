from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quince.text.media import formats, image_headers
from quince.text.media.references import Refusal
from tests.text.media.pictures import FORMATS, VIDEOS, huge, picture

PIXELS = 10**6
READERS = {
    "JPEG": image_headers.jpeg,
    "PNG": image_headers.png,
    "GIF": image_headers.gif,
    "WebP": image_headers.webp,
    "BMP": image_headers.bmp,
    "TIFF": image_headers.tiff,
}
OTHERS = {
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "HTML": b"<!DOCTYPE html><html><img src=x></html>",
    "PDF": b"%PDF-1.7\n",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1",
    "XML": b"<?xml version='1.0'?><a/>",
    "ZIP": b"PK\3\4\x14\0",
    "compressed": b"\x1f\x8b\x08\0",
    "audio": b"RIFF\x10\0\0\0WAVEfmt ",
    "icon": b"\0\0\1\0\1\0",
    "unknown": b"hello",
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {"progressive": True}),
    ("JPEG", {"mode": "L", "comment": b"\xff\xd9 is no end here"}),
    ("JPEG", {"mode": "CMYK"}),
    ("PNG", {"mode": "P"}),
    ("PNG", {"mode": "RGBA"}),
    ("GIF", {"comment": b"x" * 1000}),
    ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (7, 5), "red")], "loop": 0}),
    ("WebP", {"lossless": True}),
    ("WebP", {"mode": "RGBA"}),
    ("WebP", {"save_all": True, "append_images": [Image.new("RGB", (7, 5), "red")]}),
    ("BMP", {"mode": "1"}),
    ("BMP", {"mode": "P"}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"big_endian": True}),
]


def refusal(kind: Any, data: bytes, pixels: int = PIXELS) -> str:
    with pytest.raises(Refusal) as refused:
        formats.check(kind, data, pixels)
    return str(refused.value)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 2), (2, 300), (255, 257)])
def test_the_size_is_pillows(name: str, size: tuple[int, int]) -> None:
    assert READERS[name](picture(name, size)) == size


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_variant_is_taken(name: str, options: dict[str, Any]) -> None:
    data = picture(name, **options)
    assert READERS[name](data) == Image.open(io.BytesIO(data)).size == (7, 5)
    formats.check("image", data, PIXELS)
    formats.check("image", data + b"what cameras append", PIXELS)


def test_a_gif_whose_frame_is_larger_than_its_screen_has_the_frames_size() -> None:
    data = bytearray(picture("GIF", (300, 200)))
    data[6:10] = b"\1\0\1\0"
    assert image_headers.gif(bytes(data)) == (300, 200)


@pytest.mark.parametrize("name", FORMATS)
def test_bombs_are_known_by_their_header(name: str) -> None:
    assert "50000 x 50000 pixels" in refusal("image", huge(name))
    assert "7 x 5 pixels, more than 34" in refusal("image", picture(name), 34)
    formats.check("image", picture(name), 35)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "BMP"])
def test_files_that_end_too_early_are_refused(name: str) -> None:
    data = picture(name, (64, 64))
    for length in (*range(12, 40), len(data) // 2, len(data) - 3):
        refusal("image", data[:length])
    assert "truncated" in refusal("image", data[: len(data) // 2])


@pytest.mark.parametrize("name", ["GIF", "TIFF"])
def test_files_without_a_whole_header_are_refused(name: str) -> None:
    data = picture(name, (64, 64))
    for length in range(4, 20):
        refusal("image", data[:length])


@given(st.sampled_from(FORMATS), st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_damaged_files_are_taken_or_refused(name: str, place: int, damage: bytes) -> None:
    data = bytearray(picture(name))
    data[place : place + len(damage)] = damage
    try:
        formats.check("image", bytes(data), PIXELS)
    except Refusal as refused:
        assert str(refused)


@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF....WEBPVP8 "]),
    st.binary(),
)
def test_noise_is_taken_or_refused(start: bytes, noise: bytes) -> None:
    try:
        formats.check("image", start + noise, PIXELS)
    except Refusal as refused:
        assert str(refused)


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused_by_name(name: str) -> None:
    for kind in ("image", "video"):
        assert name in refusal(kind, OTHERS[name])


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_are_videos(name: str) -> None:
    formats.check("video", VIDEOS[name], PIXELS)
    assert "video" in refusal("image", VIDEOS[name])


def test_gifs_are_both_and_other_images_no_videos() -> None:
    formats.check("video", picture("GIF"), PIXELS)
    assert "pixels" in refusal("video", huge("GIF"))
    assert "a JPEG image" in refusal("video", picture("JPEG"))


def test_an_empty_file() -> None:
    assert "empty" in refusal("image", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe0\0\2" * 10**6,
        b"\xff\xd8" + b"\xff" * 10**6,
        b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe\1x\0" * 10**6,
        b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe" + b"\1x" * 10**6,
        b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65535),
    ],
)
def test_files_made_to_take_long_do_not(data: bytes) -> None:
    assert "broken" in refusal("image", data)
