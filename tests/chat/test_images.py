from __future__ import annotations

import base64
from pathlib import Path

import pytest

from quince.chat import images
from quince.errors import UsageError

PNG = b"\x89PNG\r\n\x1a\n rest"


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "a cat.PNG"
    path.write_bytes(PNG)
    return path


def test_paths_are_taken_out_of_the_text(cat: Path) -> None:
    for spelled in (f"'{cat}'", f'"{cat}"', str(cat).replace(" ", "\\ ")):
        assert images.extract(f"What is {spelled} ?") == ("What is  ?", [cat])
        assert images.extract(spelled) == ("", [cat])


@pytest.mark.parametrize(
    "text",
    ["draw me a cat.png", "look at /no/such/file.png", "https://example.com/cat.png", "a 'quoted.png' word", "no path"],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert images.extract(text) == (text, [])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"GIF89a", "gif"),
        (b"BM....", "bmp"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
    ],
)
def test_the_type_is_what_the_file_is(tmp_path: Path, data: bytes, kind: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    assert images.data_url(path) == f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def test_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_text("root:x:0:0")
    with pytest.raises(UsageError, match="is no image"):
        images.data_url(path)


def test_an_image_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(PNG)
    with path.open("r+b") as file:
        file.truncate(images.MAX_SIZE + 1)
    with pytest.raises(UsageError, match="too large"):
        images.data_url(path)
