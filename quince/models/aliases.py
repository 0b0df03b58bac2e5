"""The aliases that come with Quince: short names for common models, as ``quince pull qwen3:0.6b`` takes them."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec


@functools.cache
def shipped() -> dict[str, str]:
    """Alias to hub id, from aliases.json beside this file."""
    return msgspec.json.decode((Path(__file__).parent / "aliases.json").read_bytes(), type=dict[str, str])
