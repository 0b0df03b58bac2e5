"""Token ids to text as they come, without ever cutting a character."""

from __future__ import annotations

from collections.abc import Collection

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import DecodeStream

REPLACEMENT = "\ufffd"
# No character takes more bytes than this: a longer undecodable run is not the beginning of one.
MAX_CHARACTER_TOKENS = 8


class Detokenizer:
    """One answer's text. Special tokens are left out, but for ``visible_token_ids``.

    The cost of a token does not grow with the answer.
    """

    def __init__(
        self,
        tokenizer: RustTokenizer,
        special_token_ids: Collection[int] = (),
        visible_token_ids: Collection[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._special_token_ids = special_token_ids
        self._visible_token_ids = visible_token_ids
        self._stream = DecodeStream(skip_special_tokens=True)
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        if token_id in self._visible_token_ids:
            return self._cut_off() + str(self._tokenizer.id_to_token(token_id))
        if token_id in self._special_token_ids:
            return ""
        self._pending.append(token_id)
        text = self._stream.step(self._tokenizer, token_id)
        if text is not None:
            self._pending.clear()
            return str(text)
        if len(self._pending) <= MAX_CHARACTER_TOKENS:
            return ""
        # Bytes that no character begins with: give them out as the replacement character and start afresh.
        text = self._tokenizer.decode(self._pending, skip_special_tokens=True)
        self._pending.clear()
        self._stream = DecodeStream(skip_special_tokens=True)
        return str(text)

    def _cut_off(self) -> str:
        """The rest before a token that ends whatever character was incomplete."""
        if not self._pending:
            return ""
        self._stream = DecodeStream(skip_special_tokens=True)
        return self.flush()

    def flush(self) -> str:
        """The rest when the answer is over, without a character that was cut off."""
        if not self._pending:
            return ""
        text = self._tokenizer.decode(self._pending, skip_special_tokens=True)
        self._pending.clear()
        return str(text).rstrip(REPLACEMENT)
