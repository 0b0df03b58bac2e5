"""Tool calls: one file per model family, chosen from the chat template."""

from __future__ import annotations

from collections.abc import Collection

from quince.text.tool_parsers.base import Tool, ToolFormat, chain
from quince.text.tool_parsers.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from quince.text.tool_parsers.function_gemma import FUNCTION_GEMMA
from quince.text.tool_parsers.gemma4 import GEMMA4
from quince.text.tool_parsers.glm4 import Glm45, Glm47
from quince.text.tool_parsers.grammar import Grammar
from quince.text.tool_parsers.harmony import Harmony
from quince.text.tool_parsers.hermes import HERMES, NEMOTRON, PHI4_MINI
from quince.text.tool_parsers.kimi_k2 import KimiK2
from quince.text.tool_parsers.kimi_k3 import KimiK3
from quince.text.tool_parsers.llama3 import Llama3
from quince.text.tool_parsers.longcat import LONGCAT_JSON, LongCat
from quince.text.tool_parsers.minicpm5 import MiniCpm5
from quince.text.tool_parsers.minimax_m2 import MiniMaxM2
from quince.text.tool_parsers.mistral import MISTRAL, MISTRAL_LIST
from quince.text.tool_parsers.muse_spark import MuseSpark
from quince.text.tool_parsers.pythonic import Pythonic
from quince.text.tool_parsers.qwen3_coder import Qwen3Coder
from quince.text.tool_parsers.registry import Registry

__all__ = ["FORMATS", "Grammar", "Tool", "ToolFormat", "chain", "detect", "get"]

_REGISTRY: Registry[ToolFormat] = Registry(
    "tool",
    (
        Harmony(),
        MuseSpark(),
        KimiK3(),
        KimiK2(),
        MiniMaxM2(),
        GEMMA4,
        FUNCTION_GEMMA,
        LongCat(),
        LONGCAT_JSON,
        Glm45(),
        Glm47(),
        Pythonic(),
        Qwen3Coder(),
        MiniCpm5(),
        MISTRAL,
        MISTRAL_LIST,
        DEEPSEEK_V3,
        DEEPSEEK_V31,
        NEMOTRON,
        PHI4_MINI,
        HERMES,
        Llama3(),
    ),
    {
        "kimi_k3": ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
        "pythonic": ("<|tool_call_start|>", "<|tool_call_end|>"),
    },
)

FORMATS = _REGISTRY.formats


def detect(template: str, special_tokens: Collection[str] = ()) -> ToolFormat | None:
    """The format that a chat template is written for; failing that, the one whose tokens the vocabulary has."""
    return _REGISTRY.detect(template, special_tokens)


def get(name: str) -> ToolFormat:
    """Raises UsageError for a name that is neither a format's nor an alias of one."""
    return _REGISTRY.get(name)
