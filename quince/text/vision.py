"""Images and videos in a prompt: from what a client wrote to the tokens that stand for them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

from quince.engine.media_messages import MediaType
from quince.engine.messages import MediaInput
from quince.engine.preprocess import MediaFile, MediaPreprocessor, PreparedMedia
from quince.errors import InvalidRequest
from quince.text.media import MediaKind, MediaLoader, MediaReference

KINDS: frozenset[MediaKind] = frozenset({"image", "video"})  # of which the preprocessor may refuse one


class MediaReader:
    """One model's way from references to what it takes of them."""

    def __init__(self, loader: MediaLoader, preprocessor: MediaPreprocessor) -> None:
        self._loader = loader
        self._preprocessor = preprocessor

    @contextlib.asynccontextmanager
    async def read(self, references: Sequence[MediaReference]) -> AsyncIterator[list[PreparedMedia]]:
        """In the order of ``references``; what comes can be used until the block ends. Leaving it early stops
        downloads and preparations. Raises InvalidRequest that names the part, EngineUnavailable."""
        items = await self._loader.load(references)
        files = [
            MediaFile(MediaType(item.kind), item.data, item.digest, item.detail == "low", item.param) for item in items
        ]
        async with self._preprocessor.prepare(files) as prepared:
            yield prepared


def place(text: str, media: Sequence[PreparedMedia]) -> str:
    """A rendered prompt with each mark replaced by what its image is to the model. Raises InvalidRequest unless it has
    as many marks as there are images: templates may place none, and a user may write a mark."""
    pieces: list[str] = []
    rest = text
    for one in media:
        before, mark, rest = rest.partition(one.mark.text)
        if not mark:
            raise InvalidRequest("the model's chat template does not place all images", param="messages")
        pieces += [before, one.text]
    if any(one.mark.text in rest for one in media):
        raise InvalidRequest("the messages have the text by which the model marks images", param="messages")
    return "".join([*pieces, rest])


def locate(token_ids: Sequence[int], media: Sequence[PreparedMedia]) -> list[MediaInput]:
    """Where the tokens of each image are. Raises InvalidRequest if there are more or fewer of them than images have."""
    marks = {one.mark.token_id for one in media}
    positions = iter([position for position, token_id in enumerate(token_ids) if token_id in marks])
    found: list[MediaInput] = []
    for one in media:
        own = list(itertools.islice(positions, one.tokens))
        if len(own) < one.tokens or any(token_ids[position] != one.mark.token_id for position in own):
            raise InvalidRequest("the prompt has fewer tokens for images than they need", param="messages")
        found.append(MediaInput(one.key, one.mark.token_id, _runs(own), one.arrays))
    if next(positions, None) is not None:
        raise InvalidRequest("the messages have the text by which the model marks images", param="messages")
    return found


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, count) of those that follow each other."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        start, count = runs[-1] if runs else (position, 0)
        if start + count == position:
            runs[-1:] = [(start, count + 1)]
        else:
            runs.append((position, 1))
    return runs
