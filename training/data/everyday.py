"""Colours, days, months and a handful of facts that everybody asks."""

from random import Random

from training.data.sample import Sample, Split, user
from training.data.text import as_typed, load_toml, pick, sentence

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December"]  # fmt: skip
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth"]  # fmt: skip

COLOUR_ASK = (
    "What colour {v} {t}?", "What color {v} {t}?", "Which colour {v} {t}?", "Which color do {t} have?",
    "Tell me the colour of {t}.", "What is the color of {t}?",
    "the colour of {t}?", "what's the colour of {t}?", "What color do you think {t} {v}?",
    "Do you know what colour {t} {v}?", "Name the colour of {t}.",
    "Tell me what colour {t} {v}.", "Which colour has {t}?", "What is the color of {t} usually?",
    "~Can you tell me what color {t} {v}?", "~Which color {v} {t}?", "~What is the colour of {t}?",
)  # fmt: skip
MIX_ASK = (
    "What do you get when you mix {a} and {b}?", "What colour do {a} and {b} make?", "Mix {a} and {b}.",
    "What color is {a} and {b} mixed?",
    "{a} plus {b} makes which colour?", "If I mix {a} with {b}, what colour do I get?",
    "What happens when I mix {a} paint with {b} paint?",
    "Which colour comes from {a} and {b}?", "What is {a} mixed with {b}?", "Combine {a} with {b}.",
    "What colour do I get when I combine {a} and {b}?", "Which color do I get from {a} with {b}?",
    "{a} and {b} together make which colour?", "Put {a} and {b} together: what colour is it?",
    "~What color do I get from {a} and {b}?", "~Combine {a} and {b}: which colour is that?",
)  # fmt: skip
AFTER = (
    "What day comes after {d}?", "Which {k} comes after {d}?", "What {k} follows {d}?", "Which {k} is after {d}?",
    "What is the {k} after {d}?",
    "What's the next {k} after {d}?", "After {d} comes which {k}?", "Name the {k} after {d}.",
    "~Which {k} follows {d}?", "~Tell me the {k} that comes after {d}.",
)  # fmt: skip
BEFORE = (
    "Which {k} comes before {d}?", "What {k} is before {d}?", "What is the {k} before {d}?",
    "Which {k} is right before {d}?", "Before {d} comes which {k}?",
    "Name the {k} before {d}.", "What {k} precedes {d}?", "~Which {k} precedes {d}?",
    "~Tell me the {k} that comes before {d}.",
)  # fmt: skip
SHIFT = (
    "Today is {d}. What day is it in {n} days?", "If today is {d}, what day is it in {n} days?",
    "It is {d}. Which day is it {n} days from now?",
    "What day is {n} days after {d}?", "Which day is {n} days after {d}?",
    "~It's {d} today. What day will it be in {n} days?",
)  # fmt: skip
TOMORROW = (
    "Today is {d}. What day is tomorrow?", "If today is {d}, what is tomorrow?",
    "It's {d} today. What day is tomorrow?", "~Today is {d}. Which day is tomorrow?",
)  # fmt: skip
YESTERDAY = (
    "Today is {d}. What day was yesterday?", "If today is {d}, what was yesterday?",
    "It's {d} today. What day was yesterday?", "~Today is {d}. Which day was yesterday?",
)  # fmt: skip
LENGTH = (
    "How many days does {m} have?", "How many days are in {m}?", "How long is {m}?", "How many days has {m}?",
    "Number of days in {m}?", "~How many days are there in {m}?",
)  # fmt: skip
NUMBER = (
    "Which month is number {n}?", "What is the {o} month?", "What is the {o} month of the year?",
    "Name the {o} month.", "~Which month is the {o}?",
)  # fmt: skip
DAY_NUMBER = (
    "What is the {o} day of the week?",
    "Which day of the week is the {o}?",
    "Name the {o} day of the week.",
    "~Which is the {o} day of the week?",
)


def colour(rng: Random, split: Split) -> tuple[str, str]:
    data = load_toml("facts.toml")
    if rng.random() < 0.65:
        thing, verb, shade = rng.choice(data["colours"])
        answer = f"{sentence(thing)} {verb} {shade}."
        return pick(rng, COLOUR_ASK, split).format(t=thing, v=verb), answer
    a, b, mixed = rng.choice(data["mixes"])
    if rng.random() < 0.5:
        a, b = b, a
    return sentence(pick(rng, MIX_ASK, split).format(a=a, b=b)), f"{sentence(a)} and {b} make {mixed}."


def day(rng: Random, split: Split) -> tuple[str, str]:
    at = rng.randrange(7)
    name, form = DAYS[at], rng.randrange(6)
    if form == 0:
        return pick(rng, AFTER, split).format(d=name, k="day"), f"{DAYS[(at + 1) % 7]} comes after {name}."
    if form == 1:
        return pick(rng, BEFORE, split).format(d=name, k="day"), f"{DAYS[at - 1]} comes before {name}."
    if form == 2:
        n = rng.randint(2, 10)
        return pick(rng, SHIFT, split).format(d=name, n=n), f"{n} days after {name} is {DAYS[(at + n) % 7]}."
    if form == 3:
        return pick(rng, TOMORROW, split).format(d=name), f"Tomorrow is {DAYS[(at + 1) % 7]}."
    if form == 4:
        return pick(rng, YESTERDAY, split).format(d=name), f"Yesterday was {DAYS[at - 1]}."
    return pick(rng, DAY_NUMBER, split).format(o=ORDINALS[at]), f"The {ORDINALS[at]} day of the week is {name}."


def month(rng: Random, split: Split) -> tuple[str, str]:
    at = rng.randrange(12)
    name, form = MONTHS[at], rng.randrange(4)
    if form == 0:
        return pick(rng, AFTER[1:], split).format(d=name, k="month"), f"{MONTHS[(at + 1) % 12]} comes after {name}."
    if form == 1:
        return pick(rng, BEFORE, split).format(d=name, k="month"), f"{MONTHS[at - 1]} comes before {name}."
    if form == 2:
        extra = ", and 29 in a leap year" if at == 1 else ""
        return pick(rng, LENGTH, split).format(m=name), f"{name} has {LENGTHS[at]} days{extra}."
    return pick(rng, NUMBER, split).format(n=at + 1, o=ORDINALS[at]), f"The {ORDINALS[at]} month is {name}."


def fact(rng: Random, split: Split) -> tuple[str, str]:
    entries = load_toml("facts.toml")["fact"]
    if split == "eval":
        entries = [entry for entry in entries if any(ask.startswith("~") for ask in entry["ask"])]
    entry = rng.choice(entries)
    return pick(rng, tuple(entry["ask"]), split), entry["answer"]


def colours(rng: Random, split: Split) -> Sample:
    question, answer = colour(rng, split)
    return Sample("colours", [user(as_typed(rng, question))], answer, thought=f"A question about colours. {answer}")


def days(rng: Random, split: Split) -> Sample:
    question, answer = (day if rng.random() < 0.6 else month)(rng, split)
    return Sample("days", [user(as_typed(rng, question))], answer, thought=f"A question about the calendar. {answer}")


def facts(rng: Random, split: Split) -> Sample:
    question, answer = fact(rng, split)
    return Sample("facts", [user(as_typed(rng, question))], answer, thought=f"I know this one. {answer}")
