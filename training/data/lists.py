"""Long answers that must be exactly right: counting, the alphabet, times tables, countries."""

from random import Random

from training.data.capitals import countries
from training.data.everyday import DAYS, MONTHS
from training.data.sample import Sample, Split, user
from training.data.text import as_typed, held_out, pick

COUNT = (
    "Count from {a} to {b}.", "Count to {b} from {a}.", "Can you count from {a} to {b}?",
    "List the numbers from {a} to {b}.", "Write the numbers {a} to {b}.",
    "Print the numbers from {a} to {b}.", "Please count from {a} to {b}", "count from {a} up to {b}",
    "Give me the numbers from {a} to {b}.", "Recite the numbers from {a} to {b}.",
    "Write down the numbers from {a} to {b}.", "All numbers from {a} to {b}, please.",
    "Could you list the numbers {a} to {b}?", "~Could you count from {a} to {b}?",
    "~Write down all numbers from {a} to {b}.",
)  # fmt: skip
COUNT_TO = (
    "Count to {b}.",
    "Count up to {b}.",
    "Can you count to {b}?",
    "count to {b} please",
    "Please count to {b}.",
    "Recite the numbers up to {b}.",
    "~Please count up to {b}.",
)
COUNT_DOWN = (
    "Count down from {b}.",
    "Count down from {b} to {a}.",
    "Count backwards from {b} to {a}.",
    "countdown from {b}",
    "Can you count backwards from {b} to {a}?", "Please count down from {b} to {a}.",
    "Could you count down from {b}?", "~Can you count down from {b} to {a}?",
)  # fmt: skip
COUNT_BY = (
    "Count from {a} to {b} by {s}.",
    "Count by {s} from {a} to {b}.",
    "Count from {a} to {b} in steps of {s}.",
    "~Count in steps of {s} from {a} to {b}.",
)
TABLE = (
    "Write the times table of {n}.",
    "Give me the {n} times table.",
    "Show the multiplication table of {n}.",
    "The {n} times table, please.",
    "Say the {n} times table.",
    "Recite the times table of {n}.",
    "~Recite the {n} times table.",
)
FIXED = (
    (("Say the alphabet.", "List the letters of the alphabet.", "Write the alphabet.", "What is the alphabet?",
    "Recite the alphabet.", "Tell me the letters of the alphabet.", "Give me the alphabet.",
    "~Tell me the alphabet."), ", ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
    (("List the days of the week.", "Name the days of the week.", "What are the days of the week?",
    "Tell me the days of the week.", "Recite the week days.", "List the days.", "~Recite the days of the week."),
    ", ".join(DAYS)),
    (("List the months.", "Name the months of the year.", "What are the months?", "List the months of the year.",
    "Tell me the months.", "Recite the names of the months.", "Name the months.", "~Recite the months."),
    ", ".join(MONTHS)),
)  # fmt: skip
COUNTRIES = (
    "List the countries.",
    "List the countries you know.",
    "Which countries do you know?",
    "List all countries.",
    "Name all the countries.",
    "Give me a list of countries.",
    "Tell me the countries you know.",
    "Tell me all the countries.",
    "~Tell me all countries you know.",
)
CAPITALS = (
    "List the countries and their capitals.",
    "List all capitals.",
    "Which capitals do you know?",
    "Give me a list of capitals.",
    "Tell me the capitals you know.",
    "Name all capitals.",
    "~Tell me all the capitals you know.",
)
NTH = (
    "List {n} countries.",
    "Name {n} countries.",
    "Give me {n} countries.",
    "Tell me {n} countries.",
    "Could you name {n} countries?", "Can you list {n} countries?", "List {n} countries for me.",
    "~Could you list {n} countries?",
)  # fmt: skip


def counting(rng: Random, split: Split) -> tuple[str, str]:
    while True:
        form = rng.random()
        span = rng.choice((10, 20, 30, 50, 100, 200)) if rng.random() < 0.5 else rng.randint(3, 200)
        start = 1 if form < 0.5 else rng.randint(0, 150)
        if held_out(f"{start}-{span}", 10) == (split == "eval") or (start == 1 and span in (10, 20, 100)):
            break
    end = start + span - (1 if start == 1 else 0)
    if form < 0.3:
        return pick(rng, COUNT_TO, split).format(b=end), ", ".join(map(str, range(1, end + 1)))
    if form < 0.75:
        return pick(rng, COUNT, split).format(a=start, b=end), ", ".join(map(str, range(start, end + 1)))
    if form < 0.9:
        end = min(end, 120)
        ask = pick(rng, COUNT_DOWN, split)
        low = rng.randint(0, max(0, end - 3)) if "{a}" in ask else 1
        return ask.format(a=low, b=end), ", ".join(map(str, range(end, low - 1, -1)))
    step = rng.choice((2, 3, 5, 10))
    start, count = rng.choice((0, step)), rng.randint(4, 20)
    return pick(rng, COUNT_BY, split).format(a=start, b=start + step * count, s=step), ", ".join(
        str(start + step * i) for i in range(count + 1)
    )


def listing(rng: Random, split: Split) -> tuple[str, str]:
    form = rng.random()
    if form < 0.35:
        asks, answer = rng.choice(FIXED)
        return pick(rng, asks, split), answer
    if form < 0.6:
        n = rng.randint(2, 12)
        return pick(rng, TABLE, split).format(n=n), "\n".join(f"{i} * {n} = {i * n}" for i in range(1, 13))
    if form < 0.75:
        return pick(rng, COUNTRIES, split), "\n".join(country.name for country in countries())
    if form < 0.85:
        return pick(rng, CAPITALS, split), "\n".join(f"{country.name}: {country.capital}" for country in countries())
    n = rng.randint(2, 12)
    return pick(rng, NTH, split).format(n=n), "\n".join(country.name for country in countries()[:n])


def generate(rng: Random, split: Split) -> Sample:
    question, answer = (counting if rng.random() < 0.65 else listing)(rng, split)
    return Sample("lists", [user(as_typed(rng, question))], answer, thought="I write it out, one after the other.")
