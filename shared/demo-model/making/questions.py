"""Questions about pictures, with their answers.

A `Turn` is a question and its answer. A `Dialogue` is what one prompt holds: one turn, or two about the same picture.
Where a question could be asked in many ways of one picture, the answer is chosen first and the question after it, so
that no answer is much commoner than the others.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

from canvas import CHARACTERS, COLOURS, SHAPES

UNKNOWN = "I can't tell."
# In the order of the model card's table.
KINDS = (
    "describe",
    "count",
    "colour",
    "shape",
    "where",
    "size",
    "read word",
    "read number",
    "chart",
    "table",
    "yes or no",
    "difference",
    "second turn",
    "greeting",
    "cannot tell",
)

DESCRIBE = (
    "Describe the picture.",
    "Describe this image.",
    "What is shown in this image?",
    "What do you see?",
    "What is in the picture?",
    "What is shown?",
)
READ = ("What does it say?", "What is written here?", "Read the text.", "What text is shown?")
READ_WORD = ("Read the word.", "Which word is this?", "What is the word?", "What does the word say?") + READ
READ_NUMBER = ("Read the number.", "Which number is this?", "What is the number?", "What number is shown?") + READ
HIGHEST = ("Which bar is the highest?", "Which bar is the tallest?", "What is the highest bar?")
LOWEST = ("Which bar is the lowest?", "Which bar is the shortest?", "What is the lowest bar?")
DIFFER = ("What differs?", "What is different?", "What changed?", "What is the difference between the two pictures?")
GREETINGS = {
    "Hello! Ask me about a picture.": (
        "Hello",
        "Hello!",
        "Hi",
        "Hi!",
        "Good morning",
        "Good evening.",
        "Hey",
        "Hello there!",
    ),
    "I know shapes, words, numbers, charts and tables.": (
        "What can you do?",
        "What do you know?",
        "Help",
        "How can you help me?",
    ),
    "I am a small demonstration model.": ("Who are you?", "What are you?", "What is your name?", "Are you a model?"),
    "You are welcome.": ("Thank you", "Thank you!", "Thanks", "Thanks!"),
    "Goodbye!": ("Bye", "Goodbye", "Goodbye!", "See you."),
}
ELSEWHERE = (
    "How old is the dog?",
    "Who is the man?",
    "What is the weather like?",
    "Which city is this?",
    "What is the cat doing?",
    "Who painted this?",
    "When was this picture taken?",
    "How many people are there?",
    "What is the price?",
    "What does the woman hold?",
    "Where was this taken?",
    "What colour is the car?",
    "Is the man happy?",
    "What is the capital of France?",
    "What time is it?",
    "Which animal is this?",
    "How many dogs are there?",
)


@dataclass
class Turn:
    question: str
    answer: str


@dataclass
class Dialogue:
    kind: str
    turns: list


def article(name):
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def capital(sentence):
    return sentence[0].upper() + sentence[1:]


def listed(names):
    names = [article(name) for name in names]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def plural(name, count=2):
    return name if count == 1 else (name + "es" if name.endswith("s") else name + "s")


def colour_word(random):
    return random.choice(("colour", "colour", "color"))


class Scene:
    """What can be asked about a picture's things."""

    def __init__(self, random, picture):
        self.random, self.things = random, picture.things
        self.shapes = Counter(thing.shape for thing in self.things)
        self.names = Counter(thing.name for thing in self.things)
        self.colours = Counter(thing.colour for thing in self.things)

    def reference(self, thing):
        """Words that mean this thing only, or nothing."""
        ways = []
        if self.shapes[thing.shape] == 1:
            ways.append(f"the {thing.shape}")
        if self.names[thing.name] == 1:
            ways += [f"the {thing.name}"] * 2
        return self.random.choice(ways) if ways else None

    def referable(self):
        named = [(thing, self.reference(thing)) for thing in self.things]
        return [(thing, name) for thing, name in named if name]

    def describe(self):
        if len(self.things) > 4:
            return Turn(self.random.choice(DESCRIBE), f"{len(self.things)} shapes.")
        ordered = sorted(self.things, key=lambda thing: thing.x)
        if any(b.x - a.x < 0.07 for a, b in zip(ordered, ordered[1:])):
            return None
        return Turn(self.random.choice(DESCRIBE), capital(listed([thing.name for thing in ordered])) + ".")

    def counts(self):
        """A question for each thing that can be counted, by its answer."""
        answers = defaultdict(list)
        answers[len(self.things)] += ["shapes", "things", "shapes"]
        for shape in SHAPES:
            answers[self.shapes[shape]].append(plural(shape))
        for colour in COLOURS:
            answers[self.colours[colour]].append(f"{colour} shapes")
        for name, count in self.names.items():
            answers[count].append(plural(name))
        return answers

    def count(self):
        answers = self.counts()
        # Nothing and one are what most questions would be answered with.
        count = self.random.choice([n for n in answers for _ in range(1 if n < 2 else 2)])
        what = self.random.choice(answers[count])
        ask = self.random.choice(
            ("How many {} are there?", "How many {} do you see?", "Count the {}.", "How many {} are in the picture?")
        )
        return Turn(ask.format(what), str(count))

    def colour(self):
        single = [thing for thing in self.things if self.shapes[thing.shape] == 1]
        if not single:
            return None
        thing, word = self.random.choice(single), colour_word(self.random)
        ask = self.random.choice(
            (
                f"What {word} is the {thing.shape}?",
                f"Which {word} is the {thing.shape}?",
                f"What {word} does the {thing.shape} have?",
            )
        )
        return Turn(ask, thing.colour)

    def shape(self):
        single = [thing for thing in self.things if self.colours[thing.colour] == 1]
        if not single:
            return None
        thing = self.random.choice(single)
        ask = self.random.choice(("Which shape is {}?", "What shape is {}?", "What is the {} shape?", "What is {}?"))
        return Turn(ask.format(thing.colour), thing.shape)

    def sides(self, first, second):
        """The pairs of words between which one can be asked to choose, with the one that holds."""
        ways = []
        if abs(first.x - second.x) > 0.14:
            ways.append(("left of", "right of", first.x < second.x))
        if abs(first.y - second.y) > 0.14:
            ways.append(("above", "below", first.y < second.y))
        return ways

    def where(self):
        named = self.referable()
        if len(named) < 2:
            return None
        (first, a), (second, b) = self.random.sample(named, 2)
        ways = self.sides(first, second)
        if not ways:
            return None
        one, other, holds = self.random.choice(ways)
        if self.random.random() < 0.5:
            one, other, holds = other, one, not holds
        answer = (one if holds else other).removesuffix(" of")
        if one.endswith(" of"):
            one = one.removesuffix(" of")
        return Turn(f"Is {a} {one} or {other} {b}?", answer)

    def place(self):
        """Where a thing is in the picture: asked in training only, on the way to `where`."""
        named = self.referable()
        if not named:
            return None
        thing, name = self.random.choice(named)
        asks = []
        if abs(thing.x - 0.5) > 0.08:
            asks.append((("left", "right"), thing.x > 0.5))
        if abs(thing.y - 0.5) > 0.08:
            asks.append((("above", "below"), thing.y > 0.5))
        if not asks:
            return None
        (one, other), answer = self.random.choice(asks)
        return Turn(f"Is {name} {one} or {other}?", other if answer else one)

    def size(self):
        ordered = sorted(self.things, key=lambda thing: thing.size)
        if len(ordered) < 2:
            return None
        word, thing, other = (
            ("largest", ordered[-1], ordered[-2]) if self.random.random() < 0.5 else ("smallest", *ordered[:2])
        )
        if max(thing.size, other.size) < 1.3 * min(thing.size, other.size):
            return None
        synonym = {"largest": ("largest", "biggest"), "smallest": ("smallest",)}[word]
        ask = self.random.choice(("Which shape is the {}?", "What is the {} shape?", "What is the {}?"))
        return Turn(ask.format(self.random.choice(synonym)), f"the {thing.name}")

    def yes_or_no(self):
        yes = self.random.random() < 0.5
        choice = self.random.random()
        if choice < 0.25:
            named = self.referable()
            if len(named) >= 2:
                (first, a), (second, b) = self.random.sample(named, 2)
                ways = self.sides(first, second)
                if ways:
                    one, other, holds = self.random.choice(ways)
                    return Turn(f"Is {a} {one if holds == yes else other} {b}?", "yes" if yes else "no")
        if choice < 0.5 and any(self.shapes[thing.shape] == 1 for thing in self.things):
            thing = self.random.choice([thing for thing in self.things if self.shapes[thing.shape] == 1])
            wrong = [colour for colour in COLOURS if colour != thing.colour]
            return Turn(
                f"Is the {thing.shape} {thing.colour if yes else self.random.choice(wrong)}?", "yes" if yes else "no"
            )
        if yes:
            thing = self.random.choice(self.things)
            what = self.random.choice((thing.name, thing.shape, thing.name, f"{thing.colour} shape"))
        else:
            # Near misses: a colour and a shape that are there, but not together.
            near = [f"{c} {s}" for c in self.colours for s in self.shapes if not self.names[f"{c} {s}"]]
            far = [s for s in SHAPES if not self.shapes[s]] + [f"{c} shape" for c in COLOURS if not self.colours[c]]
            other = [f"{self.random.choice(list(COLOURS))} {s}" for s in SHAPES if not self.shapes[s]]
            what = self.random.choice(self.random.choice([pool for pool in (near, near, far, other) if pool]))
        ask = self.random.choice(("Is there {}?", "Do you see {}?", "Is there {} in the picture?"))
        return Turn(ask.format(article(what)), "yes" if yes else "no")

    def missing(self):
        """A question about a thing that is not there."""
        absent = [shape for shape in SHAPES if not self.shapes[shape]]
        if not absent:
            return None
        shape = self.random.choice(absent)
        asks = [f"What {colour_word(self.random)} is the {shape}?"] * 2
        named = self.referable()
        if named:
            asks.append(
                f"Is the {shape} {self.random.choice(('left or right of', 'above or below'))} "
                f"{self.random.choice(named)[1]}?"
            )
        return Turn(self.random.choice(asks), UNKNOWN)

    def second(self):
        """Two turns of which the second leans on the first."""
        choice = self.random.randrange(4)
        if choice == 0:
            first, second = self.count(), self.count()
            what = second.question.removeprefix("How many ").removeprefix("Count the ")
            for end in (" are there?", " do you see?", " are in the picture?", "."):
                what = what.removesuffix(end)
            return [first, Turn(self.random.choice((f"And how many {what}?", f"And {what}?")), second.answer)]
        single = [thing for thing in self.things if self.shapes[thing.shape] == 1]
        if choice == 1 and len(single) >= 2:
            one, two = self.random.sample(single, 2)
            ask = f"What {colour_word(self.random)} is the {one.shape}?"
            return [
                Turn(ask, one.colour),
                Turn(self.random.choice((f"And the {two.shape}?", f"What about the {two.shape}?")), two.colour),
            ]
        unique = [thing for thing in self.things if self.colours[thing.colour] == 1]
        if choice == 2 and len(unique) >= 2:
            one, two = self.random.sample(unique, 2)
            asks = (f"And {two.colour}?", f"And which is {two.colour}?", f"Which one is {two.colour}?")
            return [Turn(f"Which shape is {one.colour}?", one.shape), Turn(self.random.choice(asks), two.shape)]
        if unique:
            named = [(thing, name) for thing, name in self.referable() if thing is not unique[0]]
            if named:
                other, name = self.random.choice(named)
                ways = self.sides(unique[0], other)
                if ways:
                    one, two, holds = self.random.choice(ways)
                    ask = f"Is it {one.removesuffix(' of')} or {two} {name}?"
                    answer = (one if holds else two).removesuffix(" of")
                    return [Turn(f"Which shape is {unique[0].colour}?", unique[0].shape), Turn(ask, answer)]
        return None


def cell(random, picture, again=False):
    row, column = random.randrange(len(picture.cells)), random.randrange(len(picture.cells[0]))
    place = f"row {row + 1}, column {column + 1}"
    asks = (
        (f"And in {place}?", f"And {place}?")
        if again
        else (f"What is in {place}?", f"Which number is in {place}?", f"Read {place}.")
    )
    return Turn(random.choice(asks), picture.cells[row][column])


def ask_chart(random, picture):
    low, high = max(picture.bars, key=lambda bar: bar.top), min(picture.bars, key=lambda bar: bar.top)
    many = len({bar.colour for bar in picture.bars}) > 1
    choice = random.random()
    if many and choice < 0.25:
        word, bar = random.choice((("highest", high), ("lowest", low)))
        return Turn(f"What {colour_word(random)} is the {word} bar?", bar.colour)
    if many and choice < 0.4:
        bar = random.choice(picture.bars)
        return Turn(f"What {colour_word(random)} is bar {bar.label}?", bar.colour)
    if choice < 0.85:
        asks, bar = random.choice(((HIGHEST, high), (HIGHEST, high), (LOWEST, low)))
        return Turn(random.choice(asks), bar.label)
    return Turn("How many bars are there?", str(len(picture.bars)))


def ask_table(random, picture):
    if random.random() < 0.8:
        return cell(random, picture)
    what, count = random.choice((("rows", len(picture.cells)), ("columns", len(picture.cells[0]))))
    return Turn(random.choice((f"How many {what} are there?", f"How many {what} does the table have?")), str(count))


def describe(random, picture):
    if picture.kind == "texture":
        return Turn(random.choice(DESCRIBE), UNKNOWN)
    if picture.kind == "chart":
        answer = f"A bar chart with {len(picture.bars)} bars."
    elif picture.kind == "table":
        answer = f"A table with {len(picture.cells)} rows and {len(picture.cells[0])} columns."
    elif picture.kind == "text":
        answer = f"The {picture.text_kind} {picture.text}."
    else:
        return Scene(random, picture).describe() if picture.things else None
    return Turn(random.choice(DESCRIBE), answer)


def second(random, picture):
    if picture.kind == "chart":
        low, high = max(picture.bars, key=lambda bar: bar.top), min(picture.bars, key=lambda bar: bar.top)
        ends = [(HIGHEST, high, "highest"), (LOWEST, low, "lowest")]
        random.shuffle(ends)
        (asks, first, _), (_, other, word) = ends
        return [
            Turn(random.choice(asks), first.label),
            Turn(random.choice((f"And the {word}?", f"And which is the {word}?")), other.label),
        ]
    if picture.kind == "table":
        return [cell(random, picture), cell(random, picture, again=True)]
    if picture.kind == "text":
        asks = READ_WORD if picture.text_kind == "word" else READ_NUMBER
        word = colour_word(random)
        return [
            Turn(random.choice(asks), picture.text),
            Turn(
                random.choice((f"What {word} is it?", f"And what {word} is it?", f"Which {word} is it?")),
                picture.text_colour,
            ),
        ]
    return Scene(random, picture).second() if picture.kind == "scene" else None


def yes_or_no(random, picture):
    if picture.kind == "scene" and random.random() < 0.85:
        return Scene(random, picture).yes_or_no()
    what = {"text": ("a word", "a number"), "chart": ("a chart", "a bar chart"), "table": ("a table",), "scene": ()}[
        picture.kind
    ]
    if picture.kind == "text":
        what = (article(picture.text_kind),)
    every = {"a word", "a number", "a bar chart", "a table"} - set(what)
    if what and random.random() < 0.5:
        return Turn(random.choice(("Is there {}?", "Do you see {}?")).format(random.choice(what)), "yes")
    every.discard("a number" if picture.kind in ("chart", "table") else "")
    every.discard("a word" if picture.kind == "chart" else "")
    return Turn(random.choice(("Is there {}?", "Do you see {}?")).format(random.choice(sorted(every))), "no")


def cannot_tell(random, picture):
    """A question that the picture does not answer; without a picture, any question about one."""
    asks = [random.choice(ELSEWHERE)]
    if picture is None:
        asks = list(ELSEWHERE[:4]) + [
            random.choice(READ_WORD),
            random.choice(HIGHEST),
            random.choice(DESCRIBE),
            f"What colour is the {random.choice(SHAPES)}?",
            f"How many {plural(random.choice(SHAPES))} are there?",
        ]
        return Turn(random.choice(asks), UNKNOWN)
    if picture.kind == "texture":
        asks += [
            random.choice(READ),
            random.choice(HIGHEST),
            random.choice(DESCRIBE),
            f"What colour is the {random.choice(SHAPES)}?",
        ]
    if picture.kind in ("scene", "chart"):
        asks += [random.choice(READ_WORD[:4])] + ([random.choice(READ)] if picture.kind == "scene" else [])
    if picture.kind in ("scene", "text", "table"):
        asks.append(random.choice(HIGHEST + LOWEST))
    if picture.kind in ("scene", "text", "chart"):
        asks.append(f"What is in row {random.randint(1, 4)}, column {random.randint(1, 3)}?")
    if picture.kind == "table":
        rows, columns = len(picture.cells), len(picture.cells[0])
        asks.append(f"What is in row {random.randint(rows + 1, 6)}, column {random.randint(1, columns)}?")
    if picture.kind == "chart":
        absent = [letter for letter in CHARACTERS[:26] if all(bar.label != letter for bar in picture.bars)]
        asks.append(f"What colour is bar {random.choice(absent)}?")
    if picture.kind != "texture":
        missing = Scene(random, picture).missing()
        asks += [missing.question] * 2 if missing else []
    return Turn(random.choice(asks), UNKNOWN)


def greeting(random):
    answer = random.choice(list(GREETINGS))
    return Turn(random.choice(GREETINGS[answer]), answer)


def about(random, picture, kind):
    """A dialogue of a kind about a picture, or nothing where the picture has no such question."""
    scene = Scene(random, picture) if picture.kind == "scene" and picture.things else None
    text = picture.text_kind if picture.kind == "text" else None
    turns = None
    if kind == "describe":
        turns = describe(random, picture)
    elif kind in ("count", "colour", "shape", "where", "place", "size"):
        turns = getattr(scene, kind)() if scene else None
    elif kind == "read word" and text == "word":
        turns = Turn(random.choice(READ_WORD), picture.text)
    elif kind == "read number" and text == "number":
        turns = Turn(random.choice(READ_NUMBER), picture.text)
    elif kind == "chart" and picture.kind == "chart":
        turns = ask_chart(random, picture)
    elif kind == "table" and picture.kind == "table":
        turns = ask_table(random, picture)
    elif kind == "yes or no" and (scene or picture.kind in ("text", "chart", "table")):
        turns = yes_or_no(random, picture)
    elif kind == "second turn":
        turns = second(random, picture) if scene or picture.kind != "scene" else None
    elif kind == "cannot tell":
        turns = cannot_tell(random, picture)
    if turns is None:
        return None
    return Dialogue(kind, turns if isinstance(turns, list) else [turns])
