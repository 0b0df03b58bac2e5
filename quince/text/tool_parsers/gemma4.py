"""Gemma 4: ``<|tool_call>call:f{a:<|"|>text<|"|>}<tool_call|>``."""

from __future__ import annotations

from quince.text.tool_parsers.gemma import Gemma

GEMMA4 = Gemma("gemma4", ("<|tool_call>", "<tool_call|>"), '<|"|>')
