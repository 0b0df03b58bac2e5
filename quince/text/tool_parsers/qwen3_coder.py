"""Qwen3-Coder, Qwen3.5 and later: each call ``<function=f>`` in ``<tool_call>``, each value on lines of its own.

    <tool_call>
    <function=f>
    <parameter=a>
    value
    </parameter>
    </function>
    </tool_call>

The models are known to leave out ``<tool_call>``: a function without it is a call too.
"""

from __future__ import annotations

from quince.text.tool_parsers.tagged import Tags, plain
from quince.text.tool_parsers.tagged_format import TaggedFormat


class Qwen3Coder(TaggedFormat):
    name = "qwen3_coder"
    markers = ("<tool_call>", "</tool_call>")
    tags = Tags(
        section=("<tool_call>", "</tool_call>"),
        call=("<function=", "</function>"),
        param=("<parameter=", "</parameter>"),
        call_heading=plain(">"),
        param_heading=plain(">"),
        verbatim=False,
    )
    clues = ("<function=", "<parameter=", "<tool_call>")
    call_text = "<tool_call>\n<function={}>\n"
    param_text = "<parameter={}>"
    call_end = "</function>\n</tool_call>"
    around = "\n"
    between = "\n"
