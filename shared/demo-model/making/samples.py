"""Samples to train on: one or two pictures, and many dialogues about them that do not see each other."""

import math
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from PIL import Image

import questions
import tokens
import world
from anyres import PER_TILE, TILE, Plan
from labels import BETWEEN, HEADS, IGNORED, Labels, compare, spell
from questions import Dialogue, Turn

PICTURES = {"scene": 36, "text": 44, "chart": 11, "table": 7, "texture": 2, "pair": 17, "none": 1}
# What the tower learns from alone, beside tiles full of letters: scenes with more shapes.
DENSE = {"scene": 30, "text": 40, "chart": 15, "table": 15}
# Tiles that are cut from one sheet of letters.
CUTS = 12
SCENE = {
    "describe": 1.6,
    "count": 3.5,
    "colour": 0.8,
    "shape": 0.5,
    "where": 9,
    "place": 0.3,
    "size": 0.9,
    "yes or no": 0.9,
    "second turn": 1.6,
    "cannot tell": 1,
}
TEXT = {"describe": 1, "yes or no": 0.6, "second turn": 0.8, "cannot tell": 0.7, "read word": 7, "read number": 1.4}
KINDS = {
    "scene": (SCENE, 16),
    "pair": ({"describe": 1}, 2),
    "texture": ({"describe": 1, "cannot tell": 1}, 3),
    "text": (TEXT, 7),
    "chart": ({"describe": 1, "chart": 4, "yes or no": 0.7, "second turn": 1.5, "cannot tell": 1}, 7),
    "table": ({"describe": 1, "table": 4, "yes or no": 0.5, "second turn": 2, "cannot tell": 1}, 7),
}


@dataclass
class Sample:
    tiles: np.ndarray  # [tiles, TILE, TILE, 3] of u8
    classes: np.ndarray  # [heads, tiles * PER_TILE]
    # For every position: an index into the features of the sample's own tiles, or one past it by a code: see `batch`.
    rows: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    # What is to be known at a second picture's places of the first: [heads of `BETWEEN`, positions].
    between: np.ndarray


def careless(random, question):
    """A question as people type it: now and then without its capital or its mark."""
    if random.random() < 0.12:
        question = question[0].lower() + question[1:]
    if random.random() < 0.1:
        question = question.rstrip("?.!")
    return question


def dialogues(random, kind, pictures, difference):
    if kind == "none":
        for _ in range(12):
            yield Dialogue(
                "greeting",
                [questions.greeting(random)] if random.random() < 0.6 else [questions.cannot_tell(random, None)],
            )
        return
    if kind == "pair":
        for asked in random.sample(questions.DIFFER, 2):
            yield Dialogue("difference", [Turn(asked, difference)])
        for name, picture in zip(("first", "second"), pictures):
            told = questions.describe(random, picture)
            if told:
                yield Dialogue("describe", [Turn(f"Describe the {name} picture.", told.answer)])
            what = questions.Scene(random, picture).colour()
            if what:
                yield Dialogue("colour", [Turn(what.question.replace("?", f" in the {name} picture?"), what.answer)])
            thing = random.choice(random.choice(pictures).things)
            there = any(thing.name == other.name for other in picture.things)
            asked = f"Is there {questions.article(thing.name)} in the {name} picture?"
            yield Dialogue("yes or no", [Turn(asked, "yes" if there else "no")])
        return
    weights, count = KINDS[kind]
    for chosen in random.choices(list(weights), weights.values(), k=count):
        dialogue = questions.about(random, pictures[0], chosen)
        if chosen == "where" and dialogue and dialogue.turns[-1].answer in ("left", "right"):
            # Above and below are harder to learn, so most of the others are asked for anew.
            dialogue = questions.about(random, pictures[0], chosen) if random.random() < 0.8 else dialogue
        if dialogue:
            yield dialogue


def letters(seed, plain):
    """`CUTS` tiles [1, TILE, TILE, 3] cut from a sheet of letters, each smaller or larger and wider or narrower than it
    was drawn, as pictures' tiles are, with their patches' classes."""
    random = Random(seed)
    sheet = world.sheet(random, plain)
    side = sheet.image.width
    for _ in range(CUTS):
        scale, aspect = math.exp(random.uniform(-0.55, 0.6)), math.exp(max(-1.0, min(1.0, random.gauss(0, 0.4))))
        wide, high = (min(side, TILE * scale * stretch) for stretch in (aspect**0.5, aspect**-0.5))
        left, top = random.uniform(0, side - wide), random.uniform(0, side - high)
        tile = sheet.image.resize((TILE, TILE), Image.BICUBIC, (left, top, left + wide, top + high))
        moved = [
            replace(glyph, x=(glyph.x * side - left) / wide, y=(glyph.y * side - top) / high) for glyph in sheet.glyphs
        ]
        yield np.asarray(tile)[None], spell(moved).reshape(len(HEADS), -1)


NEWLINE, TOKEN = 1_000_000, 2_000_000


def legible(picture):
    """Whether what is printed can be read on the base picture alone."""
    pairs = [(a, b) for a, b in zip(picture.glyphs, picture.glyphs[1:]) if b.index == a.index + 1]
    return all((b.x - a.x) * TILE > 6.5 for a, b in pairs)


def draw(seed, only_tower=False, short=0.0):
    """The sample that a seed names. Of the pictures that can be read so, a share of `short` is shown as base only."""
    random, difference = Random(seed), None
    kinds = DENSE if only_tower else PICTURES
    kind = random.choices(list(kinds), kinds.values())[0]
    if kind == "pair":
        *pictures, difference = world.pair(random)
    elif kind == "scene" and only_tower:
        pictures = [world.scene(random, random.randint(1, 14))]
    else:
        pictures = [] if kind == "none" else [world.picture(random, kind)]
    plans = [Plan(*picture.image.size) for picture in pictures]
    only_base = Random(seed + 1).random() < short and all(map(legible, pictures))
    shown = slice(1 if only_base else None)
    tiles = [plan.tiles(picture.image)[shown] for plan, picture in zip(plans, pictures)]
    classes = [
        Labels(picture, plan).classes[:, shown].reshape(len(HEADS), -1) for picture, plan in zip(pictures, plans)
    ]
    bos, ask, end, eos = (tokens.load().token_to_id(name) for name in (tokens.BOS, tokens.ASK, tokens.END, tokens.EOS))
    rows, offset, between = [TOKEN + bos, TOKEN + ask], 0, np.full((len(BETWEEN), 2), IGNORED)
    for plan, part in zip(plans, tiles):
        layout = plan.layout()[: PER_TILE if only_base else None]
        places = np.full((len(BETWEEN), len(layout)), IGNORED)
        if offset:
            places[:, layout >= 0] = compare(*classes)[:, layout[layout >= 0]]
        between = np.concatenate([between, places], 1)
        rows += np.where(layout < 0, NEWLINE, layout + offset).tolist()
        offset += len(part) * PER_TILE
    segments, targets = [0] * len(rows), [IGNORED] * len(rows)
    positions, shared = list(range(len(rows))), len(rows)
    for number, dialogue in enumerate([] if only_tower else dialogues(random, kind, pictures, difference)):
        ids, wanted = [], []
        for turn in dialogue.turns:
            if ids:
                ids.append(ask)
                wanted.append(IGNORED)
            asked = tokens.encode(careless(random, turn.question))
            told = tokens.encode(turn.answer)
            ids += [*asked, end, *told, eos]
            wanted += [IGNORED] * len(asked) + [*told, eos, IGNORED]
        rows += [TOKEN + token for token in ids]
        segments += [number + 1] * len(ids)
        positions += range(shared, shared + len(ids))
        targets += wanted
    empty = np.zeros((0, TILE, TILE, 3), np.uint8)
    return Sample(
        np.concatenate(tiles) if tiles else empty,
        np.concatenate(classes, 1) if classes else np.zeros((len(HEADS), 0), np.int64),
        *(np.array(part, np.int64) for part in (rows, segments, positions, targets)),
        between,
    )


def batch(samples, spelled=()):
    """Tensors of samples: all tiles in a row, those that are full of letters behind, and the prompts side by side.

    `rows` index the table [features of all tiles, the newline, the vocabulary]; `mask` lets a position see what stands
    before it in its own dialogue and in what all dialogues share."""
    tiles = np.concatenate([sample.tiles for sample in samples])
    seen = np.concatenate([tiles, *(tile for tile, _ in spelled)])
    classes = np.concatenate([*(sample.classes for sample in samples), *(classes for _, classes in spelled)], 1)
    length, features, offset = max(len(sample.rows) for sample in samples), len(tiles) * PER_TILE, 0
    shape = (len(samples), length)
    rows, positions = np.full(shape, features + 1), np.zeros(shape, np.int64)
    segments, targets = np.full(shape, -1), np.full(shape, IGNORED)
    between = np.full((len(BETWEEN), *shape), IGNORED)
    for at, sample in enumerate(samples):
        own, size = sample.rows, len(sample.rows)
        rows[at, :size] = np.where(
            own >= TOKEN, own - TOKEN + features + 1, np.where(own == NEWLINE, features, own + offset)
        )
        positions[at, :size], segments[at, :size], targets[at, :size] = (
            sample.positions,
            sample.segments,
            sample.targets,
        )
        between[:, at, : sample.between.shape[1]] = sample.between
        offset += len(sample.tiles) * PER_TILE
    segments = torch.from_numpy(segments)
    before = torch.ones(length, length, dtype=torch.bool).tril()
    mask = before & ((segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None]))
    return {
        "tiles": torch.from_numpy(seen),
        "classes": torch.from_numpy(classes),
        "own": len(tiles),
        "rows": torch.from_numpy(rows),
        "positions": torch.from_numpy(positions),
        "targets": torch.from_numpy(targets),
        "between": torch.from_numpy(between),
        "mask": mask[:, None],
    }
