"""Muse Spark and Muse Glimmer (ATEM): ``<atem:invoke name="f">`` in ``<atem:function_calls>``.

The call stands in a message of its own, ``to=f<|message|>``, which may be the last of several; the reasoning parser
takes the messages apart.
"""

from __future__ import annotations

from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.tagged import Tags, attributes
from quince.text.tool_parsers.tagged_format import TaggedFormat


class MuseSpark(TaggedFormat):
    name = "muse_spark"
    aliases = ("atem",)
    markers = ("<atem:function_calls>", "</atem:function_calls>")
    tags = Tags(
        section=("<atem:function_calls>", "</atem:function_calls>"),
        call=("<atem:invoke ", "</atem:invoke>"),
        param=("<atem:parameter ", "</atem:parameter>"),
        call_heading=attributes("name"),
        param_heading=attributes("name"),
    )
    clues = ("<atem:function_calls>",)
    call_text = '<atem:function_calls>\n<atem:invoke name="{}">\n'
    param_text = '<atem:parameter name="{}">'
    closing = "\n</atem:function_calls>"
    several = False  # a message has one recipient

    def call_head(self, rules: Rules, name: str) -> str:
        return f"{rules.literal(f' to={name}<|message|>')} {super().call_head(rules, name)}"
