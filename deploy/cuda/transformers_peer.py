#!/usr/bin/env python3
"""The proof's work by transformers: the same checkpoint, on the same GPU, in the same run (prove.sh).

    transformers_peer.py --model DIR --results DIR [--device cuda:0] [--size real|small]

bf16, scaled dot product attention, a static cache; decode steps through torch.compile where that works. Writes
DIR/transformers.json with figures under the names of tests/proof, and checks of what our models made of the same input
(DIR/agreement-*.json).
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, LlavaNextForConditionalGeneration, StaticCache


@dataclass
class Size:
    """As in tests/proof/program.rs."""

    context: int = 3000
    batch: int = 64
    batch_context: int = 1024
    tiles: tuple = (5, 64)
    runs: int = 20
    steps: int = 100


SIZES = {"real": Size(), "small": Size(context=70, batch=3, batch_context=40, tiles=(2, 3), runs=2, steps=3)}
QUESTION = 64
# Two roundings to bf16 add up, ours and theirs: to the length of the numbers, over 32 layers.
BF16 = 6e-2


def synchronized():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def milliseconds(warm_up, runs, run):
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(runs):
        began = synchronized()
        run()
        times.append((synchronized() - began) * 1e3)
    return times


class Report:
    """What tests/proof/report.rs reads; written after each step, so that what ends early has a result."""

    def __init__(self, path):
        self.path, self.figures, self.checks = path, [], []
        self.machine = [f"transformers {transformers.__version__}, torch {torch.__version__}"]

    def write(self):
        self.path.write_text(json.dumps({"machine": self.machine, "figures": self.figures, "checks": self.checks}))

    def figure(self, name, times):
        times = sorted(times)
        least, median, most = times[0], times[len(times) // 2], times[-1]
        print(f"{name:52} {least:10.3f} {median:10.3f} {most:10.3f} ms", flush=True)
        figure = {"name": name, "unit": "ms", "least": least, "median": median, "most": most, "runs": len(times)}
        self.figures = [other for other in self.figures if other["name"] != name] + [figure]
        self.write()

    def check(self, name, ours, theirs):
        ours, theirs = torch.tensor(ours), theirs.float().cpu()
        apart = ((ours - theirs).norm() / theirs.norm()).item()
        found = f"{apart:.1e} of their length apart, {BF16:.0e} passes"
        print(f"{name}: {found}", flush=True)
        self.checks.append({"name": name, "holds": apart <= BF16, "found": found})
        self.write()


def pixels(tiles, side, device):
    """The formula of tests/proof/agreement.rs."""
    index = torch.arange(tiles * 3 * side * side, dtype=torch.int64)
    values = (index * 7919 % 2003).float() / 1001 - 1
    return values.reshape(tiles, 3, side, side).to(device, torch.bfloat16)


def agree(model, results, report, device):
    """Our scores and features beside theirs."""
    file = results / "agreement-scores.json"
    if file.exists():
        ours = json.loads(file.read_text())
        scores = model(input_ids=torch.tensor([ours["ids"]], device=device), logits_to_keep=1).logits[0, -1]
        report.check("scores of the large model, ours and transformers' in bf16", ours["scores"], scores)
    file = results / "agreement-features.json"
    if file.exists():
        ours = json.loads(file.read_text())
        features = tower(model)(pixels(1, tile_side(model), device))
        # Theirs has the class token in front.
        features = features[0, 1:].flatten()[: len(ours)]
        report.check("features of the large model, ours and transformers' in bf16", ours, features)


def tile_side(model):
    return model.config.vision_config.image_size


def tower(model):
    """The tower up to the selected layer, as the model itself calls it."""
    vision = model.model.vision_tower
    layer = model.config.vision_feature_layer
    return lambda tiles: vision(tiles, output_hidden_states=True).hidden_states[layer]


class Decoder:
    """Greedy steps with a static cache, behind random tokens."""

    def __init__(self, model, sequences, context, size, device):
        self.model, self.device, self.length = model.model.language_model, device, context
        self.head = model.lm_head
        room = context + 3 * (size.runs + size.steps)
        self.cache = StaticCache(config=model.config.get_text_config(), max_cache_len=room)
        ids = torch.randint(3, 500, (sequences, context), device=device)
        # All prompts at once would need room for more than the cache.
        chunk = max(1, 8192 // sequences)
        for start in range(0, context, chunk):
            part = ids[:, start : start + chunk]
            positions = torch.arange(start, start + part.shape[1], device=device)
            self.model(input_ids=part, past_key_values=self.cache, cache_position=positions, use_cache=True)
        self.last = ids[:, -1:].clone()
        self.position = torch.tensor([context], device=device)
        self.run = self.forward

    def forward(self, last, position):
        output = self.model(
            input_ids=last,
            past_key_values=self.cache,
            cache_position=position,
            position_ids=position[None].expand(last.shape[0], 1),
            use_cache=True,
        )
        return self.head(output.last_hidden_state).argmax(-1)

    def step(self):
        self.last = self.run(self.last, self.position).clone()
        self.position += 1

    def rewind(self):
        self.position.fill_(self.length)


def decode(model, sequences, context, name, size, report, device):
    decoder = Decoder(model, sequences, context, size, device)
    # First as it is: should compiling fail or take too long, this stays.
    report.figure(name, milliseconds(3, size.runs, decoder.step))
    decoder.rewind()
    try:
        decoder.run = torch.compile(decoder.forward, mode="reduce-overhead", fullgraph=False)
        compiled = milliseconds(3 + size.steps // 10, size.steps, decoder.step)
    except Exception as error:  # noqa: BLE001: whatever it cannot compile
        report.machine.append(f"{name}: torch.compile failed ({type(error).__name__}), so this is without it")
        report.write()
        return
    report.figure(name, compiled)
    report.machine.append(f"{name}: with a static cache and torch.compile")
    report.write()


def prefill(model, rows, size, report, device):
    width = model.config.get_text_config().hidden_size
    embeddings = torch.randn(1, rows + QUESTION, width, device=device, dtype=torch.bfloat16)

    def run():
        output = model.model.language_model(inputs_embeds=embeddings, use_cache=True)
        model.lm_head(output.last_hidden_state[:, -1:]).argmax(-1).item()

    report.figure("prefill of a picture and its question", milliseconds(3, size.runs, run))


def towers(model, size, report, device):
    run = tower(model)
    for name, tiles in zip(("tower, tiles of one picture", "tower, many tiles"), size.tiles):
        values = pixels(tiles, tile_side(model), device)
        # From and to the host, as ours.
        host = values.cpu()
        report.figure(name, milliseconds(3, size.runs, lambda: run(host.to(device)).cpu()))


def first_token(model, folder, rows, size, report, device):
    """Without a server and without a picture's decoding: from pixel values to a token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    side, image = tile_side(model), model.config.image_token_id
    words = tokenizer("What is shown in this image?").input_ids
    ids = torch.tensor([[1] + [image] * rows + words], device=device)
    tiles = pixels(5, side, device)[None].cpu()
    sizes = torch.tensor([[2 * side, 2 * side]])

    def run():
        output = model(
            input_ids=ids,
            pixel_values=tiles.to(device),
            image_sizes=sizes.to(device),
            logits_to_keep=1,
        )
        output.logits.argmax(-1).item()

    report.figure("first token of a question about a new picture", milliseconds(2, size.runs, run))


@torch.inference_mode()
def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--results", type=Path, required=True)
    arguments.add_argument("--device", default="cuda:0")
    arguments.add_argument("--size", choices=SIZES, default="real")
    given = arguments.parse_args()
    if given.device.startswith("cuda"):
        torch.cuda.set_device(given.device)
    report = Report(given.results / "transformers.json")
    model = LlavaNextForConditionalGeneration.from_pretrained(
        given.model, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    model = model.eval().to(given.device)
    print(f"loaded after {time.process_time():.0f} s of a core", flush=True)
    device, size = given.device, SIZES[given.size]
    # A picture of two by two tiles: the base, the grid, and a newline behind each of its rows.
    side = tile_side(model) // model.config.vision_config.patch_size
    rows = 5 * side**2 + 2 * side
    steps = [
        lambda: agree(model, given.results, report, device),
        lambda: prefill(model, rows, size, report, device),
        lambda: towers(model, size, report, device),
        lambda: first_token(model, given.model, rows, size, report, device),
        lambda: decode(model, 1, size.context, "decode, 1 sequence", size, report, device),
        lambda: decode(model, size.batch, size.batch_context, "decode, many sequences", size, report, device),
    ]
    failed = 0
    for step in steps:
        try:
            step()
        except Exception as error:  # noqa: BLE001: one that fails must not keep the others from being measured
            failed += 1
            print(f"failed: {type(error).__name__}: {error}", flush=True)
            report.machine.append(f"transformers: {type(error).__name__}: {str(error)[:200]}")
            report.write()
        torch.cuda.empty_cache()
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
