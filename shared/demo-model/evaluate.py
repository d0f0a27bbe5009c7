"""Asks the model questions about pictures that it never saw, through transformers, and counts exact answers.

    python evaluate.py                      prints the table of the model card
    python evaluate.py --sample sample      writes the 200 questions of the test through the services

How the questions are chosen: `making/heldout.py`. The packages: `making/requirements.txt`.
"""

import argparse
import io
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "making"))

import questions  # noqa: E402
from heldout import held_out  # noqa: E402

# New tokens of an answer, at most.
LONGEST = 48


def conversation(asked):
    messages = []
    for index, turn in enumerate(asked.turns):
        pictures = [{"type": "image"}] * len(asked.files) if index == 0 else []
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": turn.question}]})
        if turn is not asked.turns[-1]:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages


class Reference:
    def __init__(self, folder):
        self.processor = LlavaNextProcessor.from_pretrained(folder)
        self.model = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def ask(self, several):
        """The greedy answers: ids, the end included, and texts."""
        prompts = [
            self.processor.apply_chat_template(conversation(asked), add_generation_prompt=True) for asked in several
        ]
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for asked in several for file in asked.files]
        bos = self.processor.tokenizer.bos_token
        prompts = [prompt.removeprefix(bos) for prompt in prompts]
        inputs = self.processor(images=pictures or None, text=prompts, padding=True, return_tensors="pt")
        made = self.model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        end, answers = self.processor.tokenizer.eos_token_id, []
        for ids in made.tolist():
            ids = ids[: ids.index(end) + 1] if end in ids else ids
            answers.append((ids, self.processor.tokenizer.decode(ids, skip_special_tokens=True)))
        return answers


def table(rows):
    """The model card's table, from (kind, truth, answer)."""
    lines = ["| kind | asked | right | exact match | commonest answer |", "|---|---|---|---|---|"]
    kinds = defaultdict(list)
    for kind, truth, answer in rows:
        kinds[kind].append((truth, answer))
    total = sum(truth == answer for _, truth, answer in rows)
    for kind, pairs in [*kinds.items()]:
        right = sum(truth == answer for truth, answer in pairs)
        common = Counter(truth for truth, _ in pairs).most_common(1)[0][1]
        lines.append(f"| {kind} | {len(pairs)} | {right} | {right / len(pairs):.1%} | {common / len(pairs):.1%} |")
    common = Counter(truth for _, truth, _ in rows).most_common(1)[0][1]
    lines.append(f"| **all** | {len(rows)} | {total} | **{total / len(rows):.1%}** | {common / len(rows):.1%} |")
    return "\n".join(lines)


def write_sample(reference, folder, asked):
    """200 questions, as many of each kind as of any, whose pictures are small files.

    In front stands the README's question: a bar chart whose highest bar is named rightly."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = defaultdict(list)
    for one in asked:
        if sum(map(len, one.files)) <= 24_000:
            kinds[one.kind].append(one)
    charts = (
        one for one in kinds["chart"] if one.turns[0].question.startswith("Which bar is the") and one.answer > "D"
    )
    front = next(one for one in charts if reference.ask([one])[0][1] == one.answer)
    kinds["chart"].remove(front)
    order = [kinds[kind][rank] for rank in range(20) for kind in questions.KINDS if rank < len(kinds[kind])][:199]
    lines = []
    for number, one in enumerate([front, *order], 1):
        ids, text = reference.ask([one])[0]
        names = [f"{number:03}{chr(97 + k) if len(one.files) > 1 else ''}.jpg" for k in range(len(one.files))]
        for name, file in zip(names, one.files):
            (folder / name).write_bytes(file)
        turns = [{"question": turn.question, "answer": turn.answer} for turn in one.turns]
        line = {"kind": one.kind, "images": names, "turns": turns, "reference": text, "reference_ids": ids}
        lines.append(json.dumps(line))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE)
    parser.add_argument("--questions", type=int, default=2250)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--sample", type=Path, help="writes the sample of the test into this folder instead")
    parser.add_argument("--wrong", type=int, default=0, help="prints so many wrong answers of each kind")
    arguments = parser.parse_args()
    reference, began = Reference(arguments.model), time.monotonic()
    asked = held_out(arguments.questions)
    if arguments.sample:
        write_sample(reference, arguments.sample, asked)
        return
    rows, shown = [], Counter()
    # Prompts of a like number of pictures stand together: without pictures the processor wants none.
    order = sorted(asked, key=lambda one_asked: len(one_asked.files) > 0)
    first = sum(not one_asked.files for one_asked in order)
    starts = [*range(0, first, arguments.batch), *range(first, len(order), arguments.batch), len(order)]
    for begin, end in zip(starts, starts[1:]):
        end = min(end, first) if begin < first else end
        for one_asked, (_, answer) in zip(order[begin:end], reference.ask(order[begin:end])):
            rows.append((one_asked.kind, one_asked.answer, answer))
            if answer != one_asked.answer and shown[one_asked.kind] < arguments.wrong:
                shown[one_asked.kind] += 1
                print(f"{one_asked.kind}: {one_asked.turns[-1].question} {answer!r}, not {one_asked.answer!r}")
        if sys.stderr.isatty():
            print(f"{end} of {len(order)}", end="\r", file=sys.stderr)
    rows.sort(key=lambda row: questions.KINDS.index(row[0]))
    print(table(rows))
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
