from __future__ import annotations

from collections.abc import Sequence

import pytest

from quince.engine.media_messages import Mark, MediaType
from quince.engine.messages import MediaArray
from quince.engine.preprocess import MediaFile, PreparedMedia
from quince.errors import InvalidRequest
from quince.text.media import MediaItem, MediaReference
from quince.text.vision import MediaReader, locate, place

IMAGE, VIDEO = Mark("<i>", 9), Mark("<v>", 8)


def prepared(text: str, tokens: int, mark: Mark = IMAGE) -> PreparedMedia:
    return PreparedMedia(text, mark, text, tokens, [MediaArray("pixel_values", path=text)])


def test_each_mark_becomes_what_its_image_is() -> None:
    media = [prepared("[99]", 2), prepared("[8]", 1, VIDEO), prepared("[<i>]", 1)]
    assert place("a<i>b<v>c<i>d", media) == "a[99]b[8]c[<i>]d"


@pytest.mark.parametrize("text", ["no mark", "<i> and <i>", "<v>"])
def test_as_many_marks_as_images(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        place(text, [prepared("x", 1)])
    assert caught.value.param == "messages"


def test_images_are_found_by_their_tokens_in_order() -> None:
    media = [prepared("a", 3), prepared("b", 1, VIDEO), prepared("c", 1)]
    found = locate([1, 9, 9, 2, 9, 8, 9, 3], media)
    assert [one.runs for one in found] == [[(1, 2), (4, 1)], [(5, 1)], [(6, 1)]]
    assert [one.token_id for one in found] == [9, 8, 9]
    assert [one.key for one in found] == ["a", "b", "c"]


@pytest.mark.parametrize("token_ids", [[1, 9, 2], [9, 9, 9], [9, 8]])
def test_more_or_fewer_tokens_are_refused(token_ids: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        locate(token_ids, [prepared("a", 2), *([prepared("b", 1, VIDEO)] if 8 in token_ids else [])])


class Loader:
    async def load(self, references: Sequence[MediaReference]) -> list[MediaItem]:
        return [MediaItem(one.kind, one.url.encode(), one.url, one.param, one.detail) for one in references]


class Preprocessor:
    """Remembers what it was given, and whether it still is in use."""

    def __init__(self) -> None:
        self.files: Sequence[MediaFile] = ()
        self.open = False

    def prepare(self, files: Sequence[MediaFile]) -> Preprocessor:
        self.files = files
        return self

    async def __aenter__(self) -> list[PreparedMedia]:
        self.open = True
        return [prepared(file.digest, 1) for file in self.files]

    async def __aexit__(self, *_: object) -> None:
        self.open = False


async def test_references_become_files_for_the_preprocessor() -> None:
    preprocessor = Preprocessor()
    reader = MediaReader(Loader(), preprocessor)  # type: ignore[arg-type]
    references = [MediaReference("image", "one", "first", "low"), MediaReference("video", "two", "second")]
    async with reader.read(references) as found:
        assert [one.text for one in found] == ["one", "two"]
        assert preprocessor.open
    assert not preprocessor.open
    first, second = preprocessor.files
    assert (first.kind, first.small, first.param, first.data) == (MediaType.IMAGE, True, "first", b"one")
    assert (second.kind, second.small, second.param) == (MediaType.VIDEO, False, "second")
    assert first.key != second.key
