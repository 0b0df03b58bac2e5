"""The preprocessor's protocol: every message that crosses between the API process and a preprocessor process.

API process -> preprocessor: Prepare, Cancel.
Preprocessor -> API process: PreprocessorReady, LoadFailed, Prepared, NotPrepared.
The preprocessor is configured once, by a PreprocessorConfig on its standard input.
"""

from __future__ import annotations

import enum

import msgspec

from quince.engine.messages import LoadFailed, MediaArray


class MediaType(enum.Enum):
    IMAGE = "image"
    VIDEO = "video"


class PreprocessorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``directory`` is where arrays are written, a place of this process's own; ``max_pixels`` bound an image before it
    is decoded, ``video_seconds`` a video while it is."""

    address: str
    model_path: str
    max_pixels: int
    video_seconds: float
    directory: str = ""


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Decode an encoded file and prepare it for the model. ``small``: scaled down before, to save tokens."""

    job: int
    kind: MediaType
    small: bool
    data: bytes


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Nobody waits for this job any more; one that runs is run to its end, if it is no video that is being decoded, and
    its files are dropped."""

    job: int


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """``text`` is what a rendered prompt has where an image (or video) goes; ``token_id`` the model's token for each
    of its parts."""

    text: str
    token_id: int


class PreprocessorReady(msgspec.Struct, frozen=True, tag="ready"):
    """What the model takes, and how its prompts mark it."""

    marks: dict[MediaType, Mark]


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """``text`` takes the mark's place in the prompt; it has ``tokens`` times the mark's token. Who gets this message
    owns the files of ``arrays``, which have ``nbytes`` together."""

    job: int
    text: str
    tokens: int
    arrays: list[MediaArray]
    nbytes: int


class NotPrepared(msgspec.Struct, frozen=True, tag="not_prepared"):
    """The file is at fault: why, in words for its sender."""

    job: int
    error: str


ToPreprocessor = Prepare | Cancel
FromPreprocessor = PreprocessorReady | LoadFailed | Prepared | NotPrepared
