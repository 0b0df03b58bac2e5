"""LongCat-Flash: as GLM 4.5, in tags of its own; LongCat-Flash-Chat's first template has JSON between the same marks.

<longcat_tool_call>f
<longcat_arg_key>a</longcat_arg_key>
<longcat_arg_value>text</longcat_arg_value>
</longcat_tool_call>
"""

from __future__ import annotations

from quince.text.tool_parsers.hermes import JsonFormat
from quince.text.tool_parsers.tagged import Tags, element, plain
from quince.text.tool_parsers.tagged_format import TaggedFormat

_CALL = ("<longcat_tool_call>", "</longcat_tool_call>")


class LongCat(TaggedFormat):
    name = "longcat"
    markers = (
        *_CALL,
        "<longcat_arg_key>",
        "</longcat_arg_key>",
        "<longcat_arg_value>",
        "</longcat_arg_value>",
    )
    tags = Tags(
        section=(_CALL[0], ""),
        call=("", _CALL[1]),
        param=("<longcat_arg_key>", "</longcat_arg_value>"),
        call_heading=plain(),
        param_heading=element("</longcat_arg_key>", "<longcat_arg_value>"),
    )
    clues = (_CALL[0], "<longcat_arg_key>")
    call_text = "<longcat_tool_call>{}\n"
    param_text = "<longcat_arg_key>{}</longcat_arg_key>\n<longcat_arg_value>"
    between = "\n"


LONGCAT_JSON = JsonFormat("longcat_json", _CALL)
