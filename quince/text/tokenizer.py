"""A model's tokenizer and chat template, as its publisher set them up."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from quince.errors import InvalidRequest, ModelLoadError
from quince.pytorch import hide_pytorch
from quince.text.detokenizer import Detokenizer
from quince.text.length import LengthBound, groups
from quince.text.segments import SegmentEncoder
from quince.text.vocabulary import Vocabulary

# One of these must be there; without any, transformers makes an empty tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model")
# Characters of texts that are tokenized at once: what the tokenizer makes of a text takes a hundred times its size.
GROUP = 2**18

T = TypeVar("T")


class Tokenizer:
    """Loads from a local directory with transformers; never asks the network."""

    def __init__(self, path: Path) -> None:
        """Raises ModelLoadError if there is no usable tokenizer."""
        if not any((path / name).is_file() for name in TOKENIZER_FILES):
            raise ModelLoadError(f"{path} has no tokenizer ({', '.join(TOKENIZER_FILES)})")
        hide_pytorch()
        from transformers import AutoTokenizer  # slow to import: not before a model is loaded

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except Exception as error:  # which is what tokenizers raises for a broken file
            raise ModelLoadError(f"{path.name}: the tokenizer cannot be loaded: {error}") from error
        if not self._tokenizer.is_fast:
            raise ModelLoadError(f"{path.name}: only fast tokenizers (tokenizer.json) are supported")
        # Some files cut or pad by themselves, which is for whoever asks to decide.
        self._tokenizer.backend_tokenizer.no_truncation()
        self._tokenizer.backend_tokenizer.no_padding()
        self.eos_token_ids = _eos_token_ids(path, self._tokenizer.eos_token_id)
        if not self._tokenizer.chat_template:
            self._tokenizer.chat_template = processor_template(path)
        self.chat_template = _chat_template(self._tokenizer.chat_template)
        self.has_file = (path / "tokenizer.json").is_file()
        self.vocabulary = Vocabulary(self._tokenizer.backend_tokenizer)
        self._segments = SegmentEncoder(self._tokenizer.backend_tokenizer)
        self._length = LengthBound(self._tokenizer.backend_tokenizer)
        added = self._tokenizer.backend_tokenizer.get_added_tokens_decoder()
        self._hidden_token_ids = frozenset(number for number, token in added.items() if token.special)
        # The tokens that a grammar cannot spell as text, with their ids: llguidance counts marks like <think> among
        # them even where the vocabulary does not.
        self.special_tokens: dict[str, int] = {
            token.content: number
            for number, token in added.items()
            if token.special or (token.content.startswith("<") and token.content.endswith(">"))
        }

    # All of these tokenize by batches, also of one text: single texts hold the GIL, on whatever thread.

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        with _refused_surrogates():
            (encoding,) = self._encodings([text], len, add_special_tokens=add_special_tokens)
            ids: list[int] = encoding.ids
            return ids

    def encode_prompt(self, text: str) -> list[int]:
        """A rendered conversation, special tokens and all; fast if most of it was there before."""
        with _refused_surrogates():
            return self._segments.encode(text)

    def at_least(self, texts: Sequence[str], most: int) -> int | None:
        """So many tokens do these texts have at least, together, which is far more than ``most``; None: it is not
        certain that they have more. Takes about as long as tokenizing what is allowed."""
        with _refused_surrogates():
            return self._length.at_least(texts, most)

    def beginning(self, text: str, most: int | None) -> str:
        """Enough of ``text`` for its first ``most`` tokens (None: all of them), if it has so many; else all of it."""
        return text if most is None else self._length.beginning(text, most)

    def encode_texts(self, texts: Sequence[str], *, max_length: int | None = None) -> list[list[int]]:
        """Each with the special tokens of a single text, which stay when it is cut to ``max_length`` tokens."""
        backend = self._tokenizer.backend_tokenizer
        texts = [self.beginning(text, max_length) for text in texts]
        found = [encoding.ids for encoding in self._encodings(texts, len)]
        if max_length is None:
            return found
        room = max(0, max_length - backend.num_special_tokens_to_add(False))
        for number, token_ids in enumerate(found):
            if len(token_ids) > max_length:
                (encoding,) = backend.encode_batch_fast([texts[number]], add_special_tokens=False)
                encoding.truncate(room)
                found[number] = backend.post_process(encoding, None, True).ids
        return found

    def encode_bare(self, texts: Sequence[str]) -> list[list[int]]:
        """Without the special tokens of single texts; those that a text spells are read as such."""
        return [encoding.ids for encoding in self._encodings(texts, len, add_special_tokens=False)]

    def encode_pairs(
        self, first: str, seconds: Sequence[str], *, max_length: int | None = None
    ) -> list[tuple[list[int], int | None]]:
        """``first`` with each of ``seconds``, joined by special tokens; and where the second's segment begins, if the
        model tells segments apart. Cut to ``max_length`` tokens, the longer text loses first."""
        pairs = [(first, second) for second in seconds]
        found = []
        for pair, encoding in zip(pairs, self._encodings(pairs, lambda pair: sum(map(len, pair))), strict=True):
            one = encoding
            if max_length is not None and len(encoding.ids) > max_length:
                one = self._cut_pair(*pair, max_length)
            found.append((one.ids, one.type_ids.index(1) if 1 in one.type_ids else None))
        return found

    def _cut_pair(self, first: str, second: str, max_length: int) -> Any:
        backend = self._tokenizer.backend_tokenizer
        one, two = backend.encode_batch_fast([first, second], add_special_tokens=False)
        room = max(0, max_length - backend.num_special_tokens_to_add(True))
        kept = min(len(two.ids), max(room - len(one.ids), room // 2))
        one.truncate(room - kept)
        two.truncate(kept)
        return backend.post_process(one, two, True)

    def _encodings(
        self, texts: Sequence[T], size: Callable[[T], int], *, add_special_tokens: bool = True
    ) -> Iterator[Any]:
        backend = self._tokenizer.backend_tokenizer
        for group in groups(texts, size, GROUP):
            yield from backend.encode_batch_fast(group, add_special_tokens=add_special_tokens)

    def cut(self, text: str, max_tokens: int) -> str:
        """The beginning of ``text``, of at most ``max_tokens`` tokens."""
        backend = self._tokenizer.backend_tokenizer
        (encoding,) = backend.encode_batch([self.beginning(text, max_tokens)], add_special_tokens=False)
        return text if len(encoding.ids) <= max_tokens else text[: encoding.offsets[max_tokens - 1][1]]

    def token_texts(self, token_ids: Sequence[int]) -> list[str | None]:
        """Tokens as the vocabulary spells them; None for a number that is no token."""
        return [self._tokenizer.backend_tokenizer.id_to_token(number) for number in token_ids]

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))

    def decode_known(self, token_ids: Sequence[int]) -> str:
        """As ``decode``. Raises InvalidRequest for a number that is no token, which that would leave out."""
        for number, text in zip(token_ids, self.token_texts(token_ids), strict=True):
            if text is None:
                raise InvalidRequest(f"tokens: {number} is no token of this model", param="tokens")
        return self.decode(token_ids)

    def token_id(self, text: str) -> int | None:
        """The one token that ``text`` is by itself, if it is one."""
        number: int | None = self._tokenizer.backend_tokenizer.token_to_id(text)
        return number

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        template_kwargs: dict[str, Any],
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> str:
        """The prompt text of a conversation. Raises what the template raises.

        ``template_kwargs`` are the template's own variables: a name that means something to transformers (another
        template, say) is an InvalidRequest.
        """
        render = self._tokenizer.apply_chat_template
        if taken := sorted(template_kwargs.keys() & inspect.signature(render).parameters.keys()):
            raise InvalidRequest(f"chat_template_kwargs: '{taken[0]}' cannot be set", param="chat_template_kwargs")
        return str(render(list(messages), tools=tools, tokenize=False, add_generation_prompt=True, **template_kwargs))

    def spell_out(self, grammar: str) -> str:
        """The grammar with text in it that looks like a special token spelled letter by letter: llguidance takes
        forced text for the special token and then refuses it."""
        spelled = any(token in grammar for token in self.special_tokens)
        return f'%llguidance {{"no_forcing": true}}\n{grammar}' if spelled else grammar

    def detokenizer(self, visible_token_ids: Collection[int] = (), after: Sequence[int] = ()) -> Detokenizer:
        """``visible_token_ids``: special tokens that are text all the same; ``after``: tokens whose text goes on."""
        return Detokenizer(self._tokenizer.backend_tokenizer, self._hidden_token_ids, visible_token_ids, after)


@contextlib.contextmanager
def _refused_surrogates() -> Iterator[None]:
    """Halves of surrogate pairs are no text."""
    try:
        yield
    except (UnicodeEncodeError, TypeError) as error:
        raise InvalidRequest(f"the text cannot be tokenized: {error}") from error


def processor_template(path: Path) -> str | None:
    """The template that older models with a processor (of images, say) keep in its files."""
    for name in ("chat_template.json", "processor_config.json"):
        template = read_json(path / name).get("chat_template")
        if isinstance(template, str):
            return template
    return None


def _chat_template(template: str | dict[str, str] | None) -> str | None:
    """The template that renders conversations; with several, the one for tools knows most."""
    if isinstance(template, dict):
        return template.get("tool_use") or template.get("default")
    return template


def _eos_token_ids(path: Path, own: int | None) -> tuple[int, ...]:
    """Every token that ends an answer, from the generation config, the model config and the tokenizer."""
    ids = set() if own is None else {own}
    for name in ("generation_config.json", "config.json"):
        value = read_json(path / name).get("eos_token_id")
        ids.update([value] if isinstance(value, int) else value or [])
    return tuple(sorted(ids))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no such file or it holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
