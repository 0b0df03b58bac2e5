"""Conversations: pictures, questions about them, and talk between."""

from dataclasses import dataclass
from random import Random

from training.data.sample import Split
from training.vision import questions, scenes
from training.vision.questions import Exchange
from training.vision.scenes import Scene

SYSTEMS = (
    "You are a helpful assistant.", "You are a vision assistant.", "Answer briefly.", "You look at pictures.",
    "You are Quince's demo model.", "Be precise and short.", "You are an AI that describes images.",
)  # fmt: skip


@dataclass(frozen=True)
class Turn:
    images: tuple[Scene, ...]
    exchange: Exchange


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...]
    system: str = ""

    @property
    def images(self) -> list[Scene]:
        return [scene for turn in self.turns for scene in turn.images]


def any_scene(rng: Random, split: Split) -> Scene:
    return scenes.shapes(rng, split) if rng.random() < 0.65 else scenes.text(rng, split)


def single(rng: Random, split: Split, turns: int) -> list[Turn]:
    """One picture after the other; a question without a picture is about the latest."""
    scene = any_scene(rng, split)
    found = [Turn((scene,), questions.about(rng, split, scene))]
    if rng.random() < 0.15:  # the picture comes after some talk
        found.insert(0, Turn((), questions.talk(rng, split)))
    while len(found) < turns:
        chance = rng.random()
        if chance < 0.12:
            found.append(Turn((), questions.talk(rng, split)))
        elif chance < 0.16 and sum(len(t.images) for t in found) < 3:
            scene = any_scene(rng, split)
            found.append(Turn((scene,), questions.about(rng, split, scene)))
        else:
            found.append(Turn((), questions.about(rng, split, scene)))
    return found


def double(rng: Random, split: Split, turns: int) -> list[Turn]:
    """Two pictures to compare, in one turn or in two."""
    related = rng.random() < 0.55
    change = None
    if related:
        first = scenes.shapes(rng, split, 4)
        second = first
        if rng.random() < 0.7:
            second, *rest = scenes.changed(rng, first, split)
            change = (rest[0], rest[1], rest[2])
    else:
        first, second = any_scene(rng, split), any_scene(rng, split)
    pair = [first, second]

    def compare() -> Exchange:
        return questions.differences(rng, split, pair, change) if related else questions.contrast(rng, split, pair)

    if rng.random() < 0.75:
        found = [Turn((first, second), compare())]
    else:
        found = [Turn((first,), questions.about(rng, split, first)), Turn((second,), compare())]
    while len(found) < turns:
        chance = rng.random()
        if chance < 0.1:
            found.append(Turn((), questions.talk(rng, split)))
        elif chance < 0.4:
            found.append(Turn((), compare()))
        else:
            index = rng.randrange(2)
            found.append(Turn((), questions.in_image(questions.about(rng, split, pair[index]), rng, index)))
    return found


def textual(rng: Random, split: Split, turns: int) -> list[Turn]:
    make = (questions.talk, questions.without_image)
    return [Turn((), rng.choices(make, (2, 1))[0](rng, split)) for _ in range(turns)]


def draw(rng: Random, split: Split, turns: int = 8) -> Conversation:
    kind = rng.choices((single, double, textual), (68, 27, 5))[0]
    system = rng.choice(SYSTEMS) if rng.random() < 0.15 else ""
    return Conversation(tuple(kind(rng, split, turns)), system)


def wanted(rng: Random, split: Split, skill: str) -> Conversation:
    """A conversation whose last turn is of `skill`: alone, or for "follow-up" after other turns with talk between."""
    if skill == "follow-up":
        while True:
            turns = single(rng, split, 5)
            if not turns[-1].images and turns[-1].exchange.skill != "talk":
                turns[1:1] = [Turn((), questions.talk(rng, split))]
                return Conversation(tuple(turns))
    if skill == "talk":
        return Conversation((Turn((), questions.talk(rng, split)),))
    if skill == "no image":
        return Conversation((Turn((), questions.without_image(rng, split)),))
    if skill == "compare":
        return Conversation(tuple(double(rng, split, 1)))
    while True:
        scene = any_scene(rng, split)
        exchange = questions.about(rng, split, scene)
        if exchange.skill == skill:
            return Conversation((Turn((scene,), exchange),))
