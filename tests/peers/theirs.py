#!/usr/bin/env python3
"""Measures transformers on the work that tests/benches/serving.rs gives to our services, and what the machine can do.

    python tests/peers/theirs.py --model DIR --json FILE

float32, sdpa attention, two threads, the default cache, and a plain loop over `forward`: less is done between two tokens
than in `generate`, which adds its own part.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import LlavaNextForConditionalGeneration
from transformers.utils import logging

THREADS = 2
MATMUL_SIDE = 2048
READ_BYTES = 1 << 30
TRIES = 5


def seconds(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def limits():
    """The best of some tries: multiplying large matrices, and reading a large one once (as a sum, or by a vector)."""
    square = torch.randn(MATMUL_SIDE, MATMUL_SIDE)
    side = int((READ_BYTES // 4) ** 0.5)
    large, vector = torch.ones(side, side), torch.ones(side)
    product = min(seconds(lambda: square @ square) for _ in range(TRIES))
    read = min(min(seconds(lambda: large @ vector), seconds(large.sum)) for _ in range(TRIES))
    return {"flops": 2 * MATMUL_SIDE**3 / product, "bytes_per_second": 4 * side * side / read}


def greedy(model, prompts, new_tokens):
    """Continues prompts of one length in one batch: seconds to the first tokens, tokens a second after them, the ids."""
    begun = time.perf_counter()
    ids, cache, chosen = torch.tensor(prompts), None, []
    while len(chosen) < new_tokens:
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids, cache = output.logits[:, -1].argmax(-1, keepdim=True), output.past_key_values
        chosen.append(ids)
        if len(chosen) == 1:
            first = time.perf_counter()
    to_first, decoding = first - begun, time.perf_counter() - first
    speed = len(prompts) * (new_tokens - 1) / decoding if new_tokens > 1 else None
    work = f"{len(prompts)} x {len(prompts[0])} positions"
    print(f"{work}: first tokens after {to_first:.2f} s, then {speed or 0:.2f} a second", flush=True)
    return {"first_token_seconds": to_first, "tokens_per_second": speed, "token_ids": torch.cat(chosen, 1).tolist()}


@torch.inference_mode()
def measure(folder, batches):
    work = json.loads((folder / "workload.json").read_text())
    report = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": torch.get_num_threads(),
        "limits": limits(),
    }
    model = LlavaNextForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    greedy(model, [work["warm_up"]], 4)
    report["prefill"] = greedy(model, [work["prefill"]], 1)
    report["lengths"] = [
        {
            "positions": len(prompts["one"]),
            "one": greedy(model, [prompts["one"]], work["new_tokens"]),
            "many": greedy(model, prompts["many"], work["new_tokens"]) if index < batches else None,
        }
        for index, prompts in enumerate(work["lengths"])
    ]
    return report


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, required=True, metavar="DIR", help="what make_model.py made")
    arguments.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    arguments.add_argument("--batches", type=int, default=99, help="batches only of so many lengths, the shortest")
    given = arguments.parse_args()
    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    given.json.write_text(json.dumps(measure(given.model, given.batches)))


if __name__ == "__main__":
    main()
