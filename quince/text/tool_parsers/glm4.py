"""GLM 4.5 and later, Poolside Laguna: ``<tool_call>f<arg_key>a</arg_key><arg_value>text</arg_value></tool_call>``.

GLM 4.5 and 4.6 put a newline behind every tag but the value's own, 4.7 and Laguna none.
"""

from __future__ import annotations

import re

from quince.text.tool_parsers.tagged import Tags, element, plain
from quince.text.tool_parsers.tagged_format import TaggedFormat

_SPACED = re.compile(r"</arg_key>(\n|\\n)")


class Glm47(TaggedFormat):
    name = "glm47"
    aliases: tuple[str, ...] = ("laguna",)
    markers = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    tags = Tags(
        section=("<tool_call>", ""),
        call=("", "</tool_call>"),
        param=("<arg_key>", "</arg_value>"),
        call_heading=plain(),
        param_heading=element("</arg_key>", "<arg_value>"),
    )
    clues = ("<arg_key>",)
    call_text = "<tool_call>{}"
    param_text = "<arg_key>{}</arg_key><arg_value>"
    newline = ""


class Glm45(Glm47):
    name = "glm45"
    aliases = ("glm4", "glm46")
    call_text = "<tool_call>{}\n"
    param_text = "<arg_key>{}</arg_key>\n<arg_value>"
    newline = "\n"
    between = "\n"

    def matches(self, template: str) -> bool:
        return _SPACED.search(template) is not None
