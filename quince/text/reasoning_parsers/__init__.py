"""Reasoning: one format per way of marking it, chosen from the chat template."""

from __future__ import annotations

from collections.abc import Collection

from quince.text.reasoning_parsers.base import ReasoningFormat
from quince.text.reasoning_parsers.channels import HarmonyChannels, MuseMessages
from quince.text.reasoning_parsers.think import ThinkFormat
from quince.text.tool_parsers.kimi_k3 import CLOSE, END, OPEN, RESPONSE, KimiK3
from quince.text.tool_parsers.registry import Registry

__all__ = ["FORMATS", "ReasoningFormat", "detect", "get"]


class _KimiK3Think(ThinkFormat):
    """Kimi K3's template builds its marks from parts."""

    def matches(self, template: str) -> bool:
        return KimiK3().matches(template)


_KIMI_K3 = _KimiK3Think(
    "kimi_k3",
    (f"{OPEN}think{END}", f"{CLOSE}think{END}"),
    tokens=(OPEN, CLOSE, END, "<|end_of_msg|>"),
    anywhere=True,
    wrappers=(*RESPONSE, f"{CLOSE}message{END}", "<|end_of_msg|>"),
    answer=RESPONSE[0],
)

_GEMMA4 = ThinkFormat("gemma4", ("<|channel>thought", "<channel|>"), tokens=("<|channel>", "<channel|>"), anywhere=True)
_GEMMA4.marks = ("<|channel>", "<channel|>")  # each a token; it has no other channel

_REGISTRY: Registry[ReasoningFormat] = Registry(
    "reasoning",
    (
        HarmonyChannels(),
        MuseMessages(),
        _KIMI_K3,
        _GEMMA4,
        ThinkFormat("mistral", ("[THINK]", "[/THINK]"), anywhere=True),
        ThinkFormat(
            "cohere",
            ("<|START_THINKING|>", "<|END_THINKING|>"),
            anywhere=True,
            wrappers=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
            answer="<|START_RESPONSE|>",
        ),
        ThinkFormat("seed", ("<seed:think>", "</seed:think>")),
        ThinkFormat("longcat", ("<longcat_think>", "</longcat_think>")),
        ThinkFormat("think_tokens", ("<|think:start|>", "<|think:end|>"), anywhere=True),
        ThinkFormat("think", ("<think>", "</think>")),
    ),
    {
        "kimi_k3": ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
        "think": ("<think>", "</think>"),
    },
)

FORMATS = _REGISTRY.formats


def detect(template: str, special_tokens: Collection[str] = ()) -> ReasoningFormat | None:
    """The format that a chat template is written for; failing that, the one whose tokens the vocabulary has."""
    return _REGISTRY.detect(template, special_tokens)


def get(name: str) -> ReasoningFormat:
    """Raises UsageError for a name that is neither a format's nor an alias of one."""
    return _REGISTRY.get(name)
