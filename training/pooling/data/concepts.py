"""Words of like meaning, by topics. Some pairs of like words are kept for the evaluation."""

import tomllib
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from training.data.sample import Split
from training.data.text import held_out

FILE = Path(__file__).parent / "concepts.toml"
Words = tuple[str, ...]  # that mean the same


@dataclass(frozen=True)
class Topic:
    names: Words
    people: tuple[Words, ...]
    actions: tuple[Words, ...]
    things: tuple[Words, ...]
    about: tuple[Words, ...]


def groups_of(text: str) -> tuple[Words, ...]:
    return tuple(tuple(word.strip() for word in group.split("|")) for group in text.split(";"))


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def topics() -> tuple[Topic, ...]:
    return tuple(
        Topic(groups_of(one["name"])[0], *(groups_of(one[part]) for part in ("people", "actions", "things", "about")))
        for one in _file()["topic"]
    )


@cache
def qualities() -> tuple[Words, ...]:
    """Opposites stand next to each other: 2n and 2n + 1."""
    return groups_of(_file()["qualities"]["groups"])


@cache
def verbs() -> tuple[Words, ...]:
    return groups_of(_file()["verbs"]["groups"])


@cache
def every_group() -> tuple[tuple[Words, ...], ...]:
    """Groups beside groups of their kind: one of them is no synonym of another of the same row."""
    rows = [row for topic in topics() for row in (topic.people, topic.actions, topic.things)]
    return (*rows, qualities(), verbs())


@cache
def _pairs(group: Words, split: Split) -> tuple[tuple[str, str], ...]:
    """Of three words or more, a pair may be kept: each of its words is still learnt by way of the third."""
    pairs = list(combinations(group, 2))
    kept = {pair for pair in pairs if len(group) > 2 and held_out("|".join(pair), 5)}
    if len(kept) == len(pairs):
        kept.discard(pairs[0])
    return tuple(kept) if split == "eval" else tuple(pair for pair in pairs if pair not in kept)


def has_kept_pairs(group: Words) -> bool:
    return bool(_pairs(group, "eval"))


def pair(rng: Random, group: Words, split: Split) -> tuple[str, str]:
    """Two words of like meaning; in evaluation a pair that training has not, if the group has one."""
    pairs = _pairs(group, split) or _pairs(group, "train")
    one, other = rng.choice(pairs) if pairs else (group[0], group[0])
    return (one, other) if rng.random() < 0.5 else (other, one)


def another(rng: Random, groups: tuple[Words, ...], group: Words) -> Words:
    return rng.choice([one for one in groups if one != group])
