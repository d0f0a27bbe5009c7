"""The questions of the evaluation, which nothing was trained on.

Their pictures come from seeds that training cannot reach, and the words on them are kept from it. The set is balanced:
of each kind no answer occurs more often than its share in `CAPS`, and half of the questions of the kind "cannot tell"
can be answered after all.
"""

import io
from collections import Counter
from dataclasses import dataclass
from random import Random

import questions
import world

# Seeds of the training's pictures are below, those of the evaluation above.
HELD_OUT = 1 << 40
# The largest share of a kind that one answer may have.
CAPS = {
    "yes or no": 1 / 2,
    "where": 1 / 4,
    "count": 1 / 7,
    "colour": 1 / 8,
    "shape": 1 / 6,
    "greeting": 1 / 5,
    "cannot tell": 1 / 2,
    "second turn": 1 / 10,
    "difference": 1 / 6,
}
# Questions whose answer may seem to be missing, but is not.
ANSWERED = ("colour", "where", "read word", "chart", "table")


@dataclass
class Asked:
    kind: str
    files: list  # bytes of JPEG files
    turns: list

    @property
    def answer(self):
        return self.turns[-1].answer


def jpeg(image, random):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=random.randint(80, 95))
    return stream.getvalue()


def one(random, kind, index):
    """A question of a kind, or nothing where the picture that was drawn has none."""
    if kind == "greeting":
        return Asked(kind, [], [questions.greeting(random)])
    if kind == "difference":
        *pictures, difference = world.pair(random)
        turns = [questions.Turn(random.choice(questions.DIFFER), difference)]
        return Asked(kind, [jpeg(picture.image, random) for picture in pictures], turns)
    asked = random.choice(ANSWERED) if kind == "cannot tell" and index % 2 else kind
    if kind == "cannot tell" and not index % 2 and random.random() < 0.1:
        return Asked(kind, [], [questions.cannot_tell(random, None)])
    picture = world.picture(random, random.choice(world.KINDS), held_out=True)
    if kind == "describe" and picture.kind == "texture" and random.random() < 0.8:
        return None
    dialogue = questions.about(random, picture, asked)
    return dialogue and Asked(kind, [jpeg(picture.image, random)], dialogue.turns)


def held_out(count):
    """`count` questions, as many of each kind."""
    chosen, each = [], -(-count // len(questions.KINDS))
    for number, kind in enumerate(questions.KINDS):
        cap, answers, index = max(1, int(each * CAPS.get(kind, 0.08) + 0.999)), Counter(), 0
        while sum(answers.values()) < each:
            asked = one(Random(HELD_OUT + number * 10_000_000 + index), kind, sum(answers.values()))
            index += 1
            if asked and answers[asked.answer] < cap:
                answers[asked.answer] += 1
                chosen.append(asked)
    return chosen
