"""Questions about people, firms, towns, animals and books that do not exist, and the texts that answer them."""

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from training.data.sample import Split
from training.data.text import (
    as_typed,
    city,
    full_name,
    invented,
    made_up,
    person,
    phrase,
    pick,
    reworded,
    sentence,
    word,
    words,
)  # fmt: skip
from training.pooling.data.group import Group
from training.pooling.data.lexical import near

FILE = Path(__file__).parent / "entities.toml"
PLACES = (
    "the mountains", "the desert", "the sea", "hollow trees", "caves", "the rain forest", "old houses", "the snow",
    "swamps", "meadows", "rivers", "the treetops", "burrows", "ponds", "cornfields", "the ice",
)  # fmt: skip
VALUES: dict[str, Callable[[Random, Split], str]] = {
    "city": city,
    "job": lambda rng, split: rng.choice(words("jobs", "train")),
    "hobby": lambda rng, split: rng.choice(words("hobbies", "train")),
    "food": lambda rng, split: word(rng, "foods", split),
    "animal": lambda rng, split: word(rng, "animals", split),
    "year": lambda rng, split: str(rng.randint(1100, 2025)),
    "number": lambda rng, split: f"{rng.randint(100, 999)} {rng.randint(1000, 9999)}",
    "name": full_name,
    "noun": lambda rng, split: word(rng, "nouns", split),
    "count": lambda rng, split: str(rng.choice((rng.randint(2, 99), rng.randint(100, 90000)))),
    "money": lambda rng, split: f"{rng.randint(1, 900)} {rng.choice(('euros', 'dollars', 'francs'))}",
    "place": lambda rng, split: rng.choice(PLACES),
    "small": lambda rng, split: rng.choice(("no", "two", "three", "four", "six", "eight", "ten", "a hundred")),
    "colour": lambda rng, split: word(rng, "colours", split),
    "weight": lambda rng, split: f"{rng.randint(2, 900)} {rng.choice(('grams', 'kilos', 'pounds'))}",
    "sound": lambda rng, split: "-".join([made_up(rng)[:5]] * 2),
}


@cache
def kinds() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def name_of(rng: Random, kind: str, split: Split) -> str:
    match kind:
        case "person":
            return full_name(rng, split) if rng.random() < 0.6 else person(rng, split)
        case "company":
            ending = rng.choice(("", " Ltd", " Works", " & Sons", " Group", " Labs"))
            return made_up(rng).capitalize() + ending
        case "creature":
            return invented(rng).lower() if rng.random() < 0.5 else made_up(rng)
        case "book":
            return phrase(rng, split).title().rstrip("?!")
    return city(rng, split) if rng.random() < 0.4 else made_up(rng).capitalize()


def fact(rng: Random, kind: str, attribute: str, entity: str, value: str, split: Split) -> str:
    said = pick(rng, tuple(kinds()[kind][attribute]["say"]), split, noise=0.05)
    return sentence(said.format(e=entity, v=value, n=word(rng, "pet_names", split))) + "."


def text(rng: Random, kind: str, entity: str, facts: dict[str, str], split: Split) -> str:
    lines = [fact(rng, kind, attribute, entity, value, split) for attribute, value in facts.items()]
    rng.shuffle(lines)
    return " ".join(lines)


def entity(rng: Random, split: Split) -> Group:
    kind = rng.choice(list(kinds()))
    attributes = kinds()[kind]
    attribute = rng.choice(list(attributes))
    about = attributes[attribute]
    who, value = name_of(rng, kind, split), VALUES[about["value"]](rng, split)
    long = rng.random() < 0.4
    other_names = [near(rng, who) if rng.random() < 0.4 else name_of(rng, kind, split) for _ in range(2)]

    def facts(names: list[str]) -> dict[str, str]:
        return {name: VALUES[attributes[name]["value"]](rng, split) for name in names}

    def some(without: str) -> list[str]:
        names = [name for name in attributes if name != without]
        return rng.sample(names, rng.randint(1, min(4, len(names)))) if long else [rng.choice(names)]

    rest = some(attribute) if long else []
    positive = text(rng, kind, who, {attribute: value} | facts(rest), split)
    inverse = "who" in about and rng.random() < 0.3
    query = pick(rng, tuple(about["who" if inverse else "ask"]), split, noise=0.15).format(e=who, v=value)
    query = reworded(rng, query) if split == "train" and rng.random() < 0.3 else query
    # The same of others, and something else of the same one.
    negatives = [text(rng, kind, name, facts([attribute, *rest]), split) for name in other_names]
    negatives.append(text(rng, kind, who, facts(some(attribute)), split))
    return Group(f"{value if inverse else who}/{attribute}", as_typed(rng, query), positive, tuple(negatives))
