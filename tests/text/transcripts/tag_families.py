"""Families whose arguments are turned into JSON."""

from __future__ import annotations

from tests.text.transcripts.model import Call, Transcript

STREET = "5 Rue\n\\d'Été </b> 🎁"
WEATHER = {"city": 'Zürich "}] {', "days": 3, "detailed": True, "unit": "celsius"}
SEND = {"to": {"street": STREET, "tags": ["a", "{b}"]}, "note": None, "weight": -1.5e3}
ADDRESS = '{"street": "5 Rue\\n\\\\d\'Été </b> 🎁", "tags": ["a", "{b}"]}'
TWO = (Call("get_weather", WEATHER), Call("send", SEND))
VALUES = [
    ("get_weather", [("city", 'Zürich "}] {'), ("days", "3"), ("detailed", "true"), ("unit", "celsius")]),
    ("send", [("to", ADDRESS), ("note", "null"), ("weight", "-1.5e3")]),
]


def _calls(call: str, param: str, end: str) -> list[str]:
    """``call`` and ``param`` with %s for name and value."""
    return [call % name + "".join(param % pair for pair in pairs) + end for name, pairs in VALUES]


_QWEN = _calls("<tool_call>\n<function=%s>\n", "<parameter=%s>\n%s\n</parameter>\n", "</function>\n</tool_call>")
QWEN = [
    Transcript("qwen3_coder", "text, two calls", "I look.\n" + "\n".join(_QWEN), "I look.", TWO),
    Transcript(
        "qwen3_coder",
        "without tool_call",
        "<function=get_weather>\n<parameter=city>\n\nX\n\n</parameter>\n</function>\n</tool_call>\nok",
        "ok",
        [Call("get_weather", {"city": "\nX\n"})],
    ),
    Transcript(
        "qwen3_coder", "no parameters", "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [Call("now", {})]
    ),
    Transcript(
        "qwen3_coder",
        "unknown tool, types by their looks",
        "<tool_call><function=f><parameter=a>1</parameter><parameter=b>x y</parameter>"
        "<parameter=c>{'k': None}</parameter></function></tool_call>",
        "",
        [Call("f", {"a": 1, "b": "x y", "c": {"k": None}})],
    ),
    Transcript(
        "qwen3_coder",
        "a number that looks like none, a flag as Python writes it",
        "<function=get_weather><parameter=city>12</parameter><parameter=days>soon</parameter>"
        "<parameter=detailed>True</parameter></function>",
        "",
        [Call("get_weather", {"city": "12", "days": "soon", "detailed": True})],
    ),
    Transcript(
        "qwen3_coder",
        "cut in a string",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nZür",
        "",
        [Call("get_weather", '{"city": "Zür')],
    ),
    Transcript(
        "qwen3_coder",
        "cut in a value",
        "<function=get_weather><parameter=city>\nX\n</parameter><parameter=days>\n1",
        "",
        [Call("get_weather", '{"city": "X", "days": ')],
    ),
    Transcript(
        "qwen3_coder",
        "not closed, then another",
        "<function=now>\n<function=now>\n</function>",
        "",
        [Call("now", {}), Call("now", {})],
    ),
    Transcript("qwen3_coder", "no call", "Use <function= and <tool_call>x", "Use <function= and <tool_call>x"),
    Transcript(
        "qwen3_coder", "JSON", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "", [Call("now", {})]
    ),
]

_GLM = _calls("<tool_call>%s\n", "<arg_key>%s</arg_key>\n<arg_value>%s</arg_value>\n", "</tool_call>")
_GLM47 = _calls("<tool_call>%s", "<arg_key>%s</arg_key><arg_value>%s</arg_value>", "</tool_call>")
GLM = [
    Transcript("glm45", "text, two calls", "\nI look.\n" + "\n".join(_GLM) + "\n", "\nI look.", TWO),
    Transcript("glm47", "two calls", "".join(_GLM47), "", TWO),
    Transcript("glm47", "no parameters", "<tool_call>now</tool_call>", "", [Call("now", {})]),
    Transcript("glm47", "no call", "A <tool_call> is a tag.", "A <tool_call> is a tag."),
    Transcript("glm47", "cut in the name", "<tool_call>get_wea", "<tool_call>get_wea"),
    Transcript("glm47", "JSON", '<tool_call>{"name": "now"}</tool_call>', "", [Call("now", {})]),
    Transcript(
        "glm47",
        "name, then JSON",
        '<tool_call>get_weather\n{"city": "X"}</tool_call>',
        "",
        [Call("get_weather", {"city": "X"})],
    ),
    Transcript(
        "longcat",
        "two calls",
        "Ok.\n"
        + "\n".join(
            _calls(
                "<longcat_tool_call>%s\n",
                "<longcat_arg_key>%s</longcat_arg_key>\n<longcat_arg_value>%s</longcat_arg_value>\n",
                "</longcat_tool_call>",
            )
        ),
        "Ok.",
        TWO,
    ),
]

_MINIMAX = _calls('<invoke name="%s">\n', '<parameter name="%s">%s</parameter>\n', "</invoke>\n")
_ATEM = _calls('<atem:invoke name="%s">\n', '<atem:parameter name="%s">%s</atem:parameter>\n', "</atem:invoke>\n")
INVOKE = [
    Transcript(
        "minimax_m2",
        "text, two calls",
        "Look:\n<minimax:tool_call>\n" + "".join(_MINIMAX) + "</minimax:tool_call>\n",
        "Look:",
        TWO,
    ),
    Transcript(
        "minimax_m2",
        "no call",
        "<minimax:tool_call>\n<invoke nome></invoke>\n</minimax:tool_call>",
        "<minimax:tool_call>\n<invoke nome></invoke>\n</minimax:tool_call>",
    ),
    Transcript(
        "muse_spark",
        "two calls",
        "<atem:function_calls>\n" + "".join(_ATEM) + "</atem:function_calls>",
        "",
        TWO,
    ),
    Transcript(
        "minicpm5",
        "two calls",
        "Ok " + "".join(_calls('<function name="%s">', '<param name="%s">%s</param>', "</function>")),
        "Ok",
        TWO,
    ),
    Transcript(
        "minicpm5",
        "CDATA, single quotes",
        "<function name='get_weather'><param name='city'><![CDATA[a<b>&\n</param>]]></param></function> ok",
        "ok",
        [Call("get_weather", {"city": "a<b>&\n</param>"})],
    ),
]

_K3 = '<|open|>tools<|sep|><|open|>call tool="a&amp;b" index="1"<|sep|>'
_K3_TWO = (
    '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
    '<|open|>argument key="city" type="string"<|sep|>Zürich "}] {<|close|>argument<|sep|>'
    '<|open|>argument key="days" type="number"<|sep|>3<|close|>argument<|sep|>'
    '<|open|>argument key="detailed" type="boolean"<|sep|>true<|close|>argument<|sep|>'
    '<|open|>argument key="unit" type="string"<|sep|>celsius<|close|>argument<|sep|><|close|>call<|sep|>'
    '<|open|>call tool="send" index="2"<|sep|>'
    f'<|open|>argument key="to" type="object"<|sep|>{ADDRESS}<|close|>argument<|sep|>'
    '<|open|>argument key="note" type="null"<|sep|>null<|close|>argument<|sep|>'
    '<|open|>argument key="weight" type="number"<|sep|>-1.5e3<|close|>argument<|sep|><|close|>call<|sep|>'
    "<|close|>tools<|sep|>"
)
KIMI_K3 = [
    Transcript("kimi_k3", "two calls", "On it." + _K3_TWO, "On it.", TWO),
    Transcript(
        "kimi_k3",
        "the tag's type",
        _K3 + '<|open|>argument key="x" type="string"<|sep|> 5 <|close|>argument<|sep|><|close|>call<|sep|>',
        "",
        [Call("a&b", {"x": " 5 "})],
    ),
    Transcript(
        "kimi_k3",
        "a JSON block",
        _K3
        + '<|open|>json type="object"<|sep|>{"x": [1]}<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>.',
        ".",
        [Call("a&b", {"x": [1]})],
    ),
]

_GEMMA = [
    'call:get_weather{city:@Zürich "}] {@,days:3,detailed:true,unit:@celsius@}',
    "call:send{note:null,to:{street:@" + STREET + "@,tags:[@a@,@{b}@]},weight:-1.5e3}",
]
GEMMA = [
    Transcript(
        "gemma4",
        "text, two calls",
        "Ok.\n" + "".join(f"<|tool_call>{call}<tool_call|>" for call in _GEMMA).replace("@", '<|"|>') + "\n",
        "Ok.",
        TWO,
    ),
    Transcript(
        "gemma4",
        "between one pair of marks, JSON strings",
        '<|tool_call>call:now{}call:get_weather{"city": "X\\n", days : 2}<tool_call|>',
        "",
        [Call("now", {}), Call("get_weather", {"city": "X\n", "days": 2})],
    ),
    Transcript("gemma4", "no call", "<|tool_call>call it", "<|tool_call>call it"),
    Transcript("gemma4", "broken", "<|tool_call>call:f{a:[1 2}<tool_call|>", "", [Call("f", '{"a": ["1 2"}')]),
    Transcript("gemma4", "cut", '<|tool_call>call:f{a:1,b:<|"|>so', "", [Call("f", '{"a": 1, "b": "so')]),
    Transcript(
        "function_gemma",
        "two calls",
        "".join(f"<start_function_call>{call}<end_function_call>" for call in _GEMMA).replace("@", "<escape>"),
        "",
        TWO,
    ),
    Transcript(
        "function_gemma",
        "a bare word",
        "<start_function_call>call:f{a:hello world,b:10:30}<end_function_call>",
        "",
        [Call("f", {"a": "hello world", "b": "10:30"})],
    ),
]

_LFM = "<|tool_call_start|>[%s]<|tool_call_end|>"
PYTHONIC = [
    Transcript(
        "pythonic",
        "text, two calls",
        "Ok."
        + _LFM
        % (
            'get_weather(city=\'Zürich "}] {\', days=3, detailed=True, unit="celsius"), '
            "send(to={'street': '5 Rue\\n\\\\d\\'Été </b> 🎁', \"tags\": ('a', '{b}',)}, note=None, weight=-1.5e3)"
        )
        + "\nDone.",
        "Ok.Done.",
        TWO,
    ),
    Transcript("pythonic", "no arguments, a dotted name", _LFM % "a.b()", "", [Call("a.b", {})]),
    Transcript(
        "pythonic",
        "JSON's names",
        _LFM % 'f(a={"x": null}, b=[true])',
        "",
        [Call("f", {"a": {"x": None}, "b": [True]})],
    ),
    Transcript(
        "pythonic",
        "a quote in a string",
        _LFM % "f(a='it's \"so\"', b='')",
        "",
        [Call("f", {"a": 'it\'s "so"', "b": ""})],
    ),
    Transcript(
        "pythonic",
        "escapes",
        _LFM % r"f(a='\x41\u00e9\ud83d\ude00\U0001F600\q\t')",
        "",
        [Call("f", {"a": "Aé😀😀\\q\t"})],
    ),
    Transcript("pythonic", "positional", _LFM % "f(3)", "", [Call("f", "3)]")]),
    Transcript("pythonic", "no call", "<|tool_call_start|>[1, 2]", "<|tool_call_start|>[1, 2]"),
    Transcript("pythonic", "cut", "<|tool_call_start|>[f(a='so", "", [Call("f", '{"a": "so')]),
]

TRANSCRIPTS = [*QWEN, *GLM, *INVOKE, *KIMI_K3, *GEMMA, *PYTHONIC]
