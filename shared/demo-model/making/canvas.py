"""What pictures are drawn on: colours, shapes and fonts, and a picture with what is known of it.

Positions are shares of the width and the height (0 to 1).
"""

import io
import math
import string
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "red": (215, 35, 40),
    "green": (35, 155, 60),
    "blue": (40, 80, 215),
    "yellow": (245, 218, 40),
    "orange": (245, 130, 20),
    "purple": (140, 50, 170),
    "black": (18, 18, 20),
    "white": (252, 252, 252),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
# Of matplotlib's own fonts.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "cmr10",
    "cmss10",
)
CHARACTERS = string.ascii_uppercase + string.digits
# Side of the map that says which thing covers which place.
MAP = 192


@dataclass
class Thing:
    """A coloured shape: its centre, and its half width as a share of the picture's shorter side."""

    shape: str
    colour: str
    x: float
    y: float
    size: float
    angle: float = 0.0

    @property
    def name(self):
        return f"{self.colour} {self.shape}"


@dataclass
class Glyph:
    """A printed character. `index` counts within its string; `row` and `column` are those of a table's cell, from 1."""

    character: str
    x: float
    y: float
    index: int
    row: int = 0
    column: int = 0


@dataclass
class Bar:
    label: str
    colour: str
    x: float
    top: float
    bottom: float


@dataclass
class Picture:
    kind: str
    image: Image.Image
    things: list = field(default_factory=list)
    glyphs: list = field(default_factory=list)
    bars: list = field(default_factory=list)
    cells: list = field(default_factory=list)
    text: str = ""
    text_kind: str = ""
    text_colour: str = ""
    # MAP x MAP, 0 where nothing is, else 1 + the index into `things`, or into `bars`.
    cover: np.ndarray = None


@lru_cache(maxsize=4096)
def font(name, size):
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


@lru_cache(maxsize=1)
def noise_bank():
    return np.random.default_rng(7).normal(0, 1, (1100, 1100, 3)).astype(np.float16)


def distance(a, b):
    return math.dist(a, b)


def jitter(random, colour, amount=14):
    return tuple(max(0, min(255, part + random.randint(-amount, amount))) for part in colour)


class Canvas:
    """A picture while it is drawn, twice as large as it will be where it is small, so that its edges are smooth."""

    def __init__(self, random, width, height, scale=None):
        self.random, self.width, self.height = random, width, height
        self.scale = scale or (2 if max(width, height) <= 480 else 1)
        self.background = self.paper()
        self.image = self.ground()
        self.draw = ImageDraw.Draw(self.image)
        self.cover = Image.new("L", (MAP, MAP))
        self.cover_draw = ImageDraw.Draw(self.cover)

    @property
    def pixels(self):
        return self.width * self.scale, self.height * self.scale

    def paper(self):
        choice = self.random.random()
        if choice < 0.35:
            return jitter(self.random, (238, 238, 238), 16)
        if choice < 0.5:
            return (255, 255, 255)
        if choice < 0.62:
            return jitter(self.random, (45, 45, 50), 25)
        if choice < 0.75:
            return jitter(self.random, (150, 150, 150), 30)
        return tuple(self.random.randint(165, 250) for _ in range(3))

    def ground(self):
        image = Image.new("RGB", self.pixels, self.background)
        choice = self.random.random()
        if choice < 0.25:  # a gradient
            corners = np.array(
                [[jitter(self.random, self.background, 22) for _ in range(2)] for _ in range(2)], np.uint8
            )
            image = Image.fromarray(corners).resize(self.pixels, Image.BILINEAR)
        elif choice < 0.4:  # soft blotches
            count = self.random.randint(3, 8)
            blotches = np.array(
                [[jitter(self.random, self.background, 16) for _ in range(count)] for _ in range(count)], np.uint8
            )
            image = Image.fromarray(blotches).resize(self.pixels, Image.BICUBIC)
        elif choice < 0.47:  # thin lines, like ruled paper
            draw, step = ImageDraw.Draw(image), max(6, self.pixels[1] // self.random.randint(6, 14))
            line = jitter(self.random, self.background, 26)
            for y in range(step, self.pixels[1], step):
                draw.line([(0, y), (self.pixels[0], y)], fill=line, width=1)
        return image

    def stand_on(self, other):
        """Takes the ground of another canvas of the same size."""
        self.image, self.background = other.image.copy(), other.background
        self.draw = ImageDraw.Draw(self.image)

    def inks(self):
        """The names of the colours that stand out from the background."""
        return [name for name, colour in COLOURS.items() if distance(colour, self.background) > 95]

    def polygon(self, points, colour, cover):
        """Draws a polygon whose points are shares, and notes what it covers."""
        width, height = self.pixels
        self.draw.polygon([(x * width, y * height) for x, y in points], fill=colour)
        self.cover_draw.polygon([(x * MAP, y * MAP) for x, y in points], fill=cover)

    def line(self, points, colour, width):
        across, down = self.pixels
        self.draw.line(
            [(x * across, y * down) for x, y in points], fill=colour, width=max(1, round(width * self.scale))
        )

    def text(self, text, x, y, size, face, colour, angle=0.0):
        """Prints a string centred at a place; `size` in pixels of the picture. Gives its glyphs."""
        face = font(face, max(6, round(size * self.scale)))
        left, top, right, bottom = face.getbbox(text)
        mask = Image.new("L", (right - left + 8, bottom - top + 8))
        ImageDraw.Draw(mask).text((4 - left, 4 - top), text, font=face, fill=255)
        middle = (mask.width / 2, mask.height / 2)
        if angle:
            mask = mask.rotate(angle, Image.BICUBIC, expand=True)
        width, height = self.pixels
        self.image.paste(colour, (round(x * width - mask.width / 2), round(y * height - mask.height / 2)), mask)
        turn, glyphs = math.radians(-angle), []
        for index, character in enumerate(text):
            begin, end = face.getlength(text[:index]), face.getlength(text[: index + 1])
            off = (begin + end) / 2 - left + 4 - middle[0]
            glyphs.append(Glyph(character, x + off * math.cos(turn) / width, y + off * math.sin(turn) / height, index))
        return glyphs

    def finish(self, kind, **known):
        """Shrinks, adds noise and the marks of JPEG, and closes the picture."""
        image = self.image if self.scale == 1 else self.image.reduce(self.scale)
        if self.random.random() < 0.35:
            strength = self.random.uniform(2, 11)
            top, left = self.random.randint(0, 1100 - image.height), self.random.randint(0, 1100 - image.width)
            grain = noise_bank()[top : top + image.height, left : left + image.width]
            noisy = np.asarray(image, np.float32) + strength * grain
            image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        if self.random.random() < 0.4:
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=self.random.randint(35, 95))
            image = Image.open(stream).convert("RGB")
        return Picture(kind, image, cover=np.asarray(self.cover), **known)


def outline(thing, width, height):
    """The corners of a shape, as shares of the picture."""
    turn, shape = math.radians(thing.angle), thing.shape
    if shape == "circle":
        corners = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 36, endpoint=False)]
    elif shape == "square":
        corners = [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    elif shape == "triangle":
        corners = [(0, -1), (0.98, 0.8), (-0.98, 0.8)]
    elif shape == "diamond":
        corners = [(0, -1.1), (0.85, 0), (0, 1.1), (-0.85, 0)]
    elif shape == "star":
        radii = [(1.12 if k % 2 == 0 else 0.46, math.pi * k / 5 - math.pi / 2) for k in range(10)]
        corners = [(r * math.cos(a), r * math.sin(a)) for r, a in radii]
    else:
        a, b = 0.34, 1.0
        corners = [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    radius, cos, sin = thing.size * min(width, height), math.cos(turn), math.sin(turn)
    return [
        (thing.x + radius * (x * cos - y * sin) / width, thing.y + radius * (x * sin + y * cos) / height)
        for x, y in corners
    ]
