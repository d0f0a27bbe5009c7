"""Draws the pictures of the demonstration model's world.

Every picture comes from a `random.Random`, so a seed names it.
"""

import math
import string
from random import Random

import numpy as np
from PIL import Image

from anyres import TILE, Plan
from canvas import CHARACTERS, COLOURS, FONTS, SHAPES, Bar, Canvas, Thing, font, jitter, outline
from words import WORDS

KINDS = ("scene", "text", "chart", "table", "texture")
# One word in so many is printed only on pictures that nothing is trained on.
HELD_OUT = 5
# Tiles to a side of a sheet of letters.
SHEET = 3


def vocabulary(held_out):
    """The words that are printed on pictures: those of training, or those kept from it."""
    return [word for index, word in enumerate(WORDS) if (index % HELD_OUT == 0) == held_out]


def sides(random, longest=None, shortest=40):
    """Width and height in pixels, of all aspect ratios up to 5."""
    longest = longest or round(math.exp(random.uniform(math.log(60), math.log(1000))))
    aspect = math.exp(max(-1.6, min(1.6, random.gauss(0, 0.5))))
    short = max(shortest, round(longest * min(aspect, 1 / aspect)))
    return (longest, short) if aspect > 1 else (short, longest)


def place(random, count, width, height):
    """Places that overlap a little at most: centres and half widths. Fewer than asked for where there is no room."""
    short, places = min(width, height), []
    room = width * height / short**2
    largest = min(0.4, 0.48 * math.sqrt(room / count))
    least = max(0.05, 7 / short, 0.045 * math.sqrt(room), 0.33 * largest)
    for _ in range(count * 25):
        size = random.uniform(least, max(least, largest))
        across, down = size * short / width, size * short / height
        if across > 0.48 or down > 0.48:
            continue
        x, y = random.uniform(across, 1 - across), random.uniform(down, 1 - down)
        free = all(math.hypot((x - a) * width, (y - b) * height) > 0.86 * (size + c) * short for a, b, c in places)
        if free:
            places.append((x, y, size))
        if len(places) == count:
            break
    return places


def scene_things(random, inks, count, width, height, distinct=False):
    """Things for a scene. Few shapes and colours now and then, so that some occur often."""
    shapes = random.sample(SHAPES, random.choice((1, 2, 3, 6, 6))) if not distinct else SHAPES
    colours = random.sample(inks, min(len(inks), random.choice((1, 2, 3, 8, 8)))) if not distinct else inks
    things = []
    for x, y, size in place(random, count, width, height):
        shape, colour = random.choice(shapes), random.choice(colours)
        if distinct and any(thing.name == f"{colour} {shape}" for thing in things):
            continue
        things.append(Thing(shape, colour, x, y, size, random.uniform(-10, 10)))
    return things


def paint(canvas, things):
    for index, thing in enumerate(things):
        canvas.polygon(
            outline(thing, canvas.width, canvas.height), jitter(canvas.random, COLOURS[thing.colour]), index + 1
        )


def scene(random, count=None):
    canvas = Canvas(random, *sides(random))
    things = scene_things(
        random, canvas.inks(), random.randint(1, 7) if count is None else count, canvas.width, canvas.height
    )
    paint(canvas, things)
    return canvas.finish("scene", things=things)


def pair(random):
    """Two scenes that differ in one thing, and the difference in words."""
    width, height = sides(random, longest=round(math.exp(random.uniform(math.log(80), math.log(600)))))
    first = Canvas(random, width, height)
    things = scene_things(random, first.inks(), random.randint(2, 4), width, height, distinct=True)
    state, changed = random.getrandbits(32), [Thing(**vars(thing)) for thing in things]
    choice = random.choice(("colour", "gone", "new", "none"))
    at = random.randrange(len(things))
    others = [name for name in first.inks() if all(f"{name} {things[at].shape}" != thing.name for thing in things)]
    if choice == "colour" and others:
        changed[at].colour = random.choice(others)
        difference = f"The {things[at].name} is now {changed[at].colour}."
    elif choice == "gone" and len(things) > 1:
        del changed[at]
        difference = f"The {things[at].name} is gone."
    elif choice == "new" and len(things) > 1:
        del things[at]
        difference = f"The {changed[at].name} is new."
    else:
        difference = "Nothing."
    second = Canvas(random, width, height)
    second.stand_on(first)
    first.random = second.random = Random(state)
    paint(first, things)
    paint(second, changed)
    return first.finish("scene", things=things), second.finish("scene", things=changed), difference


def string_to_print(random, held_out):
    choice = random.random()
    # What is trained on holds fewer words, so that letters are read and not guessed.
    words = 0.8 if held_out else 0.58
    if choice < 0.35:
        return "".join(random.choice(string.digits) for _ in range(random.randint(1, 5))), "number"
    if choice < words:
        return random.choice(vocabulary(held_out)), "word"
    while True:
        letters = "".join(random.choice(string.ascii_uppercase) for _ in range(random.randint(3, 6)))
        if held_out or letters not in WORDS:
            return letters, "word"


def text(random, held_out=False):
    """A printed word or number, alone or beside a shape or two."""
    string, kind = string_to_print(random, held_out)
    while True:
        width, height = sides(random, shortest=48)
        plan = Plan(width, height)
        share = random.uniform(0.45, 0.9)
        face = random.choice(FONTS)
        probe = font(face, 100)
        size = 100 * share * width / probe.getlength(string)
        size = min(size, 0.62 * height)
        share = size / 100 * probe.getlength(string) / width
        each = share * width / len(string)
        # Each letter has pixels enough to be read, as drawn and as the model sees it.
        if min(each, each * plan.scale) >= 7.5 and share * 96 / len(string) > 4.2:
            break
    canvas = Canvas(random, width, height)
    colour = random.choice(canvas.inks())
    angle = 0.0 if random.random() < 0.35 else random.uniform(-7, 7)
    down = min(0.45, (size * 0.6 + share * width / 2 * abs(math.sin(math.radians(angle)))) / height)
    x = random.uniform(share / 2 + 0.02, 1 - share / 2 - 0.02)
    y = random.uniform(down + 0.02, 1 - down - 0.02) if down < 0.47 else 0.5
    things = []
    if random.random() < 0.3:
        for tx, ty, radius in place(random, random.randint(1, 2), width, height):
            reach = radius * min(width, height) / height
            if abs(ty - y) > reach + down:
                things.append(
                    Thing(random.choice(SHAPES), random.choice(canvas.inks()), tx, ty, radius, random.uniform(-10, 10))
                )
        paint(canvas, things)
    glyphs = canvas.text(string, x, y, size, face, jitter(random, COLOURS[colour]), angle)
    return canvas.finish("text", things=things, glyphs=glyphs, text=string, text_kind=kind, text_colour=colour)


def sheet(random, plain):
    """A sheet of `SHEET` tiles a side, full of letters and digits of all sizes without meaning, from which tiles are cut:
    many glyphs at once, for the tower to learn them by. `plain` asks for black on white."""
    side = SHEET * TILE
    canvas = Canvas(random, side, side, scale=1)
    if plain:
        canvas.background = (255, 255, 255)
        canvas.image.paste(canvas.background, (0, 0, *canvas.pixels))
    inks, glyphs, top = canvas.inks(), [], random.uniform(-0.03, 0.02)
    while top < 0.97:
        face, size = random.choice(FONTS), math.exp(random.uniform(math.log(14), math.log(75)))
        count = max(1, round(random.uniform(0.8, 1.2) * side / (0.75 * size)))
        line = "".join(random.choice(CHARACTERS) for _ in range(count))
        colour = COLOURS["black" if plain else random.choice(inks)]
        middle, down = random.uniform(0.46, 0.54), size / side
        glyphs += canvas.text(
            line,
            middle,
            top + 0.5 * down,
            size,
            face,
            colour if plain else jitter(random, colour),
            0.0 if plain else random.uniform(-4, 4),
        )
        top += down * random.uniform(0.85, 1.4)
    return canvas.finish("letters", glyphs=glyphs)


def chart(random):
    """A bar chart. The highest and the lowest bar stand out from the rest."""
    width, height = sides(random, longest=round(math.exp(random.uniform(math.log(110), math.log(1000)))), shortest=90)
    aspect = width / height
    if not 0.5 <= aspect <= 2.4:
        width = height = min(1000, max(110, min(width, height)))
    canvas = Canvas(random, width, height)
    count = random.randint(2, 6)
    inks = canvas.inks()
    ink = jitter(random, COLOURS["black"] if sum(canvas.background) > 330 else COLOURS["white"])
    labels = (
        list(string.ascii_uppercase[:count]) if random.random() < 0.4 else random.sample(string.ascii_uppercase, count)
    )
    colours = (
        [random.choice(inks)] * count if random.random() < 0.4 or count > len(inks) else random.sample(inks, count)
    )
    left, right = random.uniform(0.06, 0.14), random.uniform(0.88, 0.97)
    top, bottom = random.uniform(0.06, 0.14), random.uniform(0.76, 0.84)
    while True:
        heights = [random.uniform(0.12, 1) for _ in range(count)]
        ordered = sorted(heights)
        if ordered[-1] - ordered[-2] > 0.1 and ordered[1] - ordered[0] > 0.1:
            break
    step, bars, glyphs = (right - left) / count, [], []
    wide = step * random.uniform(0.5, 0.85)
    face, size = random.choice(FONTS), min(0.14 * height, 0.8 * step * width)
    if random.random() < 0.4:
        for k in range(1, 5):
            y = bottom + (top - bottom) * k / 4
            canvas.line([(left, y), (right, y)], jitter(random, canvas.background, 40), 1)
    for k, (label, colour, part) in enumerate(zip(labels, colours, heights)):
        x, peak = left + step * (k + 0.5), bottom + (top - bottom) * part
        corners = [(x - wide / 2, peak), (x + wide / 2, peak), (x + wide / 2, bottom), (x - wide / 2, bottom)]
        canvas.polygon(corners, jitter(random, COLOURS[colour]), k + 1)
        bars.append(Bar(label, colour, x, peak, bottom))
        glyphs += canvas.text(label, x, bottom + (1 - bottom) * 0.48, size, face, ink)
    canvas.line([(left, bottom), (right, bottom)], ink, max(1, height / 150))
    if random.random() < 0.6:
        canvas.line([(left, top), (left, bottom)], ink, max(1, height / 150))
    return canvas.finish("chart", bars=bars, glyphs=glyphs)


def table(random):
    """A small table of numbers."""
    rows, columns = random.randint(2, 4), random.randint(2, 3)
    width, height = sides(random, longest=round(math.exp(random.uniform(math.log(140), math.log(1000)))), shortest=110)
    if not 0.6 <= width / height <= 2.0:
        width = height = max(140, min(width, height))
    canvas = Canvas(random, width, height)
    ink = COLOURS["black"] if sum(canvas.background) > 330 else COLOURS["white"]
    left, right = random.uniform(0.02, 0.12), random.uniform(0.88, 0.98)
    top, bottom = random.uniform(0.02, 0.14), random.uniform(0.86, 0.98)
    across, down = (right - left) / columns, (bottom - top) / rows
    face = random.choice(FONTS)
    size = min(0.62 * down * height, 100 * 0.62 * across * width / font(face, 100).getlength("88"))
    if random.random() < 0.3:  # every other row shaded
        for row in range(0, rows, 2):
            y = top + down * row
            corners = [(left, y), (right, y), (right, y + down), (left, y + down)]
            canvas.polygon(corners, jitter(random, canvas.background, 18), 0)
    thick = max(1, min(width, height) / random.uniform(90, 200))
    for row in range(rows + 1):
        canvas.line([(left, top + down * row), (right, top + down * row)], ink, thick)
    for column in range(columns + 1):
        canvas.line([(left + across * column, top), (left + across * column, bottom)], ink, thick)
    cells, glyphs = [], []
    for row in range(rows):
        cells.append([str(random.randint(0, 99)) for _ in range(columns)])
        for column, cell in enumerate(cells[-1]):
            printed = canvas.text(cell, left + across * (column + 0.5), top + down * (row + 0.5), size, face, ink)
            for glyph in printed:
                glyph.row, glyph.column = row + 1, column + 1
            glyphs += printed
    return canvas.finish("table", cells=cells, glyphs=glyphs)


def texture(random):
    """Colours without a thing in them: nothing about it can be told."""
    canvas = Canvas(random, *sides(random))
    rng = np.random.default_rng(random.getrandbits(32))
    total = np.zeros((canvas.pixels[1], canvas.pixels[0], 3), np.float32)
    for octave in range(random.randint(1, 4)):
        side = 2 + 2 ** (octave + random.randint(0, 2))
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize(canvas.pixels, Image.BICUBIC), np.float32) / 2**octave
    total = (total - total.min()) / max(1.0, np.ptp(total)) * random.uniform(120, 255)
    canvas.image = Image.fromarray(total.astype(np.uint8))
    return canvas.finish("texture")


def picture(random, kind, held_out=False):
    """A picture of a kind of `KINDS`."""
    if kind == "text":
        return text(random, held_out)
    return {"scene": scene, "chart": chart, "table": table, "texture": texture}[kind](random)
