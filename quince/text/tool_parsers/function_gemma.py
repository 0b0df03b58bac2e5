"""FunctionGemma: ``<start_function_call>call:f{a:<escape>text<escape>}<end_function_call>``."""

from __future__ import annotations

from quince.text.tool_parsers.gemma import Gemma

FUNCTION_GEMMA = Gemma("function_gemma", ("<start_function_call>", "<end_function_call>"), "<escape>")
