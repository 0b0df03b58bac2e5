"""Single tokens as text and bytes, for those who want to see them."""

from __future__ import annotations

import functools
import json
import re

from tokenizers import Tokenizer as RustTokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """What each token of a tokenizer stands for."""

    def __init__(self, tokenizer: RustTokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
        self._known: dict[int, tuple[str, bytes]] = {}  # at most the vocabulary
        decoder = json.loads(tokenizer.to_str())["decoder"]
        self._byte_level = '"ByteLevel"' in json.dumps(decoder)

    def token(self, token_id: int) -> tuple[str, bytes]:
        """A token's text and bytes; the text has replacement characters where it is not whole characters."""
        if token_id not in self._known:
            data = self._bytes(token_id)
            self._known[token_id] = data.decode(errors="replace"), data
        return self._known[token_id]

    def _bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:  # the model's vocabulary is padded beyond the tokenizer's
            return b""
        if self._byte_level:
            letters = byte_level_letters()
            return bytes(letters[letter] for letter in piece if letter in letters)
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return str(piece).replace("▁", " ").encode()


@functools.cache
def byte_level_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's): itself if it is printable and no
    space in Latin-1, else the next unused one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}
