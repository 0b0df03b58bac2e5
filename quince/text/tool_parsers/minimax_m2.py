"""MiniMax M2: ``<invoke name="f"><parameter name="a">text</parameter></invoke>`` in ``<minimax:tool_call>``."""

from __future__ import annotations

from quince.text.tool_parsers.tagged import Tags, attributes
from quince.text.tool_parsers.tagged_format import TaggedFormat


class MiniMaxM2(TaggedFormat):
    name = "minimax_m2"
    markers = ("<minimax:tool_call>", "</minimax:tool_call>")
    tags = Tags(
        section=("<minimax:tool_call>", "</minimax:tool_call>"),
        call=("<invoke ", "</invoke>"),
        param=("<parameter ", "</parameter>"),
        call_heading=attributes("name"),
        param_heading=attributes("name"),
    )
    clues = ("<minimax:tool_call>",)
    opening = "<minimax:tool_call>\n"
    call_text = '<invoke name="{}">\n'
    param_text = '<parameter name="{}">'
    between = "\n"
    closing = "\n</minimax:tool_call>"
