"""data: URLs, read strictly: what is not exactly the encoding that it says it is, is refused."""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from quince.text.media.references import Refusal

# The type is not believed anyway, so a long one is no data URL of anybody's.
_MAX_HEADER = 256
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_URLS = re.compile(r"[^\x21-\x7e]")


def decode(url: str, max_bytes: int) -> bytes:
    """The bytes of ``data:[type][;base64],data``. Raises Refusal; nothing larger than ``max_bytes`` is decoded."""
    comma = url.find(",", 0, _MAX_HEADER)
    if comma < 0:
        raise Refusal("a data URL begins like 'data:image/png;base64,'")
    header = url[len("data:") : comma]
    size = len(url) - comma - 1
    if header.lower().endswith(";base64"):
        if size // 4 * 3 > max_bytes + 2:
            raise Refusal(f"it is larger than {max_bytes} bytes")
        data = _base64(url[comma + 1 :])
    else:
        if size > 3 * max_bytes:
            raise Refusal(f"it is larger than {max_bytes} bytes")
        data = _percent(url[comma + 1 :])
    if len(data) > max_bytes:
        raise Refusal(f"it is larger than {max_bytes} bytes")
    return data


def _base64(text: str) -> bytes:
    try:
        if "%" in text:
            text = _percent(text).decode("ascii")
        if len(text) % 4 or text.endswith("==="):  # Python does not mind more padding than there should be
            raise ValueError("wrong padding")
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error and UnicodeError are of this kind
        raise Refusal(f"its base64 is not valid: {error}") from None


def _percent(text: str) -> bytes:
    if _BAD_ESCAPE.search(text) or _NOT_IN_URLS.search(text):
        raise Refusal("its percent-encoding is not valid")
    return unquote_to_bytes(text)
