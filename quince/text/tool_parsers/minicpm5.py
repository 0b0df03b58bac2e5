"""MiniCPM5: ``<function name="f"><param name="a">text</param></function>``, nothing around several.

Its template puts a value with ``<``, ``&`` or a newline in it between ``<![CDATA[`` and ``]]>``.
"""

from __future__ import annotations

from quince.text.tool_parsers.tagged import Tags, attributes
from quince.text.tool_parsers.tagged_format import TaggedFormat


class MiniCpm5(TaggedFormat):
    name = "minicpm5"
    markers = ("<function", "</function>", "<param", "</param>")
    tags = Tags(
        section=("", ""),
        call=("<function ", "</function>"),
        param=("<param ", "</param>"),
        call_heading=attributes("name"),
        param_heading=attributes("name"),
        cdata=True,
    )
    clues = ('<function name="', '<param name="')
    call_text = '<function name="{}">'
    param_text = '<param name="{}">'
    newline = ""
