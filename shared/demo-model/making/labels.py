"""What every patch of a picture shows, for the tower to learn before there is a decoder.

A class of -100 means that a patch cannot know. Some heads are learned on the base picture only: a tile of the grid does
not see the whole.
"""

import numpy as np

from anyres import ACROSS, PATCH, TILE
from canvas import CHARACTERS, COLOURS, MAP, SHAPES

IGNORED = -100
# Parts of a side, in one of which the middle of a thing is.
PLACES = 8
# Classes of each head, "nothing" included.
HEADS = {
    "shape": 2 + len(SHAPES),
    "colour": 1 + len(COLOURS),
    "centre": 2 + len(SHAPES),
    "first": 1 + len(CHARACTERS),
    "second": 1 + len(CHARACTERS),
    "index": 10,
    "row": 5,
    "column": 4,
    "rank": 4,
    "across": 1 + PLACES,
    "down": 1 + PLACES,
}
# What the decoder is to know at each place of a second picture: what the first shows there, and what became of it.
BETWEEN = {"shape": HEADS["shape"], "colour": HEADS["colour"], "change": 4}
WHOLE = ("index", "row", "column", "rank", "across", "down")
NAMES = list(HEADS)
_COLOUR = {name: k + 1 for k, name in enumerate(COLOURS)}
_SHAPE = {name: k + 1 for k, name in enumerate(SHAPES)}
BAR = 1 + len(SHAPES)
OTHER, MOST, LEAST = 1, 2, 3


def ranks(values):
    """Which value is the greatest, which the least; unknown where it is close."""
    ordered = sorted(values)
    close = len(values) > 1 and (ordered[-1] < 1.2 * ordered[-2], ordered[1] < 1.2 * ordered[0])
    found = []
    for value in values:
        if len(values) == 1:
            found.append(IGNORED)
        elif value == ordered[-1]:
            found.append(IGNORED if close[0] else MOST)
        elif value == ordered[0]:
            found.append(IGNORED if close[1] else LEAST)
        else:
            found.append(OTHER)
    return found


def spell(glyphs):
    """The classes [heads, 1, ACROSS, ACROSS] of a tile of letters, of which only the letters are told. The places of
    `glyphs` are shares of the tile."""
    classes = np.full((len(HEADS), 1, ACROSS, ACROSS), IGNORED)
    first, second = classes[NAMES.index("first"), 0], classes[NAMES.index("second"), 0]
    first[:], second[:] = 0, 0
    for glyph in sorted(glyphs, key=lambda glyph: glyph.x):
        if 0 <= glyph.x < 1 and 0 <= glyph.y < 1:
            row, column = int(glyph.y * ACROSS), int(glyph.x * ACROSS)
            slot = second if first[row, column] else first
            slot[row, column] = 1 + CHARACTERS.index(glyph.character)
    return classes


def compare(first, second):
    """The classes [heads, ...] of `BETWEEN` from those of two pictures' patches."""
    shape, colour = NAMES.index("shape"), NAMES.index("colour")
    before, after = first[shape] > 0, second[shape] > 0
    same = (first[shape] == second[shape]) & (first[colour] == second[colour])
    # Nothing, another colour, gone, new.
    change = np.select([same, before & after, before], [0, 1, 2], 3)
    return np.stack([first[shape], first[colour], change])


class Labels:
    def __init__(self, picture, plan):
        self.plan = plan
        boxes = plan.places()
        tiles = len(boxes)
        self.classes = np.zeros((len(HEADS), tiles, ACROSS, ACROSS), np.int64)
        for head in WHOLE:
            self.classes[NAMES.index(head), 1:] = IGNORED
        self._surface(picture, boxes)
        self._marks(picture)

    def _of(self, head):
        return self.classes[NAMES.index(head)]

    def _surface(self, picture, boxes):
        x, y = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
        inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
        column, row = (np.clip(v * MAP, 0, MAP - 1).astype(int) for v in (x, y))
        cover = np.where(inside, picture.cover[row, column], 0)
        owners = picture.bars or picture.things
        shapes = np.array([0] + [_SHAPE[t.shape] if not picture.bars else BAR for t in owners])
        colours = np.array([0] + [_COLOUR[t.colour] for t in owners])
        self._of("shape")[:] = shapes[cover]
        self._of("colour")[:] = colours[cover]
        middles = {"across": [t.x for t in owners], "down": [t.top if picture.bars else t.y for t in owners]}
        for head, places in middles.items():
            parts = np.array([0] + [1 + int(min(max(place, 0), 0.999) * PLACES) for place in places])
            self._of(head)[0] = parts[cover[0]]

    def _patches(self, x, y):
        """The patches that a place lies in: of the base, and of the tile."""
        inside = min(max(x, 0), 0.9999), min(max(y, 0), 0.9999)
        yield 0, int(inside[1] * ACROSS), int(inside[0] * ACROSS)
        across, down = self.plan.left + inside[0] * self.plan.size[0], self.plan.top + inside[1] * self.plan.size[1]
        tile = 1 + int(down // TILE) * self.plan.columns + int(across // TILE)
        yield tile, int(down % TILE // PATCH), int(across % TILE // PATCH)

    def _marks(self, picture):
        sizes = ranks([thing.size for thing in picture.things])
        for thing, rank in zip(picture.things, sizes):
            for at in self._patches(thing.x, thing.y):
                self._of("centre")[at] = _SHAPE[thing.shape]
            base = next(self._patches(thing.x, thing.y))
            self._of("rank")[base] = rank
        heights = ranks([bar.bottom - bar.top for bar in picture.bars])
        # Bars always differ enough: see `world.chart`.
        if picture.bars:
            order = sorted(range(len(picture.bars)), key=lambda k: picture.bars[k].top)
            heights = [MOST if k == order[0] else LEAST if k == order[-1] else OTHER for k in range(len(order))]
        for bar, rank in zip(picture.bars, heights):
            for at in self._patches(bar.x, bar.top):
                self._of("centre")[at] = BAR
            self._of("rank")[next(self._patches(bar.x, bar.top))] = rank
        for glyph in sorted(picture.glyphs, key=lambda glyph: glyph.x):
            code = 1 + CHARACTERS.index(glyph.character)
            for at in self._patches(glyph.x, glyph.y):
                if not self._of("first")[at]:
                    self._of("first")[at] = code
                elif not self._of("second")[at]:
                    self._of("second")[at] = code
            base = next(self._patches(glyph.x, glyph.y))
            if not self._of("index")[base]:
                self._of("index")[base] = 1 + min(glyph.index, 8)
            self._of("row")[base], self._of("column")[base] = glyph.row, glyph.column
            if picture.bars:
                self._of("rank")[base] = heights[[bar.label for bar in picture.bars].index(glyph.character)]
