"""Paint a scene with Pillow, as a picture of any size or as the model's own SIDE x SIDE pixels.

Only the fonts that Pillow carries are used. `labels` says what stands where, for the training's second loss.
"""

import math
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.vision.scenes import COLOURS, SHAPES, Scene, Text, Thing

SIDE = 128
GRID = 8
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
THING_CLASSES = 1 + len(SHAPES) * len(COLOURS)
LETTER_CLASSES = 1 + len(LETTERS)
Colour = tuple[int, int, int]


def regular(corners: int, turn: float, inner: float = 1.0) -> list[tuple[float, float]]:
    """Points on the unit circle; with `inner`, every second one is drawn in (a star)."""
    steps = corners * (2 if inner < 1 else 1)
    points = []
    for i in range(steps):
        angle = 2 * math.pi * i / steps + turn
        radius = inner if inner < 1 and i % 2 else 1.0
        points.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return points


def heart() -> list[tuple[float, float]]:
    points = []
    for i in range(28):
        t = 2 * math.pi * i / 28
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -(y + 2.5) / 16))
    return points


OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)],
    "diamond": [(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)],
    "star": regular(5, 0.0, 0.42),
    "heart": heart(),
    "cross": [(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
              (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3)],
}  # fmt: skip


def shade(rng: Random, colour: str, spread: int = 18) -> Colour:
    red, green, blue = (max(0, min(255, part + rng.randint(-spread, spread))) for part in COLOURS[colour])
    return red, green, blue


@dataclass(frozen=True)
class Paint:
    ink: Colour
    ground: Colour
    across: float = 1.0  # shapes are this much narrower, as in a wide picture that was made square
    down: float = 1.0


def paint_thing(canvas: ImageDraw.ImageDraw, item: Thing, paint: Paint, side: int) -> None:
    x, y = item.x * side, item.y * side
    across, down = item.size * side / 2 * paint.across, item.size * side / 2 * paint.down

    def ellipse(share: float, fill: Colour) -> None:
        canvas.ellipse((x - across * share, y - down * share, x + across * share, y + down * share), fill=fill)

    if item.shape in ("circle", "ring"):
        ellipse(0.95, paint.ink)
        if item.shape == "ring":
            ellipse(0.52, paint.ground)
    else:
        canvas.polygon([(x + across * u, y + down * v) for u, v in OUTLINES[item.shape]], fill=paint.ink)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return loaded


@cache
def small_font() -> ImageFont.ImageFont:
    return ImageFont.load_default_imagefont()


def paint_text(picture: Image.Image, line: Text, ink: Colour) -> None:
    """Font 0 is the outline font, 1 the same in bold, 2 the bitmap font made larger."""
    side = picture.width
    x, y, height = line.x * side, line.y * side, line.height * side
    if line.font == 2:
        face = small_font()
        left, top, right, bottom = face.getbbox(line.text)
        mask = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(mask).text((-left, -top), line.text, fill=255, font=face)
        scale = min(height * 1.1 / mask.height, side * 0.86 / mask.width)
        mask = mask.resize(
            (max(1, round(mask.width * scale)), max(1, round(mask.height * scale))), Image.Resampling.BILINEAR
        )
        picture.paste(ink, (round(x - mask.width / 2), round(y - mask.height / 2)), mask)
        return
    size = max(8, round(height))
    width = font(size).getlength(line.text)
    if width > side * 0.88:
        size = max(8, int(size * side * 0.88 / width))
    bold = size // 14 if line.font == 1 else 0
    ImageDraw.Draw(picture).text((x, y), line.text, fill=ink, font=font(size), anchor="mm", stroke_width=bold)


def picture(scene: Scene, rng: Random, side: int) -> Image.Image:
    """The scene on `side` x `side` pixels; shades of a colour differ within a picture.

    Some look as if they had not been square.
    """
    ground = shade(rng, scene.background, 8)
    stretch = rng.uniform(0.55, 1.0) if rng.random() < 0.25 else 1.0
    across, down = (stretch, 1.0) if rng.random() < 0.6 else (1.0, stretch)
    image = Image.new("RGB", (side, side), ground)
    canvas = ImageDraw.Draw(image)
    for item in scene.things:
        paint_thing(canvas, item, Paint(shade(rng, item.colour), ground, across, down), side)
    if scene.text:
        paint_text(image, scene.text, shade(rng, scene.text.colour))
    return image


def fitted(image: Image.Image) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3), by the same filter as the model's image processor."""
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def pixels(scene: Scene, rng: Random) -> NDArray[np.uint8]:
    """The scene drawn at one of several sizes and brought to the model's, as users' pictures are."""
    side = rng.choice((128, 128, 192, 256, 256, 320))
    return fitted(picture(scene, rng, side))


def labels(scene: Scene) -> NDArray[np.uint8]:
    """(2, GRID, GRID): the class of the thing whose centre is in a patch; the letter whose middle is. 0 is none."""
    found = np.zeros((2, GRID, GRID), np.uint8)
    for item in scene.things:
        row, column = int(item.y * GRID), int(item.x * GRID)
        found[0, row, column] = 1 + SHAPES.index(item.shape) * len(COLOURS) + list(COLOURS).index(item.colour)
    if scene.text:
        for letter, x in letter_places(scene.text):
            row, column = min(GRID - 1, int(scene.text.y * GRID)), max(0, min(GRID - 1, int(x * GRID)))
            found[1, row, column] = 1 + LETTERS.index(letter)
    return found


def letter_places(line: Text) -> list[tuple[str, float]]:
    """Each letter and its middle, as a share of the side."""
    face = small_font() if line.font == 2 else font(40)
    ends = [face.getlength(line.text[: i + 1]) for i in range(len(line.text))]
    # The bitmap font is 11 pixels high and drawn a tenth larger.
    width = min(0.86, line.height * 0.1 * ends[-1]) if line.font == 2 else min(0.88, line.height / 40 * ends[-1])
    starts = [0.0, *ends[:-1]]
    return [
        (letter, line.x + ((a + b) / 2 / ends[-1] - 0.5) * width)
        for letter, a, b in zip(line.text, starts, ends, strict=True)
    ]
