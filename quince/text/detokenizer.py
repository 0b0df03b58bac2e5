"""Token ids to text as they come, without ever cutting a character."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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
        after: Sequence[int] = (),
    ) -> None:
        """``after``: tokens whose text goes on. What begins a text loses its first space to some decoders."""
        self._tokenizer = tokenizer
        self._special_token_ids = special_token_ids
        self._visible_token_ids = visible_token_ids
        told = [token_id for token_id in after[-MAX_CHARACTER_TOKENS:] if token_id not in special_token_ids]
        torn = str(tokenizer.decode(told)).endswith(REPLACEMENT)
        self._told = [] if torn else told  # the tokens of the text that came last, whole characters
        self._pending: list[int] = []  # those after them
        self._stream = DecodeStream(self._told, skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        if token_id in self._visible_token_ids:
            return self._cut_off() + str(self._tokenizer.id_to_token(token_id))
        if token_id in self._special_token_ids:
            return ""
        self._pending.append(token_id)
        try:
            text = self._stream.step(self._tokenizer, token_id)
        except Exception:  # noqa: BLE001 - tokenizers has no class for it
            # Byte tokens after a character's own that are no character, under a decoder that reads them as one run:
            # the character that was told is none for it any more.
            return self._tell_pending()
        if text is not None:
            self._told, self._pending = self._pending, []
            return str(text)
        return self._tell_pending() if len(self._pending) > MAX_CHARACTER_TOKENS else ""

    def _tell_pending(self) -> str:
        """Tokens that begin no character, with replacement characters for their bytes; what follows starts afresh."""
        text = str(self._tokenizer.decode(self._pending, skip_special_tokens=True))
        if not text.endswith(REPLACEMENT):
            self._told = self._pending
        self._restart()
        return text

    def _restart(self) -> None:
        """What comes next is not the beginning of a text, whose first space some decoders leave out."""
        self._stream = DecodeStream(self._told, skip_special_tokens=True)
        self._pending = []

    def _cut_off(self) -> str:
        """The rest before a token that ends whatever character was incomplete."""
        if not self._pending:
            return ""
        text = self.flush()
        self._restart()
        return text

    def flush(self) -> str:
        """The rest when the answer is over, without a character that was cut off."""
        if not self._pending:
            return ""
        text = self._tokenizer.decode(self._pending, skip_special_tokens=True)
        self._pending = []
        return str(text).rstrip(REPLACEMENT)
