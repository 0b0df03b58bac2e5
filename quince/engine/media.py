"""Images and videos of a prompt, as the engine's scheduler sees them: tokens with ids of their own. No MLX in here."""

from __future__ import annotations

import array
import hashlib
from collections.abc import Sequence

from quince.engine.messages import MediaInput

# Ids of media tokens are negative and fit 64 bits with room to spare.
_BITS = (1 << 62) - 1


def keyed_token_ids(token_ids: Sequence[int], media: Sequence[MediaInput]) -> list[int]:
    """The prompt with the tokens of media replaced by numbers below zero that only the same content has.

    Each is a hash of the content's key and of its place in it, so that prompts share a prefix exactly where they would
    give the same keys and values: whoever looks for two images that are taken for one has to find as many collisions
    as an image has tokens.
    """
    keyed = list(token_ids)
    for one in media:
        count = sum(length for _, length in one.runs)
        ids = array.array("q", hashlib.shake_128(one.key.encode()).digest(8 * count))
        numbers = iter(ids)
        for start, length in one.runs:
            keyed[start : start + length] = [-1 - (next(numbers) & _BITS) for _ in range(length)]
    return keyed


def problem(token_ids: Sequence[int], media: Sequence[MediaInput]) -> str | None:
    """What is wrong with where media stand in a prompt: runs must be in order, inside of it and before its end."""
    end = 0
    for start, length in (run for one in media for run in one.runs):
        if start < end or length < 1 or start + length >= len(token_ids):
            return "the prompt has no place for its images: they must come in order and before its last token"
        end = start + length
    return None
