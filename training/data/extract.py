"""JSON out of a sentence: the keys that the instruction names, the values that the sentence holds."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from training.data.sample import Message, Sample, Split, dumps, system, user
from training.data.text import city, full_name, invented, joined, made_up, person, pick, some, word

Value = Any


@dataclass(frozen=True)
class Slot:
    """A piece of information: the keys it may be asked under, how it is drawn, and how it is said in a sentence."""

    keys: tuple[str, ...]
    kind: str  # JSON schema type
    draw: Callable[[Random, Split], Value]
    said: tuple[str, ...]


def email(rng: Random, split: Split) -> str:
    name, end = person(rng, split).lower(), rng.choice(("", ".", "_", str(rng.randint(1, 99))))
    host = rng.choice(("example.com", "example.org", "mail.test", invented(rng).lower() + ".com"))
    return f"{name}{end}@{host}"


def date(rng: Random, split: Split) -> str:
    del split
    return f"{rng.randint(1990, 2035)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def clock(rng: Random, split: Split) -> str:
    del split
    return f"{rng.randint(0, 23):02}:{rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)):02}"


def code(rng: Random, split: Split) -> str:
    del split
    return (
        f"{''.join(rng.choice('ABCDEFGHJKLMNPQRSTUVWXYZ') for _ in range(rng.randint(1, 3)))}-{rng.randint(10, 9999)}"
    )


SLOTS = (
    Slot(("name", "person", "first_name", "user"), "string", person, ("{v}",)),
    Slot(("age", "years", "age_years"), "integer", lambda r, s: r.randint(1, 99), ("is {v} years old", "is {v}",
    "is aged {v}", "turned {v} this week")),
    Slot(("city", "town", "location", "place", "home"), "string", city, ("lives in {v}", "comes from {v}",
    "is from {v}", "moved to {v}", "is based in {v}")),
    Slot(("job", "profession", "occupation", "role"), "string", lambda r, s: word(r, "jobs", s), ("works as a {v}",
    "is a {v}", "has the job of a {v}")),
    Slot(("hobby", "hobbies", "interest"), "string", lambda r, s: word(r, "hobbies", s), ("likes {v}", "enjoys {v}",
    "loves {v}", "spends weekends {v}")),
    Slot(("email", "mail", "email_address"), "string", email, ("can be reached at {v}", "has the email {v}",
    "uses the address {v}", "writes from {v}")),
    Slot(("colour", "color", "favourite_colour", "favorite_color"), "string", lambda r, s: word(r, "colours", s),
    ("likes the colour {v}", "has {v} as favourite colour", "prefers {v}")),
    Slot(("pet", "animal"), "string", lambda r, s: word(r, "animals", s), ("has a {v}", "owns a {v}", "walks a {v}")),
    Slot(("date", "birthday", "day"), "string", date, ("was born on {v}", "has a birthday on {v}", "arrives on {v}")),
    Slot(("time", "hour", "start"), "string", clock, ("comes at {v}", "starts at {v}", "is free at {v}")),
    Slot(("quantity", "count", "amount", "items"), "integer", lambda r, s: r.randint(2, 500), ("ordered {v} pieces",
    "bought {v} pieces", "wants {v} of them")),
    Slot(("price", "cost", "total", "sum"), "number", lambda r, s: round(r.uniform(1, 300), r.choice((1, 2))),
    ("paid {v} euros", "spent {v} dollars", "owes {v} euros")),
    Slot(("product", "item", "article", "food"), "string", lambda r, s: word(r, "foods", s), ("buys {v}", "sells {v}",
    "ordered some {v}", "asked for {v}")),
    Slot(("code", "id", "order_id", "ticket", "reference"), "string", code, ("has the number {v}",
    "used the code {v}", "sent the reference {v}")),
    Slot(("company", "employer", "firm"), "string", lambda r, s: invented(r) + r.choice(("", " Ltd", " GmbH",
    " Inc")), ("works for {v}", "is with {v}", "runs {v}")),
    Slot(("married", "is_married"), "boolean", lambda r, s: r.random() < 0.5, ("is {not}married",)),
    Slot(("languages", "speaks"), "array", lambda r, s: some(r, ("French", "German", "Spanish", "Italian", "Chinese",
    "Dutch", "Polish", "Arabic"), 1, 3), ("speaks {v}",)),
)  # fmt: skip

ORDER = (
    "Extract {k} as JSON: {t}", "Extract {k} from this text as JSON: {t}", "Give me JSON with {k}: {t}",
    "Return a JSON object with the keys {k}. {t}", "{t}\n\nReturn {k} as JSON.",
    "Turn this into JSON with the keys {k}: {t}", "Make a JSON object with {k} out of this sentence: {t}",
    "Read this and answer with JSON only, keys {k}.\n{t}", "JSON with {k} please: {t}",
    "{t} Extract {k} as a JSON object.", "Text: {t}\nKeys: {k}\nJSON:", "Extract the fields {k} as JSON.\n\n{t}",
    "Convert to JSON ({k}): {t}", 'Extract {k} as JSON from "{t}"', "Fill in {k} as JSON: {t}",
    "From the following sentence, extract {k} and return them as JSON: {t}", "Give me a JSON object with {k} for: {t}",
    "Put {k} into JSON: {t}", "{t}\nAnswer in JSON with {k}.", "What are the {k} in this text? Answer as JSON: {t}",
    "Write {k} as JSON. {t}", "Parse this into JSON with the keys {k}: {t}", "Produce JSON with {k} from: {t}",
    "Here is a text: {t}\nGive me {k} as a JSON object.", "Find {k} in this text and answer in JSON: {t}",
    "I need {k} as JSON from this: {t}", "Make JSON ({k}) out of this: {t}",
    "Collect {k} from the text as a JSON object: {t}", "{t}\nJSON with {k}:", "Pull {k} out of this as JSON: {t}",
    "Which {k} does the text name? JSON only. {t}",
    "~Please produce a JSON object with the fields {k} from this: {t}", "~{t}\nPut {k} into a JSON object.",
    "~What are {k} here? Answer in JSON. {t}", "~Parse into JSON with keys {k}: {t}",
)  # fmt: skip
RULES = (
    "Extract {k} from the user's text. Answer with JSON only.", "You turn sentences into JSON with the keys {k}.",
    "Return a JSON object with the keys {k}. No other text.", "Answer only in JSON. Keys: {k}.",
    "You are an extraction assistant. Output JSON with {k}.", "Reply with a JSON object that has the fields {k}.",
    "~Your output is a JSON object with the keys {k} and nothing else.", "~Read the text and give back JSON: {k}.",
)  # fmt: skip
SCHEMA_RULES = (
    "Answer in JSON that follows this schema: {s}", "Respond with a JSON object matching this JSON schema:\n{s}",
    "Output JSON only. Schema: {s}",
    "Here is the JSON schema of your answer:\n{s}", "~Your answer must be valid JSON under this schema:\n{s}",
)  # fmt: skip


def said(rng: Random, slot: Slot, value: Value) -> str:
    text = joined(value) if isinstance(value, list) else str(value)
    return rng.choice(slot.said).format(v=text, **{"not": "" if value is True else "not "})


def describe(rng: Random, facts: list[tuple[Slot, Value]]) -> str:
    """The facts as one or several sentences about a person, in a random order."""
    subject = str(facts[0][1])
    clauses = [said(rng, slot, value) for slot, value in rng.sample(facts[1:], len(facts) - 1)]
    if rng.random() < 0.5 or len(clauses) > 3:
        pronoun = rng.choice(("He", "She", "They", subject))
        cut = rng.randint(1, len(clauses))
        text = f"{subject} {joined(clauses[:cut])}."
        return text + (f" {pronoun} {joined(clauses[cut:])}." if clauses[cut:] else "")
    return f"{subject} {joined(clauses)}."


def keys_text(rng: Random, keys: list[str]) -> str:
    form = rng.random()
    if form < 0.5:
        return joined(keys)
    if form < 0.7:
        return ", ".join(keys)
    return joined([f"`{key}`" if form < 0.85 else f'"{key}"' for key in keys])


def schema(rng: Random, asked: list[tuple[str, Slot]]) -> str:
    kinds = {
        key: {"type": slot.kind, **({"items": {"type": "string"}} if slot.kind == "array" else {})}
        for key, slot in asked
    }
    body: dict[str, Any] = {"type": "object", "properties": kinds}
    if rng.random() < 0.7:
        body["required"] = list(kinds)
    if rng.random() < 0.3:
        body["additionalProperties"] = False
    return dumps(body)


def generate(rng: Random, split: Split) -> Sample:
    used = [SLOTS[0], *some(rng, SLOTS[1:], 1, 5)]
    facts = [(slot, slot.draw(rng, split)) for slot in used]
    if rng.random() < 0.4:
        facts[0] = (SLOTS[0], full_name(rng, split))
    text = describe(rng, facts)
    wanted = some(rng, facts, 1, len(facts)) if rng.random() < 0.5 else facts
    asked = [(rng.choice(slot.keys), slot, value) for slot, value in wanted]
    if rng.random() < 0.12:
        absent = rng.choice([slot for slot in SLOTS if slot not in used])
        asked.insert(rng.randint(0, len(asked)), (rng.choice(absent.keys), absent, None))
    if rng.random() < 0.15:
        asked = [(invented_key(rng, key), slot, value) for key, slot, value in asked]
    answer = {key: value for key, _, value in asked}
    keys = keys_text(rng, [key for key, _, _ in asked])
    form = rng.random()
    messages: list[Message]
    if form < 0.62:
        messages = [user(pick(rng, ORDER, split).format(k=keys, t=text))]
    elif form < 0.82:
        messages = [system(pick(rng, RULES, split).format(k=keys)), user(text)]
    else:
        messages = [
            system(pick(rng, SCHEMA_RULES, split).format(s=schema(rng, [(key, slot) for key, slot, _ in asked]))),
            user(text),
        ]
    return Sample(
        "json",
        messages,
        dumps(answer),
        thought=f"I need the keys {joined(list(answer))}.",
        system_free=messages[0]["role"] != "system",
    )


def invented_key(rng: Random, key: str) -> str:
    """The same key with a prefix or in another style."""
    words_ = key.split("_")
    if rng.random() < 0.3:
        return f"{made_up(rng)}_{key}"
    return rng.choice(
        (
            f"person_{key}",
            f"the_{key}",
            words_[0] + "".join(w.capitalize() for w in words_[1:]),
            key.upper(),
            key.capitalize(),
        )
    )
