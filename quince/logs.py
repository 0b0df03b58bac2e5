"""Logging set-up: one line per event on standard error."""

from __future__ import annotations

import logging
import sys


def setup(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    for noisy in ("asyncio", "httpcore2", "httpx", "transformers", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
