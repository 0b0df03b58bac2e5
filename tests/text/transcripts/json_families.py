"""Families whose arguments are JSON text."""

from __future__ import annotations

from tests.text.transcripts.model import Call, Transcript

TRICKY = {"city": 'Zürich "}]</tool_call> {', "days": 3, "detailed": True}
TRICKY_TEXT = '{"city": "Zürich \\"}]</tool_call> {", "days": 3, "detailed": true}'
NESTED = {"to": {"street": "5 Rue\n\\d'Été 🎁", "tags": ["a", "{b}"]}, "note": None, "weight": -1.5e3}
NESTED_TEXT = '{"to":{"street":"5 Rue\\n\\\\d\'Été 🎁","tags":["a","{b}"]},"note":null,"weight":-1.5e3}'
TWO = (Call("get_weather", TRICKY), Call("send", NESTED))


def _call(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def _hermes(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


HERMES = [
    Transcript("hermes", "text only", "Hello <b>world</b>, a < b.\n", "Hello <b>world</b>, a < b.\n"),
    Transcript(
        "hermes",
        "text, two calls",
        "Let me look.\n\n" + _hermes(_call("get_weather", TRICKY_TEXT)) + "\n" + _hermes(_call("send", NESTED_TEXT)),
        "Let me look.",
        TWO,
    ),
    Transcript("hermes", "empty arguments", _hermes(_call("now", "{}")), "", [Call("now", {})]),
    Transcript("hermes", "no arguments", _hermes('{"name": "now"}'), "", [Call("now", {})]),
    Transcript("hermes", "null arguments", _hermes('{"name": "now", "arguments": null}'), "", [Call("now", {})]),
    Transcript("hermes", "text after", _hermes(_call("now", "{}")) + "\n\nDone. ", "Done. ", [Call("now", {})]),
    Transcript(
        "hermes",
        "arguments in a string",
        _hermes(_call("get_weather", '"{\\"city\\": \\"\\u65e5\\ud83d\\ude00\\"}"')),
        "",
        [Call("get_weather", {"city": "日😀"})],
    ),
    Transcript(
        "hermes",
        "parameters",
        _hermes(_call("get_weather", '{"city": "X"}', "parameters")),
        "",
        [Call("get_weather", {"city": "X"})],
    ),
    Transcript(
        "hermes",
        "name last",
        '<tool_call>{"arguments": {"city": "X"}, "name": "get_weather"}</tool_call>',
        "",
        [Call("get_weather", {"city": "X"})],
    ),
    Transcript("hermes", "unknown name", _hermes(_call("other", '{"x": 1}')), "", [Call("other", {"x": 1})]),
    Transcript("hermes", "never closed", '<tool_call>{"name": "now", "arguments": {}}', "", [Call("now", {})]),
    Transcript(
        "hermes",
        "a bracket missing",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "X"}\n</tool_call> ok',
        "ok",
        [Call("get_weather", {"city": "X"})],
    ),
    Transcript(
        "hermes",
        "arguments that are no JSON",
        '<tool_call>{"name": "get_weather", "arguments": {\'city\': \'X\'}}\n</tool_call>',
        "",
        [Call("get_weather", "{'city': 'X'}")],
    ),
    Transcript(
        "hermes",
        "cut in the arguments",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Zür',
        "",
        [Call("get_weather", '{"city": "Zür')],
    ),
    Transcript("hermes", "cut in the name", 'Hm <tool_call>\n{"name": "get_', 'Hm <tool_call>\n{"name": "get_'),
    Transcript(
        "hermes",
        "not a call, then a call",
        "A <tool_call> is a tag. " + _hermes(_call("now", "{}")),
        "A <tool_call> is a tag.",
        [Call("now", {})],
    ),
    Transcript(
        "hermes", "no name", '<tool_call>{"arguments": {}}</tool_call>', '<tool_call>{"arguments": {}}</tool_call>'
    ),
    Transcript("hermes", "cut in the mark", "Text <tool_", "Text <tool_"),
    Transcript(
        "nemotron",
        "a list",
        "<TOOLCALL>[" + _call("get_weather", TRICKY_TEXT) + ", " + _call("send", NESTED_TEXT) + "]</TOOLCALL>",
        "",
        TWO,
    ),
    Transcript(
        "phi4_mini",
        "a list",
        "Sure. <|tool_call|>[" + _call("now", "{}") + "]<|/tool_call|>",
        "Sure.",
        [Call("now", {})],
    ),
    Transcript(
        "longcat_json",
        "one",
        "<longcat_tool_call>\n" + _call("send", NESTED_TEXT) + "\n</longcat_tool_call>",
        "",
        [Call("send", NESTED)],
    ),
]

LLAMA = [
    Transcript("llama3", "one", _call("get_weather", TRICKY_TEXT, "parameters"), "", [Call("get_weather", TRICKY)]),
    Transcript(
        "llama3",
        "several",
        "\n" + _call("get_weather", TRICKY_TEXT, "parameters") + "; " + _call("send", NESTED_TEXT, "parameters"),
        "",
        TWO,
    ),
    Transcript(
        "llama3",
        "tag, type first",
        '<|python_tag|>{"type": "function", "name": "other", "parameters": {"a": 1}}',
        "",
        [Call("other", {"a": 1})],
    ),
    Transcript("llama3", "an answer in JSON", '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}'),
    Transcript("llama3", "an answer with a list", "[1, 2] is a list", "[1, 2] is a list"),
    Transcript("llama3", "text", "The brace { is one. ", "The brace { is one. "),
    Transcript(
        "llama3",
        "function tag",
        "I look.\n<function=get_weather>" + TRICKY_TEXT + "</function>",
        "I look.",
        [Call("get_weather", TRICKY)],
    ),
    Transcript(
        "llama3",
        "pythonic",
        "[get_weather(city='X', days=2), now()]",
        "",
        [Call("get_weather", {"city": "X", "days": 2}), Call("now", {})],
    ),
    Transcript(
        "llama3",
        "Llama 4's marks",
        "<|python_start|>" + _call("now", "{}", "parameters") + "<|python_end|> ok",
        "ok",
        [Call("now", {})],
    ),
]

_ID = "a1B2c3D4e"
MISTRAL = [
    Transcript(
        "mistral_list",
        "a list",
        "[TOOL_CALLS] [" + _call("get_weather", TRICKY_TEXT) + ", " + _call("send", NESTED_TEXT) + "]",
        "",
        TWO,
    ),
    Transcript(
        "mistral_list",
        "id first",
        f'[TOOL_CALLS][{{"id": "{_ID}", "name": "now", "arguments": {{}}}}]',
        "",
        [Call("now", {}, _ID)],
    ),
    Transcript("mistral_list", "not a call", "[TOOL_CALLS] [1, 2]", "[TOOL_CALLS] [1, 2]"),
    Transcript(
        "mistral",
        "several",
        f"On it.[TOOL_CALLS]get_weather[ARGS]{TRICKY_TEXT}[TOOL_CALLS]send[ARGS]{NESTED_TEXT}",
        "On it.",
        TWO,
    ),
    Transcript(
        "mistral",
        "with ids",
        f"[TOOL_CALLS]now[CALL_ID]{_ID}[ARGS]{{}}[TOOL_CALLS]now[CALL_ID]{_ID}[ARGS]{{}}",
        "",
        [Call("now", {}, _ID), Call("now", {})],
    ),
    Transcript(
        "mistral",
        "one mark for several, no mark for arguments",
        '[TOOL_CALLS]get_weather{"city": "X"} now[ARGS]{}',
        "",
        [Call("get_weather", {"city": "X"}), Call("now", {})],
    ),
    Transcript("mistral", "not a call", "[TOOL_CALLS] is a mark", "[TOOL_CALLS] is a mark"),
    Transcript("mistral", "cut", '[TOOL_CALLS]send[ARGS]{"to": {"str', "", [Call("send", '{"to": {"str')]),
]

_BEGIN, _ARG, _END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
KIMI = [
    Transcript(
        "kimi_k2",
        "text, two calls",
        f"Looking.<|tool_calls_section_begin|>{_BEGIN}functions.get_weather:0{_ARG}{TRICKY_TEXT}{_END}"
        f"{_BEGIN}functions.send:1{_ARG}{NESTED_TEXT}{_END}<|tool_calls_section_end|>",
        "Looking.",
        [Call("get_weather", TRICKY, "functions.get_weather:0"), Call("send", NESTED, "functions.send:1")],
    ),
    Transcript(
        "kimi_k2",
        "spaces, a dotted name, no section",
        f"{_BEGIN} a.b:12 {_ARG} {{}} {_END} after",
        "after",
        [Call("a.b", {}, "a.b:12")],
    ),
    Transcript("kimi_k2", "no calls", "<|tool_calls_section_begin|>oops", "<|tool_calls_section_begin|>oops"),
    Transcript(
        "kimi_k2",
        "arguments that are no JSON",
        f"{_BEGIN}functions.now:0{_ARG}oops }}{_END}",
        "",
        [Call("now", "oops }", "functions.now:0")],
    ),
]

_DS, _DE = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
DEEPSEEK = [
    Transcript(
        "deepseek_v31",
        "two calls",
        f"Ok<｜tool▁calls▁begin｜>{_DS}get_weather<｜tool▁sep｜>{TRICKY_TEXT}{_DE}"
        f"{_DS}send<｜tool▁sep｜>{NESTED_TEXT}{_DE}<｜tool▁calls▁end｜>",
        "Ok",
        TWO,
    ),
    Transcript(
        "deepseek_v3",
        "two calls",
        f"<｜tool▁calls▁begin｜>{_DS}function<｜tool▁sep｜>get_weather\n```json\n{TRICKY_TEXT}\n```{_DE}\n"
        f"{_DS}function<｜tool▁sep｜>send\n```json\n{NESTED_TEXT}\n```{_DE}<｜tool▁calls▁end｜>",
        "",
        TWO,
    ),
]

_HEAD = "<|channel|>commentary to=functions."
HARMONY = [
    Transcript(
        "harmony",
        "one call",
        f"{_HEAD}get_weather <|constrain|>json<|message|>{TRICKY_TEXT}<|call|>",
        "",
        [Call("get_weather", TRICKY)],
    ),
    Transcript(
        "harmony",
        "recipient first",
        f"<|start|>assistant to=functions.send<|channel|>commentary json<|message|>{NESTED_TEXT}",
        "",
        [Call("send", NESTED)],
    ),
    Transcript("harmony", "not JSON", f"{_HEAD}now<|message|>oops<|call|>", "", [Call("now", "oops")]),
    Transcript("harmony", "text", "Hello <|channel|> x", "Hello <|channel|> x"),
]

TRANSCRIPTS = [*HERMES, *LLAMA, *MISTRAL, *KIMI, *DEEPSEEK, *HARMONY]
