"""Capitals of countries, both ways, and whether a city is one."""

from dataclasses import dataclass
from functools import cache
from random import Random

from training.data.sample import Sample, Split, user
from training.data.text import HERE, as_typed, pick


@dataclass(frozen=True)
class Country:
    name: str  # with its article where it has one
    capital: str
    aliases: tuple[str, ...]


@cache
def countries() -> tuple[Country, ...]:
    rows = []
    for line in (HERE / "capitals.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, capital, article, aliases = (*line.split("\t"), "", "")[:4]
        full = f"{article} {name}".strip()
        others = [f"{article} {other}".strip() if other.isupper() else other for other in aliases.split("|") if other]
        rows.append(Country(full, capital, (full, full, name, *others)))
    return tuple(rows)


ASK = (
    "What is the capital of {c}?", "What's the capital of {c}?", "Tell me the capital of {c}.",
    "Which city is the capital of {c}?",
    "capital of {c}", "{c} capital?", "Name the capital of {c}.", "Do you know the capital of {c}?",
    "What is {c}'s capital?",
    "What city is the capital of {c}?", "Can you tell me what the capital of {c} is?",
    "I forgot the capital of {c}. What is it?",
    "The capital of {c}?", "What is the capital city of {c}?", "Give me the capital of {c}.",
    "Which capital does {c} have?",
    "Which city is {c}'s capital?", "and the capital of {c}?", "What about the capital of {c}?",
    "Could you tell me the capital of {c}?",
    "I need to know the capital of {c}.", "Please name {c}'s capital.", "What's {c}'s capital city?",
    "{c}: what is the capital?",
    "Which city does {c} have as its capital?", "Say the name of the capital of {c}.", "I'd like the capital of {c}.",
    "Quick, the capital of {c}!", "Which city serves {c} as capital?",
    "~Would you tell me the capital of {c}?", "~What is the name of {c}'s capital?", "~Quick: the capital of {c}?",
    "~I'd like to know the capital city of {c}.", "~Which city serves as the capital of {c}?",
    "~Say, what is the capital of {c}?",
)  # fmt: skip
ASK_SHORT = (
    "What is the capital of {c}? Answer in one word.", "Capital of {c}? One word only.",
    "What is the capital of {c}? Reply with just the name.",
    "Name the capital of {c}. Only the name.", "What's the capital of {c}? Just the city name, please.",
    "What is the capital of {c}? Answer with one word only.", "Answer in one word: what is the capital of {c}?",
    "~What is the capital of {c}? Just the name.", "~In one word, what is the capital of {c}?",
)  # fmt: skip
REVERSE = (
    "Which country has {k} as its capital?", "{k} is the capital of which country?",
    "What country is {k} the capital of?",
    "Of which country is {k} the capital?", "Whose capital is {k}?", "Which country's capital is {k}?",
    "{k} is the capital of what?",
    "Tell me which country {k} is the capital of.", "Name the country that has the capital {k}.",
    "To which country does {k} belong as capital?", "Which country does the capital {k} belong to?",
    "{k}: capital of which country?", "What is {k} the capital of?", "The capital of which country is {k}?",
    "~Name the country whose capital is {k}.", "~To which country does the capital {k} belong?",
    "~What country has the capital {k}?",
)  # fmt: skip
CHECK = (
    "Is {k} the capital of {c}?", "Is it true that {k} is the capital of {c}?", "Is the capital of {c} {k}?",
    "{k} is the capital of {c}, right?", "Would you say {k} is the capital of {c}?",
    "I think {k} is the capital of {c}. Is it?", "Am I right: is {k} the capital of {c}?", "Is {k} {c}'s capital?",
    "Is {c}'s capital {k}?", "Can it be that {k} is the capital of {c}?",
    "Do you agree that {k} is the capital of {c}?", "True or false: {k} is the capital of {c}.",
    "I am right that the capital of {c} is {k}, am I?", "So {k} is the capital of {c}?",
    "The capital of {c} is {k}, isn't it?", "~Am I right that {k} is the capital of {c}?",
    "~Would you say that {k} is the capital of {c}?",
)  # fmt: skip


def generate(rng: Random, split: Split) -> Sample:
    country = rng.choice(countries())
    name = rng.choice(country.aliases)
    fact = f"The capital of {country.name} is {country.capital}."
    back = f"{country.capital} is the capital of {country.name}."
    form = rng.random()
    if form < 0.54:
        question, answer = pick(rng, ASK, split).format(c=name), fact
    elif form < 0.64:
        question, answer = pick(rng, ASK_SHORT, split).format(c=name), country.capital
    elif form < 0.80:
        question, answer = pick(rng, REVERSE, split).format(k=country.capital), back
    elif form < 0.90:
        question, answer = (
            pick(rng, CHECK, split).format(c=name, k=country.capital),
            f"Yes, {country.capital} is the capital of {country.name}.",
        )
    else:
        wrong = rng.choice([other.capital for other in countries() if other is not country])
        question, answer = (
            pick(rng, CHECK, split).format(c=name, k=wrong),
            f"No, the capital of {country.name} is {country.capital}.",
        )
    question = question[:1].upper() + question[1:] if split == "eval" else question
    return Sample("capitals", [user(as_typed(rng, question))], answer, thought=f"A question about a capital. {fact}")
