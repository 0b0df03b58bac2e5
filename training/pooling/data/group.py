"""What a skill hands out: a query, a text that fits it, and texts that look like it and do not fit."""

from dataclasses import dataclass
from random import Random
from typing import Protocol

from training.data.sample import Split


@dataclass(frozen=True)
class Group:
    """Of two groups with one ``key``, or where one's ``wider`` is the other's key, nothing is known about how the query
    of one goes with the text of the other."""

    key: str
    query: str
    positive: str
    negatives: tuple[str, ...]
    wider: str = ""


class Skill(Protocol):
    def __call__(self, rng: Random, split: Split) -> Group: ...
