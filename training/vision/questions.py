"""Questions about scenes and their answers. The wording of an answer is fixed; that of a question varies."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from training.data.sample import Split
from training.data.text import phrasings
from training.vision.scenes import COLOURS, NUMBERS, PLACES, SHAPES, Scene, Thing

ORDINALS = ("first", "second", "third")
SIDES = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}
NO_IMAGE = "I do not see a picture. Send me one and ask me about it."


@dataclass(frozen=True)
class Exchange:
    skill: str
    question: str
    answer: str


@cache
def phrases() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "phrases.toml").read_text(encoding="utf-8"))


def with_article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def plural(name: str) -> str:
    return name + ("es" if name.endswith("s") else "s")


def worded(rng: Random, split: Split, text: str) -> str:
    """Small changes that do not change the meaning; none in evaluation, whose wording is new anyway."""
    if rng.random() < 0.5:
        text = text.replace("colour", "color")
    if split == "eval":
        return text
    if rng.random() < 0.08:
        text = rng.choice(("Please: ", "Tell me: ", "Next question: ", "And now: ", "Now ", "So, ", "OK, ")) + text
    if rng.random() < 0.12:
        text = text.rstrip("?.!")
    if rng.random() < 0.08:
        text = text + rng.choice((" Please.", " Thanks.", " Be brief.", " Answer briefly.", " Look closely."))
    return text[0].lower() + text[1:] if rng.random() < 0.12 else text


def ask(rng: Random, split: Split, key: str, **values: str) -> str:
    text: str = rng.choice(phrasings(tuple(phrases()[key]), split))
    if "one" in values:
        values.setdefault("many", plural(values["one"]))
    if text.find("a {one}") >= 0:
        text = text.replace("a {one}", with_article(values["one"]))
    return worded(rng, split, text.format(**values))


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def counted(name: str, count: int) -> str:
    return with_article(name) if count == 1 else f"{NUMBERS[count]} {plural(name)}"


def there(name: str, count: int) -> str:
    if count == 1:
        return f"There is one {name}."
    return f"There are {NUMBERS[count]} {plural(name)}."


def content(scene: Scene) -> str:
    """Things in reading order, like ones together."""
    ground = f"on {with_article(scene.background)} background"
    if scene.text:
        return f'the {kind_of(scene)} "{scene.text.text}" in {scene.text.colour} {ground}'
    names = list(dict.fromkeys(t.name for t in scene.things))
    counts = [(name, sum(t.name == name for t in scene.things)) for name in names]
    return joined([counted(name, count) for name, count in counts]) + f" {ground}"


def kind_of(scene: Scene) -> str:
    return "number" if scene.text and scene.text.text.isdigit() else "word"


def describe(rng: Random, split: Split, scene: Scene) -> Exchange:
    return Exchange("describe", ask(rng, split, "describe"), f"The image shows {content(scene)}.")


def background(rng: Random, split: Split, scene: Scene) -> Exchange:
    return Exchange("background", ask(rng, split, "background"), f"The background is {scene.background}.")


def how_many(rng: Random, split: Split, scene: Scene) -> Exchange:
    form = rng.choice(("total", "colour", "shape", "both"))
    if form == "total":
        return Exchange("count", ask(rng, split, "total"), there("shape", scene.count()))
    like = rng.choice(scene.things)
    colour = "" if form == "shape" else (like.colour if rng.random() < 0.8 else rng.choice(list(COLOURS)))
    shape = "" if form == "colour" else (like.shape if rng.random() < 0.8 else rng.choice(SHAPES))
    name = f"{colour} {shape or 'shape'}".strip()
    return Exchange("count", ask(rng, split, "many", one=name), there(name, scene.count(colour, shape)))


def single(scene: Scene, attribute: str) -> list[Thing]:
    """Things whose shape (or colour) no other has."""
    values = [getattr(t, attribute) for t in scene.things]
    return [t for t in scene.things if values.count(getattr(t, attribute)) == 1]


def which_colour(rng: Random, split: Split, scene: Scene) -> Exchange:
    absent = [s for s in SHAPES if not scene.count(shape=s)]
    choice = single(scene, "shape")
    if not choice or rng.random() < 0.1:
        shape = rng.choice(absent)
        return Exchange("colour", ask(rng, split, "colour", one=shape), f"There is no {shape} in the image.")
    item = rng.choice(choice)
    return Exchange("colour", ask(rng, split, "colour", one=item.shape), f"The {item.shape} is {item.colour}.")


def which_shape(rng: Random, split: Split, scene: Scene) -> Exchange:
    choice = single(scene, "colour")
    if not choice or rng.random() < 0.1:
        colour = rng.choice([c for c in COLOURS if not scene.count(colour=c)])
        return Exchange("shape", ask(rng, split, "shape", one=colour), f"There is nothing {colour} in the image.")
    item = rng.choice(choice)
    return Exchange("shape", ask(rng, split, "shape", one=item.colour), f"It is {with_article(item.shape)}.")


def called(rng: Random, scene: Scene, item: Thing) -> str:
    """A name that fits this thing only, sometimes the shape alone."""
    return item.shape if scene.count(shape=item.shape) == 1 and rng.random() < 0.5 else item.name


def unique(scene: Scene) -> list[Thing]:
    return [t for t in scene.things if scene.count(t.colour, t.shape) == 1]


def where(rng: Random, split: Split, scene: Scene) -> Exchange:
    choice = unique(scene)
    if not choice or rng.random() < 0.08:
        shape = rng.choice([s for s in SHAPES if not scene.count(shape=s)])
        return Exchange("where", ask(rng, split, "where", one=shape), f"There is no {shape} in the image.")
    item = rng.choice(choice)
    question = ask(rng, split, "where", one=called(rng, scene, item))
    return Exchange("where", question, f"The {item.name} is {PLACES[item.cell]}.")


def at(rng: Random, split: Split, scene: Scene) -> Exchange:
    cell = rng.choice(scene.things).cell if rng.random() < 0.75 else rng.randrange(9)
    found = [t for t in scene.things if t.cell == cell]
    place = PLACES[cell]
    answer = f"There is {with_article(found[0].name)} {place}." if found else f"There is nothing {place}."
    return Exchange("at a place", ask(rng, split, "at", place=place), answer)


def exists(rng: Random, split: Split, scene: Scene) -> Exchange:
    item = rng.choice(scene.things)
    colour, shape = item.colour, item.shape
    if rng.random() < 0.5:  # near misses are the hard ones
        if rng.random() < 0.5:
            colour = rng.choice(list(COLOURS))
        else:
            shape = rng.choice(SHAPES)
    if rng.random() < 0.3:
        colour = ""
    name = f"{colour} {shape}".strip()
    count = scene.count(colour, shape)
    yes = f"Yes, there is {with_article(name)}." if count == 1 else f"Yes, there are {NUMBERS[count]} {plural(name)}."
    return Exchange("yes or no", ask(rng, split, "exists", one=name), yes if count else f"No, there is no {name}.")


def relation(rng: Random, split: Split, scene: Scene) -> Exchange | None:
    choice = unique(scene)
    if len(choice) < 2:
        return None
    one, other = rng.sample(choice, 2)
    side, (dx, dy) = rng.choice(list(SIDES.items()))
    apart = (one.x - other.x) * dx + (one.y - other.y) * dy
    if abs(apart) < 0.2:
        return None
    first, second = called(rng, scene, one), called(rng, scene, other)
    opposite = {
        "above": "below",
        "below": "above",
        "to the left of": "to the right of",
        "to the right of": "to the left of",
    }
    verdict, true = ("Yes", side) if apart > 0 else ("No", opposite[side])
    question = ask(rng, split, "relation", one=first, other=second, side=side)
    return Exchange("relation", question, f"{verdict}, the {first} is {true} the {second}.")


def has_text(rng: Random, split: Split, scene: Scene) -> Exchange:
    answer = f'Yes, the {kind_of(scene)} "{scene.text.text}".' if scene.text else "No, there is no text in the image."
    return Exchange("text or not", ask(rng, split, "has_text"), answer)


def no_text(rng: Random, split: Split, scene: Scene) -> Exchange:
    del scene
    return Exchange(
        "text or not", ask(rng, split, rng.choice(("read", "number", "word"))), "There is no text in the image."
    )


def read(rng: Random, split: Split, scene: Scene) -> Exchange:
    assert scene.text is not None, "only asked of pictures with text"
    kind = kind_of(scene)
    key = kind if rng.random() < 0.5 else "read"
    return Exchange(f"read a {kind}", ask(rng, split, key), f'The {kind} is "{scene.text.text}".')


def ink(rng: Random, split: Split, scene: Scene) -> Exchange:
    assert scene.text is not None, "only asked of pictures with text"
    return Exchange("colour", ask(rng, split, "ink"), f"The text is {scene.text.colour}.")


def kind(rng: Random, split: Split, scene: Scene) -> Exchange:
    return Exchange("text or not", ask(rng, split, "kind"), f"It is a {kind_of(scene)}.")


def no_shapes(rng: Random, split: Split, scene: Scene) -> Exchange:
    del scene
    name = rng.choice(SHAPES)
    if rng.random() < 0.5:
        return Exchange("yes or no", ask(rng, split, "exists", one=name), f"No, there is no {name}.")
    return Exchange("count", ask(rng, split, "total"), there("shape", 0))


Ask = Callable[[Random, Split, Scene], Exchange | None]
ABOUT_SHAPES: tuple[tuple[Ask, int], ...] = (
    (describe, 4), (how_many, 4), (which_colour, 2), (which_shape, 2), (where, 3), (at, 2), (background, 1),
    (exists, 3), (relation, 3), (has_text, 1), (no_text, 1),
)  # fmt: skip
ABOUT_TEXT: tuple[tuple[Ask, int], ...] = (
    (describe, 2), (read, 5), (ink, 1), (kind, 1), (background, 1), (has_text, 1), (no_shapes, 1),
)  # fmt: skip
SKILLS = (
    "describe", "count", "colour", "shape", "where", "at a place", "background", "yes or no", "relation",
    "text or not", "read a number", "read a word", "compare", "follow-up", "talk", "no image",
)  # fmt: skip


def about(rng: Random, split: Split, scene: Scene) -> Exchange:
    """Any question about one scene."""
    table = ABOUT_TEXT if scene.text else ABOUT_SHAPES
    functions, weights = zip(*table, strict=True)
    while True:
        exchange: Exchange | None = rng.choices(functions, weights)[0](rng, split, scene)
        if exchange:
            return exchange


def in_image(exchange: Exchange, rng: Random, index: int) -> Exchange:
    """The same question, put to one of several images."""
    question = exchange.question
    lead = rng.choice(("In the {} image: ", "Look at the {} image. ", "About the {} picture: ", "{} image: "))
    lead = lead.format(ORDINALS[index])
    return Exchange("compare", lead[0].upper() + lead[1:] + question, exchange.answer)


def differences(
    rng: Random, split: Split, pair: list[Scene], change: tuple[str, Thing, Thing | None] | None
) -> Exchange:
    """`change` is what `scenes.changed` did, or None for two pictures of the same content."""
    key = rng.choice(("same", "differs", "differs"))
    if change is None:
        return Exchange("compare", ask(rng, split, key), f"Both images show the same: {content(pair[0])}.")
    done, old, new = change
    if new is None:
        found = f"the {old.name} {PLACES[old.cell]} is missing in the second image"
    elif done == "moved":
        found = f"the {old.name} is {PLACES[old.cell]} in the first image and {PLACES[new.cell]} in the second"
    else:
        found = (
            f"{PLACES[old.cell]} there is {with_article(old.name)} in the first image"
            f" and {with_article(new.name)} in the second"
        )
    return Exchange("compare", ask(rng, split, key), f"The images differ: {found}.")


def contrast(rng: Random, split: Split, pair: list[Scene]) -> Exchange:
    """About two pictures that have nothing to do with each other."""
    form = rng.random()
    one, two = pair
    if form < 0.4 or not one.things or not two.things:
        answer = f"The first image shows {content(one)}. The second image shows {content(two)}."
        return Exchange("compare", ask(rng, split, rng.choice(("differs", "describe"))), answer)
    if form < 0.7:
        a, b = one.count(), two.count()
        numbers = f"{NUMBERS[max(a, b)]} and {NUMBERS[min(a, b)]}"
        more = "first" if a > b else "second"
        answer = f"Both images have {NUMBERS[a]}." if a == b else f"The {more} image has more shapes: {numbers}."
        return Exchange("compare", ask(rng, split, "more"), answer)
    name = rng.choice((*one.things, *two.things)).name if rng.random() < 0.8 else rng.choice(SHAPES)
    colour, _, shape = name.rpartition(" ")
    found = [bool(scene.count(colour, shape)) for scene in pair]
    verdict = {(True, True): "Both images have", (False, False): "None of the images has"}
    start = verdict.get((found[0], found[1])) or f"The {'first' if found[0] else 'second'} image has"
    return Exchange("compare", ask(rng, split, "which", one=name), f"{start} {with_article(name)}.")


def talk(rng: Random, split: Split) -> Exchange:
    entry = rng.choice(phrases()["talk"])
    text = rng.choice(phrasings(tuple(entry["ask"]), split))
    return Exchange("talk", text if split == "eval" else worded(rng, split, text), entry["say"])


def without_image(rng: Random, split: Split) -> Exchange:
    """A question about a picture when there is none."""
    one = f"{rng.choice(list(COLOURS))} {rng.choice(SHAPES)}"
    key = rng.choice(("describe", "total", "many", "where", "read", "number", "background", "exists", "differs"))
    return Exchange("no image", ask(rng, split, key, one=one), NO_IMAGE)
