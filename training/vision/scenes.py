"""What a picture shows, as data: shapes in the nine fields of a grid, or one text. `draw.py` paints it.

A scene is the ground truth that every question is answered from.
"""

import string
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

from training.data.sample import Split
from training.data.text import held_out

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (30, 70, 220),
    "yellow": (245, 220, 30),
    "orange": (250, 140, 10),
    "purple": (130, 40, 170),
    "pink": (250, 130, 190),
    "brown": (125, 75, 35),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "gray": (135, 135, 135),
    "cyan": (30, 205, 220),
}
# Colours that are too much alike to stand on each other.
CLOSE = ({"white", "yellow"}, {"black", "brown"}, {"black", "purple"}, {"orange", "yellow"}, {"red", "orange"},
         {"red", "brown"}, {"orange", "brown"}, {"blue", "purple"}, {"green", "cyan"}, {"red", "pink"},
         {"gray", "brown"}, {"pink", "purple"}, {"blue", "black"}, {"blue", "cyan"}, {"pink", "orange"})  # fmt: skip
BACKGROUNDS = ("white", "white", "white", "white", "black", "gray", *COLOURS)
PLACES = (
    "in the top left corner", "at the top", "in the top right corner",
    "on the left", "in the middle", "on the right",
    "in the bottom left corner", "at the bottom", "in the bottom right corner",
)  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MOST = 6


@dataclass(frozen=True)
class Thing:
    """`x`, `y`: the centre, `size`: the diameter; all as shares of the picture's side."""

    shape: str
    colour: str
    cell: int  # 0 to 8, row by row
    x: float
    y: float
    size: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Text:
    """One line; `colour` is its ink."""

    text: str
    colour: str
    x: float
    y: float
    height: float
    font: int


@dataclass(frozen=True)
class Scene:
    background: str
    things: tuple[Thing, ...] = ()
    text: Text | None = None

    def count(self, colour: str = "", shape: str = "") -> int:
        return len(self.matching(colour, shape))

    def matching(self, colour: str = "", shape: str = "") -> list[Thing]:
        return [t for t in self.things if colour in ("", t.colour) and shape in ("", t.shape)]


def kept(colour: str, shape: str) -> bool:
    """True for the pairs of colour and shape that training never draws."""
    return held_out(f"{colour} {shape}", 10)


@cache
def words() -> tuple[str, ...]:
    return tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())


def inks(background: str) -> list[str]:
    return [c for c in COLOURS if c != background and {c, background} not in CLOSE]


def thing(rng: Random, split: Split, background: str, cell: int, sizes: tuple[float, float] = (0.17, 0.3)) -> Thing:
    """Evaluation draws a held-out pair every second time. The centre stays in the cell, the whole in the picture."""
    rare = split == "eval" and rng.random() < 0.5
    pairs = [(c, s) for c in inks(background) for s in SHAPES if kept(c, s) == rare]
    colour, shape = rng.choice(pairs or [(c, s) for c in inks(background) for s in SHAPES])
    size = rng.uniform(*sizes)
    slack = max(0.02, (0.33 - size) / 2) * 0.9

    def centre(index: int) -> float:
        return min(1 - size / 2, max(size / 2, (index + 0.5) / 3 + rng.uniform(-slack, slack)))

    return Thing(shape, colour, cell, centre(cell % 3), centre(cell // 3), size)


def shapes(rng: Random, split: Split, most: int = MOST) -> Scene:
    background = rng.choice(BACKGROUNDS)
    count = rng.choice([n for n in (1, 1, 2, 2, 3, 3, 4, 5, 6) if n <= most])
    cells = rng.sample(range(9), count)
    sizes = (0.17, 0.3)
    if count == 1 and rng.random() < 0.4:
        cells, sizes = [4], (0.4, 0.85)
    elif count == 2 and max(abs(cells[0] % 3 - cells[1] % 3), abs(cells[0] // 3 - cells[1] // 3)) == 2:
        sizes = (0.2, 0.45)
    things = [thing(rng, split, background, cell, sizes) for cell in cells]
    if count > 1 and rng.random() < 0.5:  # so that counts over one occur
        like = things[0]
        things = [replace(t, colour=like.colour, shape=like.shape) if rng.random() < 0.45 else t for t in things]
    return Scene(background, tuple(sorted(things, key=lambda t: t.cell)))


def spelled(rng: Random, split: Split) -> str:
    """A number, a word of the list, or (in training only) letters without sense, so that reading is spelling."""
    kind = rng.random()
    while True:
        if kind < 0.4:
            text = "".join(rng.choice(string.digits) for _ in range(rng.choice((1, 2, 2, 3, 3, 4))))
            text = str(int(text))
            if len(text) == 1 or held_out(text) == (split == "eval"):
                return text
        elif kind < 0.75 or split == "eval":
            word = rng.choice(words())
            if held_out(word) == (split == "eval"):
                return rng.choice((word, word.upper(), word.capitalize()))
        else:
            letters = rng.choice((string.ascii_lowercase, string.ascii_uppercase))
            return "".join(rng.choice(letters) for _ in range(rng.randint(2, 6)))


def text(rng: Random, split: Split) -> Scene:
    background = rng.choice(BACKGROUNDS)
    value = spelled(rng, split)
    tallest = min(0.6, 1.25 / len(value))
    line = Text(
        value,
        rng.choice(inks(background)),
        0.5 + rng.uniform(-0.06, 0.06),
        0.5 + rng.uniform(-0.2, 0.2),
        rng.uniform(0.75, 1.0) * tallest,
        rng.randrange(3),
    )
    return Scene(background, text=line)


def changed(rng: Random, scene: Scene, split: Split) -> tuple[Scene, str, Thing, Thing | None]:
    """A copy with one difference: (scene, what was done, the thing before, the thing after)."""
    things = list(scene.things)
    at = rng.randrange(len(things))
    old = things[at]
    kinds = ["colour", "shape", "removed", "moved"] if len(things) > 1 else ["colour", "shape", "moved"]
    kind = rng.choice(kinds)
    if kind == "removed":
        del things[at]
        return replace(scene, things=tuple(things)), kind, old, None
    if kind == "moved":
        free = [c for c in range(9) if all(c != t.cell for t in things)]
        place = thing(rng, split, scene.background, rng.choice(free))
        size = min(old.size, 0.3)
        new = replace(old, cell=place.cell, x=place.x, y=place.y, size=size)
    else:
        while True:
            other = thing(rng, split, scene.background, old.cell)
            new = replace(old, **{kind: getattr(other, kind)})
            if new != old and (split == "eval" or not kept(new.colour, new.shape)):
                break
    things[at] = new
    return replace(scene, things=tuple(sorted(things, key=lambda t: t.cell))), kind, old, new
