"""The tokenizer: byte-level BPE over the questions' words. Capitals and digits stay apart: they are spelled."""

import json
from functools import lru_cache
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import questions
import world
from canvas import COLOURS, SHAPES

BOS, EOS, PAD, ASK, END, IMAGE = SPECIAL = ("<s>", "</s>", "<pad>", "[INST]", "[/INST]", "<image>")
SIZE = 1024
FILE = Path(__file__).parent.parent / "tokenizer.json"
CHAT_TEMPLATE = """\
{#- Pictures come before the words of their turn. System messages are left out: the model never saw one. -#}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ '[INST]' }}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>' }}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{{ '[/INST]' }}
{%- elif message['role'] == 'assistant' -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}{{ '</s>' }}
{%- elif message['role'] != 'system' -%}
{{ raise_exception('unsupported role: ' ~ message['role']) }}
{%- endif -%}
{%- endfor -%}"""


def corpus(seed=0, count=6000):
    """Questions and answers, without what is spelled: words in capitals and numbers."""
    random = Random(seed)
    for index in range(count):
        if index % 5 == 0:
            picture = world.picture(random, random.choice(world.KINDS))
        dialogue = questions.about(random, picture, random.choice(questions.KINDS))
        for turn in dialogue.turns if dialogue else [questions.greeting(random)]:
            for text in (turn.question, turn.answer):
                kept = " ".join(word for word in text.split(" ") if not (word.isupper() and len(word) > 1))
                yield kept if index % 4 else kept[:1].lower() + kept[1:]
    for text in questions.DIFFER + questions.ELSEWHERE + tuple(questions.GREETINGS):
        yield from [text] * 20
    for colour in COLOURS:
        for shape in SHAPES:
            yield f"The {colour} {shape} is gone. An The {colour} {shape} is new. is now {colour}. A {colour} {shape}"
            yield f"How many {colour} {questions.plural(shape)} first second picture"


def make():
    tokenizer = Tokenizer(models.BPE())
    # Words with the space before them; capitals one by one unless a word goes on in small letters; digits one by one.
    pattern = r" ?\p{Lu}?\p{Ll}+(?:'\p{Ll}+)?| ?\p{N}| ?\p{Lu}| ?[^\s\p{L}\p{N}]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(SPECIAL),
        show_progress=False,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    begin = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, begin)]),
        ]
    )
    return tokenizer


@lru_cache(maxsize=1)
def load():
    return Tokenizer.from_file(str(FILE))


@lru_cache(maxsize=200_000)
def encode(text):
    return tuple(load().encode(text, add_special_tokens=False).ids)


if __name__ == "__main__":
    tokenizer = make()
    FILE.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(tokenizer.get_vocab_size(), "tokens")
