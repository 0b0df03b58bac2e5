"""Plain text without chat markup, for the completions route: a beginning, and how it goes on."""

from random import Random

from training.data import everyday
from training.data.capitals import countries
from training.data.sample import Sample, Split
from training.data.text import load_toml


def generate(rng: Random, split: Split) -> Sample:
    form = rng.randrange(6)
    if form == 0:
        country = rng.choice(countries())
        text, cut = f"The capital of {country.name} is {country.capital}.", len(f"The capital of {country.name} is")
    elif form == 1:
        start, step = rng.randint(0, 50), rng.choice((1, 1, 1, 2, 5, 10))
        numbers = [str(number) for number in range(start, 101, step)]
        text = ", ".join(numbers)
        cut = len(", ".join(numbers[:4])) + 1
    elif form == 2:
        first = rng.randrange(7)
        text = ", ".join(everyday.DAYS[(first + i) % 7] for i in range(7))
        cut = len(everyday.DAYS[first]) + 1
    elif form == 3:
        thing, verb, shade = rng.choice(load_toml("facts.toml")["colours"])
        text = (
            f"The colour of {thing} is {shade}."
            if rng.random() < 0.5
            else f"{thing[:1].upper()}{thing[1:]} {verb} {shade}."
        )
        cut = text.index(f" {shade}.")
    elif form == 4:
        question, answer = rng.choice((everyday.day, everyday.month, everyday.colour, everyday.fact))(rng, split)
        text, cut = f"Q: {question}\nA: {answer}", len(f"Q: {question}\nA:")
    else:
        text = next(entry["answer"] for entry in load_toml("chat.toml")["entry"] if entry["answer"].startswith("Once"))
        cut = text.index(" ", 8)
    return Sample("completion", [], text[cut:], raw=text[:cut])
