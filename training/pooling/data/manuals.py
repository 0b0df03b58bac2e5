"""Passages of several sentences: manuals of devices and recipes that do not exist, and questions to them."""

import tomllib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from training.data.sample import Split
from training.data.text import as_typed, invented, made_up, paragraph, pick, reworded, sentence, word
from training.pooling.data.group import Group
from training.pooling.data.lexical import code, near

FILE = Path(__file__).parent / "manuals.toml"


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def sections(unseen: bool) -> tuple[dict[str, Any], ...]:
    return tuple(section for section in _file()["section"] if section.get("unseen", False) == unseen)


def said(rng: Random, section: dict[str, Any], device: str, split: Split, sentences: int = 1) -> str:
    lines = tuple(section["say"])
    chosen = [pick(rng, lines, split, noise=0.05), *rng.sample(lines, min(sentences - 1, len(lines)))]
    filled = []
    for line in dict.fromkeys(one.removeprefix("~") for one in chosen):
        key = rng.choice((made_up(rng).capitalize(), code(rng), word(rng, "nouns", split)))
        filled.append(sentence(line.format(e=device, k=key, n=rng.randint(2, 60))))
    return " ".join(filled)


def device_name(rng: Random) -> tuple[str, str]:
    """The whole name, and how one speaks of it."""
    kind, brand = rng.choice(_file()["kinds"]), made_up(rng).capitalize()
    name = rng.choice((f"{brand} {kind}", f"{brand} {rng.randint(1, 900)}", f"{kind} {code(rng)}"))
    return f"the {name}", rng.choice((f"the {kind}", "it", f"the {name}"))


def device(rng: Random, split: Split, *, unseen: bool = False) -> Group:
    """What a manual says of one thing, among what it says of others and what other manuals say of the same."""
    known = sections(False)
    section = rng.choice(sections(True) if unseen else known)
    full, short = device_name(rng)
    named = rng.random() < 0.7  # else the passage only calls it by its kind
    asked = full if named or rng.random() < 0.5 else short.replace("it", "my device") if short == "it" else short
    query = pick(rng, tuple(section["ask"]), split, noise=0.15).format(e=asked)
    query = reworded(rng, query) if split == "train" and rng.random() < 0.3 else query
    size, filler = rng.choice((1, 1, 2, 3)), rng.choice((0, 0, 0, 1, 3))

    def passage(section: dict[str, Any], full: str, short: str) -> str:
        begin = f"{sentence(full.removeprefix('the '))}: " if named else ""
        lines = [said(rng, section, short, split, size)]
        lines += [said(rng, section, short, split) for _ in range(size > 2)]
        return begin + " ".join(lines) + (f" {paragraph(rng, split, filler)}" if filler else "")

    others = rng.sample([one for one in known if one is not section], 3)
    texts = [passage(section, full, short), *(passage(other, full, short) for other in others)]
    if named:
        name = full.removeprefix("the ")
        elsewhere = f"the {near(rng, name)}" if rng.random() < 0.4 else device_name(rng)[0]
        texts[1] = passage(section, elsewhere, elsewhere if short == full else short)
    key = f"{section['name']}/{full if named else ''}"
    return Group(key, as_typed(rng, query), texts[0], tuple(texts[1:]))


def unseen(rng: Random, split: Split) -> Group:
    """Of sections that training never has; only for the evaluation."""
    return device(rng, split, unseen=True)


def dish(rng: Random, split: Split) -> Group:
    parts = _file()["dish"]
    foods = {word(rng, "foods", split) for _ in range(8)}
    one, two, three, *_ = [*foods, "salt", "cream", "honey"]
    way = rng.choice(parts["ways"])
    name = f"{rng.choice((one, invented(rng), made_up(rng).capitalize()))} {way}"

    def recipe(name: str, a: str, b: str) -> str:
        words = {"e": name, "a": a, "b": b, "n": rng.randint(2, 90), "t": rng.randrange(100, 250, 10)}
        steps = rng.sample(parts["steps"], rng.randint(2, 5))
        return sentence(" ".join([rng.choice(parts["begins"][1:]) + steps[0], *steps[1:]]).format(**words))

    by_name = rng.random() < 0.5
    frames = tuple(parts["makes" if by_name else "needs"])
    query = as_typed(rng, pick(rng, frames, split, noise=0.15).format(e=name, a=one, b=two))
    if by_name:
        negatives = [recipe(f"{invented(rng)} {way}", one, two), recipe(f"{near(rng, name)}", two, three)]
    else:
        negatives = [recipe(f"{invented(rng)} {way}", one, three), recipe(name.replace(one, three), three, two)]
    return Group(name if by_name else f"{one}/{two}", query, recipe(name, one, two), tuple(negatives))
