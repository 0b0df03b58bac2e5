"""What a request may say: grammars (by llguidance) and thinking budgets.

Thread rules: grammars are compiled on one worker thread; on another, constraints take the tokens that were said (see
token_masks). The engine thread touches constraints only when that one is done.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from quince.sampling import SamplingParams, ThinkingBudget

MAX_CACHED_SIZE = 2**20  # characters of the grammars that are remembered: a matcher takes about 100 bytes for each
MAX_MESSAGE = 300

Bits = npt.NDArray[np.int32]


class GrammarCompiler:
    """Compiles grammars for one vocabulary and remembers the last ones."""

    def __init__(self, tokenizer_file: Path, vocab_size: int, done: Callable[[], None] = lambda: None) -> None:
        """``tokenizer_file`` is a tokenizer.json, read when the first grammar comes. ``done`` is called, on another
        thread, whenever a grammar is compiled or refused."""
        self._done = done
        self._tokenizer_file = tokenizer_file
        self._vocab_size = vocab_size
        self._tokenizers: dict[tuple[int, ...], LLTokenizer] = {}
        self._compiled: OrderedDict[tuple[str, tuple[int, ...]], LLMatcher] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def compile(self, sampling: SamplingParams) -> Future[LLMatcher]:
        """A matcher at the start of ``sampling.grammar``, or ValueError that says what is wrong with it."""
        future = self._thread.submit(self._compile, sampling)
        future.add_done_callback(lambda _: self._done())
        return future

    def _compile(self, sampling: SamplingParams) -> LLMatcher:
        key = (sampling.grammar or "", sampling.stop_token_ids)
        matcher = self._compiled.get(key)
        if matcher is None:
            matcher = LLMatcher(self._tokenizer(sampling.stop_token_ids), key[0], log_level=0)
            if matcher.is_error():
                raise ValueError(brief(matcher.get_error()))
            self._compiled[key] = matcher
            while sum(len(grammar) for grammar, _ in self._compiled) > MAX_CACHED_SIZE and len(self._compiled) > 1:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return matcher.deep_copy()

    def _tokenizer(self, stop_token_ids: tuple[int, ...]) -> LLTokenizer:
        """The vocabulary, as wide as the logits; what ends an answer is only allowed where the grammar may end."""
        if stop_token_ids not in self._tokenizers:
            if not self._tokenizer_file.is_file():
                raise ValueError(f"the model has no {self._tokenizer_file.name}")
            self._tokenizers[stop_token_ids] = LLTokenizer(
                str(self._tokenizer_file), n_vocab=self._vocab_size, eos_token=list(stop_token_ids)
            )
        return self._tokenizers[stop_token_ids]


def brief(error: str) -> str:
    """llguidance's message without its listing of the parser's state and of the grammar."""
    return re.split(r"\n?<(?:state|grammar|backtrace)>|\n   1 \|", error)[0].strip()[:MAX_MESSAGE]


class Constraint:
    """What one request may say next, given what it has said."""

    def __init__(self, matcher: LLMatcher | None, budget: ThinkingBudget | None) -> None:
        self.matcher = matcher
        self._budget = budget
        self._thinking = None if budget is None else _Thinking(budget)

    def restart(self, token_ids: Iterable[int]) -> None:
        """The request begins again, having said these tokens."""
        if self.matcher is not None:
            self.matcher.reset()
        self._thinking = None if self._budget is None else _Thinking(self._budget)
        for token_id in token_ids:
            self.advance(token_id)

    def advance(self, token_id: int) -> str | None:
        """The request has said this token. What is wrong, if the grammar cannot go on."""
        if self._thinking is not None:
            self._thinking.advance(token_id)
        if self.matcher is None:
            return None
        if not self.matcher.is_stopped():
            self.matcher.consume_token(token_id)
        # Also if it was in the middle of computing a mask that llguidance came upon a limit.
        return brief(self.matcher.get_error()) if self.matcher.is_error() else None

    def restrict(self, bits: Bits) -> None:
        """``bits`` (one row) holds what the grammar allows: leave only what the thinking budget forces, if anything.

        Where the grammar forbids that, thinking is over already or there can be none.
        """
        token_id = None if self._thinking is None else self._thinking.forced
        if token_id is None:
            return
        word, bit = divmod(token_id, 32)
        if bits[word] >> bit & 1:
            bits[:] = 0
            bits[word] = np.array(1 << bit, dtype=np.uint32).view(np.int32)


class _Thinking:
    """waiting for the opening token -> counting -> saying the end -> over; the closing token ends it at any time."""

    def __init__(self, budget: ThinkingBudget) -> None:
        self._budget = budget
        self._open = budget.open_token_id is None
        self._count = 0
        self._said = 0  # tokens of the forced end
        self._over = False

    @property
    def forced(self) -> int | None:
        if self._over or not self._open or self._count < self._budget.max_tokens:
            return None
        return self._budget.end_token_ids[self._said]

    def advance(self, token_id: int) -> None:
        if self._over:
            return
        if self.forced == token_id:
            self._said += 1
            self._over = self._said == len(self._budget.end_token_ids)
        elif token_id == self._budget.close_token_id or self._said:
            self._over = True
        elif self._open:
            self._count += 1
        else:
            self._open = token_id == self._budget.open_token_id
