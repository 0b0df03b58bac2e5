"""Answers that begin with thinking. Calls are still text here: the tool parser comes behind."""

from __future__ import annotations

from tests.text.transcripts.model import Transcript

_CALL = '<tool_call>{"name": "now"}</tool_call>'
THINK = [
    Transcript(
        "think", "a block", "<think>\nHm, 3 < 4.\n\nSo.\n</think>\n\nHi.\n", "Hi.\n", reasoning="Hm, 3 < 4.\n\nSo."
    ),
    Transcript("think", "opened", "Hm.\n</think>\n\nHi.", "Hi.", reasoning="Hm.", opened=True),
    Transcript("think", "opened twice", "\n<think>\nHm.</think>Hi.", "Hi.", reasoning="Hm.", opened=True),
    Transcript("think", "never closed", "<think>Hm. \n", reasoning="Hm."),
    Transcript("think", "opened, never closed", "Hm. </thin", reasoning="Hm. </thin", opened=True),
    Transcript("think", "no block", "\n Hi. <think> is a tag. ", "\n Hi. <think> is a tag. "),
    Transcript("think", "an empty block", "<think>\n\n</think>\n\n  code", "  code"),
    Transcript("think", "two blocks", "<think>a</think>\n<think>b</think>c", "c", reasoning="a\nb"),
    Transcript("think", "a call", f"<think>a</think>\n{_CALL}", _CALL, reasoning="a"),
    Transcript("think", "only space behind", "<think>a</think>\n\n", reasoning="a"),
    Transcript("seed", "a block", "<seed:think>a</seed:think>b", "b", reasoning="a"),
    Transcript("longcat", "a block", "<longcat_think>\na\n</longcat_think>\nb", "b", reasoning="a"),
    Transcript("think_tokens", "a block", "<|think:start|>a<|think:end|>b", "b", reasoning="a"),
    Transcript("mistral", "a block", "[THINK]a[/THINK]b", "b", reasoning="a"),
    Transcript("gemma4", "a block", "<|channel>thought\na\n<channel|>b", "b", reasoning="a"),
    Transcript("gemma4", "in the middle", "b <|channel>thought\na\n<channel|>c", "b c", reasoning="\na"),
    Transcript(
        "cohere",
        "wrapped",
        "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>",
        "b",
        reasoning="a",
    ),
    Transcript(
        "kimi_k3",
        "opened, response, calls",
        "a<|close|>think<|sep|><|open|>response<|sep|>b<|close|>response<|sep|><|open|>tools<|sep|>"
        "<|close|>message<|sep|>",
        "b<|open|>tools<|sep|>",
        reasoning="a",
        opened=True,
    ),
]

_TOOL = '<|channel|>commentary to=functions.now <|constrain|>json<|message|>{"a": 1}'
HARMONY = [
    Transcript(
        "harmony",
        "analysis, final",
        "<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant<|channel|>final<|message|>Hi. <|return|>",
        "Hi. ",
        reasoning="Hm.",
    ),
    Transcript(
        "harmony",
        "analysis, preamble, call",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>Wait.<|end|>"
        f"<|start|>assistant{_TOOL}<|call|>",
        f"Wait.<|start|>assistant{_TOOL}<|call|>",
        reasoning="a",
    ),
    Transcript("harmony", "call without its end", _TOOL, _TOOL),
    Transcript(
        "harmony",
        "recipient in front",
        "<|start|>assistant to=functions.f<|channel|>analysis<|message|>{}<|call|>",
        "<|start|>assistant to=functions.f<|channel|>analysis<|message|>{}<|call|>",
    ),
    Transcript(
        "harmony",
        "analysis twice, end left out",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|start|>assistant"
        "<|channel|>final<|message|>c",
        "c",
        reasoning="a\nb",
    ),
    Transcript("harmony", "cut in a header", "<|channel|>anal"),
    Transcript("harmony", "no channels", "Hi there", "Hi there"),
    Transcript("harmony", "no header", "<|channel|>x<|end|>y", "<|channel|>x<|end|>y"),
]

_ATEM = '<atem:function_calls>\n<atem:invoke name="now">\n</atem:invoke>\n</atem:function_calls>'
MUSE = [
    Transcript(
        "muse_spark",
        "self, user",
        " to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Hi to=you.<|eot|>",
        "Hi to=you.",
        reasoning="Hm.",
    ),
    Transcript(
        "muse_spark",
        "self, commentary, call",
        " to=self<|message|>Hm.<|eom|><|start|>assistant to=commentary<|message|>Wait.<|eom|>"
        f"<|start|>assistant to=now<|message|>{_ATEM}<|eot|>",
        f"Wait.{_ATEM}",
        reasoning="Hm.",
    ),
    Transcript("muse_spark", "no messages", "Set x to=5", "Set x to=5"),
]

TRANSCRIPTS = [*THINK, *HARMONY, *MUSE]
