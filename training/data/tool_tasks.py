"""A tool, a request in words, and the call that answers it."""

from dataclasses import dataclass
from random import Random
from string import Formatter
from typing import Any

from training.data.sample import Call, Split, Tool
from training.data.text import made_up, pick, sentence
from training.data.tool_shapes import SHAPES, Shape
from training.data.tool_values import KINDS, Kind, camel, invented_kind, new_tool_name, param_name, said


@dataclass(frozen=True)
class Task:
    tool: Tool
    request: str
    call: Call
    shape: str  # "" for a tool that exists nowhere else

    @property
    def name(self) -> str:
        return self.call.name


def property_schema(rng: Random, kind: Kind, described: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind.type, **kind.extra}
    if described and rng.random() < 0.8:
        schema["description"] = rng.choice(kind.describe)
        if rng.random() < 0.3:
            schema = {"description": schema.pop("description"), **schema}
    return schema


def tool_schema(rng: Random, name: str, description: str, properties: dict[str, Any], required: list[str]) -> Tool:
    """The variety in which clients write the same thing."""
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required or rng.random() < 0.3:
        parameters["required"] = required
    if rng.random() < 0.15:
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": name}
    if description:
        function["description"] = description + ("." if rng.random() < 0.3 else "")
    if rng.random() < 0.03:
        return {"type": "function", "function": function}
    function["parameters"] = parameters
    if rng.random() < 0.05:
        function["strict"] = rng.random() < 0.5
    return {"type": "function", "function": function}


def slots_of(template: str) -> list[str]:
    return [slot for _, slot, _, _ in Formatter().parse(template) if slot]


def slot_names(rng: Random, shape: Shape, split: Split) -> dict[str, str]:
    """What each slot's parameter is called. Fixed lists run in step, so that a goes with b and x with y."""
    at = rng.randrange(12)
    names: dict[str, str] = {}
    for slot, kind in shape.slots.items():
        fixed = (shape.fixed or {}).get(slot, "").split("|")
        names[slot] = fixed[at % len(fixed)] if fixed[0] else param_name(rng, KINDS[kind], split)
    if len(set(names.values())) < len(names):
        return slot_names(rng, shape, split)
    return names


def natural_task(rng: Random, split: Split, shape: Shape | None = None) -> Task:
    """One of the tools that people try first, asked for in a natural sentence."""
    shape = shape or rng.choice(SHAPES)
    tool_name, described_well = pick(rng, shape.names, split, 0.0), rng.random() < 0.92
    if split == "train" and rng.random() < 0.12:
        tool_name, described_well = "_".join(made_up(rng) for _ in range(rng.randint(1, 3))), True
    ask = pick(rng, shape.asks, split)
    names, used = slot_names(rng, shape, split), slots_of(ask)
    values = {slot: KINDS[kind].draw(rng, split) for slot, kind in shape.slots.items()}
    shown = [slot for slot in shape.slots if slot in used or rng.random() < 0.7]
    described = rng.random() < 0.7
    properties = {names[slot]: property_schema(rng, KINDS[shape.slots[slot]], described) for slot in shown}
    required = [names[slot] for slot in shown if slot in used and rng.random() < 0.85]
    description = rng.choice(shape.describe) if described_well else ""
    tool = tool_schema(rng, tool_name, description, properties, required)
    request = ask.format(**{slot: said(values[slot]) for slot in used})
    arguments = {names[slot]: values[slot] for slot in shown if slot in used}
    return Task(tool, request, Call(tool_name, arguments), shape.names[0])


GENERIC_FRAMES = (
    "{v} the {n} with {args}.", "Please {v} the {n} with {args}.", "{v} a {n} with {args}.",
    "I want to {v} a {n} with {args}.", "Can you {v} the {n} with {args}?", "{v} {n}: {args}", "{v} the {n}. {lines}",
    "Use {t} with {args}.", "Call {t} with {args}.", "I need you to {v} the {n}: {args}.",
    "{v} a {n} for me, {args}.", "{t}: {args}", "{v} the {n} using {args}.", "Could you {v} a {n}? {lines}",
    "Run {t} with {args}.",
    "Now let's {v} the {n}: {args}.", "Would you please {v} a {n}: {args}?", "Go {v} the {n} with {args}.",
    "I'd like you to {v} a {n}, {args}.", "We have to {v} the {n}. {lines}", "The {n}: {v} it with {args}.",
    "Time to {v} the {n} with {args}.", "~Would you {v} the {n} with {args}?", "~Let's {v} a {n} with {args}.",
    "~Go and {v} the {n}, {args}.", "~I'd like to {v} the {n} with {args}.",
)  # fmt: skip
BARE_FRAMES = (
    "{v} the {n}.",
    "Please {v} the {n}.",
    "{v} the {n} now.",
    "Can you {v} the {n}?",
    "I want to {v} the {n}.",
    "Call {t}.",
    "Use {t}.",
    "{v} {n}",
    "Let's {v} a {n}.",
    "Would you please {v} a {n}?",
    "Go {v} the {n}.",
    "~Would you {v} the {n}?",
    "~Go and {v} the {n}.",
)
DESCRIPTIONS = (
    "{v} a {n}",
    "{v} the {n}",
    "Tool to {v} a {n}",
    "Use this to {v} a {n}",
    "{v}s a {n}",
    "{v} the given {n}",
)


def mention(rng: Random, name: str, value: Any, style: int) -> str:
    plain = name.replace("_", " ")
    text = said(value)
    if isinstance(value, str) and rng.random() < 0.35:
        text = f'"{text}"'
    forms = (
        f"{plain} {text}",
        f"the {plain} {text}",
        f"{name} = {text}",
        f"{name}: {text}",
        f"{plain} set to {text}",
        f"{name} {text}",
        f"{name}={text}",
    )
    return forms[style]


def generic_task(rng: Random, split: Split) -> Task:
    """A tool that nobody ever saw: verb_noun with parameters of any kind, all named in the request."""
    tool_name, verb, noun = new_tool_name(rng, split)
    kinds = [
        rng.choice(tuple(KINDS.values())) if rng.random() < 0.6 else invented_kind(rng, split)
        for _ in range(rng.choice((0, 1, 1, 2, 2, 2, 3, 3, 4)))
    ]
    named = {param_name(rng, kind, split): kind for kind in kinds}
    used = [name for name in named if rng.random() < 0.88] or list(named)
    values = {name: named[name].draw(rng, split) for name in used}
    if rng.random() < 0.12:
        tool_name = camel(tool_name)
    elif rng.random() < 0.06:
        tool_name = f"{noun}_{verb}"
    described = rng.random() < 0.6
    properties = {name: property_schema(rng, kind, described) for name, kind in named.items()}
    description = sentence(rng.choice(DESCRIPTIONS).format(v=verb, n=noun)) if rng.random() < 0.8 else ""
    tool = tool_schema(rng, tool_name, description, properties, [name for name in used if rng.random() < 0.8])
    order, style = rng.sample(used, len(used)) if rng.random() < 0.3 else used, rng.randrange(7)
    said_args = [mention(rng, name, values[name], style) for name in order]
    args = (
        f"{', '.join(said_args[:-1])} and {said_args[-1]}"
        if len(said_args) > 1 and style not in (3, 6)
        else ", ".join(said_args)
    )
    lines = " ".join(sentence(f"{mention(rng, name, values[name], 3)}.") for name in order)
    frame = pick(rng, GENERIC_FRAMES if used else BARE_FRAMES, split)
    request = sentence(frame.format(v=verb, n=noun, t=tool_name, args=args, lines=lines))
    return Task(tool, request, Call(tool_name, {name: values[name] for name in named if name in values}), "")


def any_task(rng: Random, split: Split) -> Task:
    return natural_task(rng, split) if rng.random() < 0.5 else generic_task(rng, split)


def other_tools(rng: Random, split: Split, task: Task, count: int) -> list[Tool]:
    """Tools to choose from that do something else."""
    tools: list[Tool] = []
    names = {task.name}
    while len(tools) < count:
        other = any_task(rng, split)
        clash = other.shape and other.shape in task.shape
        if other.name in names or clash or same_family(other, task):
            continue
        names.add(other.name)
        tools.append(other.tool)
    return tools


FAMILIES = (
    {"sum_numbers", "product", "minus", "divide_numbers", "calc"}, {"mail", "text_message"}, {"web_search",
    "latest_news", "dictionary", "open_url", "restaurants"}, {"open_file", "shell"},
    {"remind", "todo", "add_event", "wake_up"}, {"current_time", "time_in_city"}, {"find_flight", "route"},
    {"order_status", "cancel", "buy"}, {"get_forecast", "set_thermostat"}, {"people_in", "web_search"},
    {"stock_price", "buy"}, {"exchange", "calc"}, {"translator", "dictionary"},
)  # fmt: skip


def same_family(one: Task, other: Task) -> bool:
    """Tools that a sentence would not tell apart. The four sums do differ by their words; calc stands alone."""
    pair = {one.shape, other.shape}
    if pair <= FAMILIES[0] and "calc" not in pair:
        return False
    return (len(pair) == 1 and one.shape != "") or any(pair <= family for family in FAMILIES)
