"""``<think>...</think>`` and the same between other marks.

A template may open the block itself, at the end of the prompt: then the answer begins inside it. Space around the
thinking is not part of it, newlines behind it are not content. A block that is never closed is all reasoning.
"""

from __future__ import annotations

from collections.abc import Sequence

from quince.text.reasoning_parsers.base import ReasoningFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.scan import Margin, Marks, Reader, Reading, Sink

MAX_NEWLINES = 2


class ThinkFormat(ReasoningFormat):
    """Thinking between two marks.

    ``tokens`` are the special tokens that the marks consist of, if they are not such tokens themselves. ``anywhere``:
    the marks are special tokens, so that one in the middle of an answer is one too; a mark that is plain text is one
    only where an answer begins. ``wrappers`` are marks around the rest of the answer that mean nothing to a reader;
    ``answer`` is the one that opens the answer's text after thinking.
    """

    def __init__(
        self,
        name: str,
        marks: tuple[str, str],
        *,
        tokens: Sequence[str] = (),
        anywhere: bool = False,
        wrappers: Sequence[str] = (),
        answer: str = "",
    ) -> None:
        self.name = name
        self.marks = marks
        self.markers = tuple(tokens) or (*marks, *wrappers)
        self.end_text = f"\n{marks[1]}\n\n" if not anywhere else marks[1] + answer
        self._open, self._close = marks
        self._anywhere = anywhere
        self._wrappers = tuple(wrappers)
        self._answer = answer

    def matches(self, template: str) -> bool:
        return self._open in template or self._close in template

    def opened(self, prompt_tail: str) -> bool:
        return prompt_tail.rstrip().endswith(self._open.rstrip())

    def closed(self, prompt_tail: str) -> bool:
        tail = prompt_tail.rstrip()
        return tail.endswith(self._close) or bool(self._answer and tail.endswith(self._answer))

    def read(self, reader: Reader, opened: bool) -> Reading[None]:
        if not opened:
            space = yield from reader.space()
            opened = bool((yield from reader.literal(self._open)))
            if not opened:
                reader.out.text(space)
        if opened:
            yield from self._blocks(reader)
        marks = Marks(*([self._open] if self._anywhere else []), *self._wrappers)
        text: Sink = reader.out.text
        while mark := (yield from reader.until(marks, text)):
            if mark == self._open:
                reader.out.reasoning("\n")
                yield from self._blocks(reader)

    def _blocks(self, reader: Reader) -> Reading[None]:
        """Inside a block: up to its end and the end of those that follow at once, and the newlines behind."""
        while True:
            thought = Margin(reader.out.reasoning, drop=True)
            yield from reader.space()
            yield from reader.literal(self._open)  # the template had opened it already
            if not (yield from reader.until(Marks(self._close), thought)):
                return
            yield from self._newlines(reader)
            if not (yield from reader.literal(self._open)):
                return
            reader.out.reasoning("\n")

    def _newlines(self, reader: Reader) -> Reading[None]:
        while (yield from reader.literal("\n", "\r\n")):
            pass

    def _prefix(self, rules: Rules, opened: bool, content: bool) -> str:
        answer = rules.literal(self._answer) if content and self._answer else ""
        block = f"{rules.text_before(self._close)} /\\n{{0,{MAX_NEWLINES}}}/"
        if opened:
            return f"{block} {answer}"
        return f"({rules.literal(self._open)} {block} {answer})?"
