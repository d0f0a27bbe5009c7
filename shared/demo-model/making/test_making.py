"""What the evaluation's honesty and the training's repeatability rest on. Needs neither torch nor the weights.

python -m unittest test_making
"""

import unittest
from collections import Counter
from random import Random

import numpy as np

import heldout
import questions
import tokens
import world
from anyres import ACROSS, PER_TILE, Plan
from labels import NAMES, Labels, compare


def drawn(kinds=world.KINDS, count=12):
    for kind in kinds:
        for seed in range(count):
            yield kind, world.picture(Random(seed), kind)


class World(unittest.TestCase):
    def test_a_seed_names_a_picture_and_its_questions(self):
        for kind, first in drawn():
            again = [picture for _, picture in drawn((kind,))]
            self.assertTrue(any(np.array_equal(first.image, picture.image) for picture in again))
        asked = [[questions.about(Random(9), picture, kind) for kind in questions.KINDS] for _, picture in drawn()]
        same = [[questions.about(Random(9), picture, kind) for kind in questions.KINDS] for _, picture in drawn()]
        self.assertEqual(asked, same)

    def test_sides_are_within_bounds(self):
        for kind, picture in drawn(count=40):
            self.assertTrue(
                40 <= min(picture.image.size) <= max(picture.image.size) <= 1000, (kind, picture.image.size)
            )

    def test_marks_of_a_scene_are_on_the_base_picture(self):
        for _, picture in drawn(("scene",), 40):
            classes = Labels(picture, Plan(*picture.image.size)).classes
            centres = classes[NAMES.index("centre"), 0]
            places = {(int(thing.y * ACROSS), int(thing.x * ACROSS)) for thing in picture.things}
            self.assertEqual(np.count_nonzero(centres), len(places))

    def test_what_differs_between_two_pictures_is_told_patch_by_patch(self):
        told = {"Nothing": set(), "now": {1}, "gone": {2}, "new": {3}}
        for seed in range(30):
            *pictures, difference = world.pair(Random(seed))
            first, second = (Labels(picture, Plan(*picture.image.size)).classes for picture in pictures)
            before, _, change = compare(first, second)
            self.assertTrue(np.array_equal(before, first[NAMES.index("shape")]))
            expected = next(classes for word, classes in told.items() if word in difference)
            self.assertEqual(set(change.flatten().tolist()) - {0}, expected, difference)

    def test_glyphs_of_a_word_stand_in_their_order(self):
        for _, picture in drawn(("text",), 40):
            across = [glyph.x for glyph in picture.glyphs]
            self.assertEqual(across, sorted(across))
            self.assertEqual("".join(glyph.character for glyph in picture.glyphs), picture.text)


class Layout(unittest.TestCase):
    def test_every_feature_stands_at_most_once(self):
        for size in ((40, 40), (1000, 200), (200, 1000), (640, 480), (300, 300)):
            plan = Plan(*size)
            layout = plan.layout()
            kept = layout[layout >= 0]
            self.assertEqual(len(kept), len(set(kept.tolist())))
            self.assertEqual(kept[:PER_TILE].tolist(), list(range(PER_TILE)))
            self.assertLess(kept.max(), (1 + plan.rows * plan.columns) * PER_TILE)


class HeldOut(unittest.TestCase):
    def test_words_of_the_evaluation_are_never_trained_on(self):
        kept, trained = set(world.vocabulary(True)), set(world.vocabulary(False))
        self.assertFalse(kept & trained)
        self.assertGreater(len(kept), 80)
        random = Random(0)
        seen = {world.string_to_print(random, False)[0] for _ in range(4000)}
        self.assertGreater(len(seen & trained), 300)
        # Random letters may spell a word once in a great while.
        self.assertLessEqual(len(seen & kept), 2)

    def test_guessing_the_commonest_answer_fails(self):
        asked = heldout.held_out(15 * 40)
        self.assertEqual(Counter(one.kind for one in asked), {kind: 40 for kind in questions.KINDS})
        for kind in questions.KINDS:
            answers = Counter(one.answer for one in asked if one.kind == kind)
            self.assertLessEqual(answers.most_common(1)[0][1], 40 * heldout.CAPS.get(kind, 0.08) + 1, kind)


class Tokens(unittest.TestCase):
    def test_text_comes_back_and_capitals_are_spelled(self):
        for text in ("The word HOUSE.", "What colour is the red circle?", "72151", "I can't tell.", "Größe?"):
            self.assertEqual(tokens.load().decode(list(tokens.encode(text))), text)
        self.assertEqual(len(tokens.encode("HOUSE")), 5)

    def test_the_script_makes_the_same_file_each_time(self):
        self.assertEqual(tokens.make().to_str(), tokens.make().to_str())


if __name__ == "__main__":
    unittest.main()
