from __future__ import annotations

import pytest

from quince.models import demo
from quince.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The demo model's: byte-level BPE, so every text and every torn character can occur."""
    path = demo.path(demo.CHAT)
    assert path is not None
    return Tokenizer(path)
