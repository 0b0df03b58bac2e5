"""Logging set-up: one line per event on standard error."""

from __future__ import annotations

import logging
import sys


def setup(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    # One line per request is logged by the server itself.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    for noisy in ("asyncio", "httpx", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
