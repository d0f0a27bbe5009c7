"""Which tiles a picture becomes, and which of their features reach the decoder, as in the reference: for training."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image

TILE = 96
PATCH = 12
ACROSS = TILE // PATCH
PER_TILE = ACROSS * ACROSS
# Heights and widths, as in `image_grid_pinpoints`.
PINPOINTS = ((2 * TILE, TILE), (TILE, 2 * TILE), (2 * TILE, 2 * TILE), (3 * TILE, TILE), (TILE, 3 * TILE))
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@lru_cache(maxsize=65536)
def best_resolution(width, height):
    """The pinpoint that keeps most of the picture's pixels and wastes least (height, width)."""
    best, kept, wasted = None, 0, math.inf
    for high, wide in PINPOINTS:
        scale = min(wide / width, high / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        waste = wide * high - effective
        if effective > kept or (effective == kept and waste < wasted):
            best, kept, wasted = (high, wide), effective, waste
    return best


class Plan:
    """How a picture of `width` x `height` pixels is cut."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.high, self.wide = best_resolution(width, height)
        across, down = self.wide / width, self.high / height
        self.scale = min(across, down)
        if across < down:
            self.size = (self.wide, min(math.ceil(height * across), self.high))
        else:
            self.size = (min(math.ceil(width * down), self.wide), self.high)
        self.left, self.top = (self.wide - self.size[0]) // 2, (self.high - self.size[1]) // 2
        self.rows, self.columns = self.high // TILE, self.wide // TILE

    def tiles(self, image):
        """The base picture, then the grid's tiles by rows: [1 + rows * columns, TILE, TILE, 3] of u8."""
        sheet = Image.new("RGB", (self.wide, self.high))
        sheet.paste(image.resize(self.size, Image.BICUBIC), (self.left, self.top))
        grid = np.asarray(sheet).reshape(self.rows, TILE, self.columns, TILE, 3).transpose(0, 2, 1, 3, 4)
        base = np.asarray(image.resize((TILE, TILE), Image.BICUBIC))
        return np.concatenate([base[None], grid.reshape(-1, TILE, TILE, 3)])

    def places(self):
        """Every patch's left, top, right and bottom, as shares of the picture: [tiles, ACROSS, ACROSS, 4]."""
        edge = np.arange(ACROSS) * PATCH
        boxes = [self._boxes(edge / TILE, edge / TILE, PATCH / TILE, PATCH / TILE)]
        for row in range(self.rows):
            for column in range(self.columns):
                x = (column * TILE + edge - self.left) / self.size[0]
                y = (row * TILE + edge - self.top) / self.size[1]
                boxes.append(self._boxes(x, y, PATCH / self.size[0], PATCH / self.size[1]))
        return np.stack(boxes)

    @staticmethod
    def _boxes(x, y, wide, high):
        left, top = np.meshgrid(x, y)
        return np.stack([left, top, left + wide, top + high], -1)

    def layout(self):
        """The order of features in the prompt: indices into the tiles' patches, and -1 for a row's end."""
        base = np.arange(PER_TILE)
        rows, columns = self.rows * ACROSS, self.columns * ACROSS
        grid = PER_TILE + np.arange(self.rows * self.columns * PER_TILE)
        grid = grid.reshape(self.rows, self.columns, ACROSS, ACROSS).transpose(0, 2, 1, 3).reshape(rows, columns)
        if self.width / self.height > columns / rows:
            cut = (rows - int(round(self.height * (columns / self.width), 7))) // 2
            grid = grid[cut : rows - cut]
        else:
            cut = (columns - int(round(self.width * (rows / self.height), 7))) // 2
            grid = grid[:, cut : columns - cut]
        ended = np.concatenate([grid, np.full((len(grid), 1), -1)], 1)
        return np.concatenate([base, ended.reshape(-1)])
