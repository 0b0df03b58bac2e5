"""Tool conversations: one call, several, calls in sequence, results turned into answers, and no call at all."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from training.data import capitals, everyday, extract, manual, memory, talk
from training.data.sample import Call, Message, Sample, Split, Tool, assistant, calls_message, calls_text, dumps, user
from training.data.text import as_typed, city, invented, joined, pick, sentence, statement, word
from training.data.tool_shapes import SHAPES
from training.data.tool_tasks import Task, any_task, generic_task, natural_task, other_tools, slots_of
from training.data.tool_values import KINDS, decimal, said, small
from training.data.unknown import LIVE

NO_FIT = (
    "get_forecast",
    "current_time",
    "stock_price",
    "find_flight",
    "mail",
    "text_message",
    "latest_news",
    "restaurants",
    "start_timer",
    "lights",
    "order_status",
    "start_music",
    "reserve",
)
RESULT_KEYS = (
    "temperature",
    "condition",
    "status",
    "price",
    "total",
    "name",
    "time",
    "wind",
    "humidity",
    "id",
    "city",
    "count",
    "result",
    "unit",
    "title",
    "date",
    "balance",
    "speed",
    "size",
    "location",
    "value",
    "~distance",
    "~rating",
    "~forecast",
    "~score",
)
ALSO = (
    "{a} {b}",
    "{a} Also, {b}",
    "{a} And {b}",
    "{a}\n{b}",
    "Two things: {a} {b}",
    "{a} Then also: {b}",
    "Do both of these: {a} {b}",
    "{a} I want this in addition: {b}",
    "Both please: {a} {b}",
    "Please do both of these: {a} {b}", "I want both: {a} {b}", "In addition to this: {a} do this: {b}",
    "{a} And in addition to that, {b}", "{a} Besides, {b}", "{a} Moreover, {b}", "Please do this: {a} And this: {b}",
    "~{a} In addition, {b}",
    "~Please do both: {a} {b}",
)  # fmt: skip
THEN = (
    "First: {a} Then: {b}",
    "{a} After that, {b}",
    "{a} When that is done, {b}",
    "First {a} Then {b}",
    "Do this first: {a} And then this: {b}",
    "{a} Do this afterwards: {b}", "{a} With the result there, {b}", "Begin with this: {a} Then do this: {b}",
    "{a} Then {b}", "{a} Only then: {b}", "{a} Once that is done, {b}", "{a} When you have the result: {b}",
    "{a} As soon as you have it, {b}", "Start with this: {a} Then go on with this: {b}", "{a} Next: {b}",
    "{a} Once done: {b}", "First of all: {a} Afterwards: {b}", "~Start with this: {a} Afterwards: {b}",
    "~{a} Once you have the result, {b}",
)  # fmt: skip
FORWARD = (
    "First: {a} Then send the {k} to {p}.",
    "{a} Then tell {p} the {k}.",
    "{a} After that, send {p} the {k}.",
    "{a} Then message {p} the {k}.", "{a} Then inform {p} about the {k}.", "{a} Let {p} know what the {k} is.",
    "{a} Afterwards tell {p} the {k}.", "~{a} Then let {p} know the {k}.",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a tool gave back, and how the answer puts it."""

    content: str
    answer: str
    values: dict[str, Any]


def lower_first(text: str) -> str:
    return text if text[:2].isupper() or text.startswith("I ") else text[:1].lower() + text[1:]


def result_value(rng: Random, split: Split) -> Any:
    return rng.choice(
        (
            small,
            small,
            decimal,
            lambda r, s: word(r, "adjectives", s),
            lambda r, s: invented(r),
            city,
            lambda r, s: f"{word(r, 'adjectives', s)} {word(r, 'nouns', s)}",
        )
    )(rng, split)


def result_key(rng: Random, split: Split) -> str:
    if rng.random() < 0.6:
        return pick(rng, RESULT_KEYS, split, 0.0)
    noun = word(rng, "nouns", split)
    return f"{word(rng, 'adjectives', split)}_{noun}" if rng.random() < 0.3 else noun


def described(values: dict[str, Any]) -> str:
    return sentence(joined([f"the {key.replace('_', ' ')} is {said(value)}" for key, value in values.items()])) + "."


def object_result(rng: Random, split: Split) -> Result:
    values = {result_key(rng, split): result_value(rng, split) for _ in range(rng.randint(1, 4))}
    content = {rng.choice(("result", "data", "output", "current")): values} if rng.random() < 0.08 else values
    return Result(dumps(content), described(values), values)


def result(rng: Random, split: Split) -> Result:
    form = rng.random()
    if form < 0.55:
        return object_result(rng, split)
    if form < 0.65:
        value = result_value(rng, split)
        return Result(said(value), f"The result is {said(value)}.", {"result": value})
    if form < 0.75:
        text = statement(rng, split) + "."
        return Result(text, text, {})
    if form < 0.87:
        items = [word(rng, "nouns", split) for _ in range(rng.randint(0, 4))]
        answer = (
            "There are no results."
            if not items
            else f"The result is {items[0]}."
            if len(items) == 1
            else f"The results are {joined(items)}."
        )
        return Result(dumps({"results": items} if rng.random() < 0.5 else items), answer, {})
    if form < 0.94:
        reason = rng.choice(
            (
                f"{word(rng, 'nouns', split)} not found",
                f"no such {word(rng, 'nouns', split)}",
                "timeout",
                "permission denied",
                f"the {word(rng, 'nouns', split)} is {word(rng, 'adjectives', split)}",
            )
        )
        return Result(dumps({"error": reason}), f"The tool failed: {reason}.", {})
    return Result(
        rng.choice(('{"success": true}', '{"ok": true}', '{"done": true}', "ok", "OK", "done", "null", "", "{}")),
        "Done.",
        {},
    )


def tool_list(rng: Random, split: Split, tasks: list[Task], most: int = 4) -> list[Tool]:
    """The tools of the tasks and others, in any order."""
    mine = {task.name: task.tool for task in tasks}
    count = rng.choice((0, 0, 1, 2, most)) if len(mine) == 1 else rng.choice((0, 1, 2))
    tools = [
        *mine.values(),
        *(tool for tool in other_tools(rng, split, tasks[0], count) if tool["function"]["name"] not in mine),
    ]
    return rng.sample(tools, len(tools))


def call_sample(skill: str, rng: Random, messages: list[Message], calls: list[Call], tools: list[Tool]) -> Sample:
    """The answer is one or more calls; now and then a server has forced its beginning."""
    names = joined(list(dict.fromkeys(call.name for call in calls)))
    answer, prefix = calls_text(calls), ""
    if rng.random() < 0.06:
        prefix = (
            "<tool_call>\n" if rng.random() < 0.5 else answer[: answer.index(', "arguments":') + len(', "arguments":')]
        )
    return Sample(skill, messages, answer, tools=tools, thought=f"I call {names}.", prefix=prefix)


def before(rng: Random, split: Split, task: Task) -> list[Message]:
    """Earlier turns: small questions, or a call of the same tool that is already answered."""
    roll = rng.random()
    if roll < 0.80:
        return []
    if roll < 0.9:
        return memory.filler(rng, split)
    again = natural_task(rng, split) if task.shape else generic_task(rng, split)
    outcome = result(rng, split)
    return [
        user(again.request),
        calls_message([again.call]),
        {"role": "tool", "content": outcome.content},
        assistant(outcome.answer),
    ]


def one_call(rng: Random, split: Split) -> Sample:
    task = generic_task(rng, split)
    messages = [*before(rng, split, task), user(task.request)]
    return call_sample("tool call", rng, messages, [task.call], tool_list(rng, split, [task]))


def common_call(rng: Random, split: Split) -> Sample:
    task = natural_task(rng, split)
    request = as_typed(rng, task.request, keep_case=True)
    if not request.endswith(task.request[-2:]) and not task.request.endswith(("?", ".")):
        request = task.request
    messages = [*before(rng, split, task), user(request)]
    return call_sample("common tools", rng, messages, [task.call], tool_list(rng, split, [task]))


def same_tool_twice(rng: Random, split: Split) -> Sample:
    """Weather in Paris and Rome: one tool, one call per value."""
    shapes = [shape for shape in SHAPES if "city" in shape.slots or "zone" in shape.slots or "symbol" in shape.slots]
    shape = rng.choice(
        [
            shape
            for shape in shapes
            if len(shape.slots) <= 2 and "src" not in shape.slots and "cuisine" not in shape.slots
        ]
    )
    slot = next(name for name in shape.slots if name in ("city", "zone", "symbol"))
    task = natural_task(rng, split, shape)
    while (
        len(slots_of(task.request))
        or len(task.call.arguments) != 1
        or (slot == "city" and "," in str(next(iter(task.call.arguments.values()))))
    ):
        task = natural_task(rng, split, shape)
    (name, first), draw = next(iter(task.call.arguments.items())), KINDS[shape.slots[slot]].draw
    values = [first]
    while len(values) < rng.choice((2, 2, 2, 3)):
        value = draw(rng, split)
        if value not in values and "," not in value:
            values.append(value)
    request = task.request.replace(
        str(first), joined(values, rng.choice(("and", "and", "and in" if f"in {first}" in task.request else "and")))
    )
    calls = [Call(task.name, {name: value}) for value in values]
    return call_sample("two calls", rng, [user(request)], calls, tool_list(rng, split, [task]))


def two_calls(rng: Random, split: Split) -> Sample:
    if rng.random() < 0.45:
        return same_tool_twice(rng, split)
    one, other = any_task(rng, split), any_task(rng, split)
    if one.name == other.name:
        return two_calls(rng, split)
    request = pick(rng, ALSO, split).format(a=ended(one.request), b=ended(other.request))
    return call_sample("two calls", rng, [user(request)], [one.call, other.call], tool_list(rng, split, [one, other]))


def ended(request: str) -> str:
    return request if request.endswith((".", "?", "!")) else request + "."


def answered(rng: Random, split: Split) -> Sample:
    """The results are there: put them into words."""
    task = any_task(rng, split)
    if rng.random() < 0.8:
        outcome = result(rng, split)
        messages = [user(task.request), calls_message([task.call]), {"role": "tool", "content": outcome.content}]
        return Sample(
            "tool result", messages, outcome.answer, tools=tool_list(rng, split, [task]), thought="The result is here."
        )
    sample = two_calls(rng, split)
    calls = [part for part in sample.answer.split("</tool_call>") if part.strip()]
    outcomes = [object_result(rng, split) for _ in calls]
    messages = [
        *sample.messages,
        {"role": "assistant", "content": "", "tool_calls": parse_blocks(calls)},
        *({"role": "tool", "content": o.content} for o in outcomes),
    ]
    return Sample(
        "tool result",
        messages,
        " ".join(o.answer for o in outcomes),
        tools=sample.tools,
        thought="The results are here.",
    )


def parse_blocks(blocks: list[str]) -> list[dict[str, Any]]:
    bodies = [json.loads(block.split("<tool_call>\n")[1]) for block in blocks]
    return [{"type": "function", "function": body} for body in bodies]


def in_sequence(rng: Random, split: Split) -> Sample:
    """First one tool, then another: call, result, call, result, answer. The sample ends at one of the three steps."""
    one, first = any_task(rng, split), object_result(rng, split)
    if rng.random() < 0.4:
        shape = next(shape for shape in SHAPES if shape.names[0] == "text_message")
        other = natural_task(rng, split, shape)
        while len(other.call.arguments) != 2:
            other = natural_task(rng, split, shape)
        key, (who, text) = rng.choice(list(first.values)), tuple(other.call.arguments)
        person_ = other.call.arguments[who]
        other = Task(other.tool, "", Call(other.name, {who: person_, text: said(first.values[key])}), other.shape)
        request = pick(rng, FORWARD, split).format(a=ended(one.request), k=key.replace("_", " "), p=person_)
    else:
        other = any_task(rng, split)
        request = pick(rng, THEN, split).format(a=ended(one.request), b=ended(lower_first(other.request)))
    if one.name == other.name:
        return in_sequence(rng, split)
    tools = tool_list(rng, split, [one, other])
    messages = [user(request)]
    step = rng.randrange(3)
    if step == 0:
        return call_sample("two steps", rng, messages, [one.call], tools)
    messages += [calls_message([one.call]), {"role": "tool", "content": first.content}]
    if step == 1:
        return call_sample("two steps", rng, messages, [other.call], tools)
    second = result(rng, split)
    messages += [calls_message([other.call]), {"role": "tool", "content": second.content}]
    return Sample(
        "two steps", messages, f"{first.answer} {second.answer}", tools=tools, thought="Both results are here."
    )


def no_call(rng: Random, split: Split) -> Sample:
    """Tools are there, but the question needs none of them, or one that is not there."""
    if rng.random() < 0.3:
        shapes = [shape for shape in SHAPES if shape.names[0] in NO_FIT]
        task = natural_task(rng, split, rng.choice(shapes)) if rng.random() < 0.6 else generic_task(rng, split)
        tools = other_tools(rng, split, task, rng.randint(1, 4))
        return Sample("tool not needed", [user(task.request)], LIVE, tools=tools, thought="None of my tools does this.")
    skill = rng.choice(
        (
            capitals.generate,
            everyday.colours,
            everyday.days,
            everyday.facts,
            manual.generate,
            talk.generate,
            talk.say,
            memory.generate,
            extract.generate,
        )
    )
    sample = skill(rng, split)
    dummy = Task({}, "", Call("", {}), "web_search")
    tools = other_tools(rng, split, dummy, rng.randint(1, 4))
    return Sample(
        "tool not needed",
        sample.messages,
        sample.answer,
        tools=tools,
        thought=sample.thought,
        system_free=sample.system_free,
    )
