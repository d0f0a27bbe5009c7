"""Trains the demonstration model, first the tower on what every patch shows, then the whole on questions.

    python train.py tower --steps 1500
    python train.py whole --steps 4000

Each stage writes `state-STAGE.pt` into `--folder` now and then and goes on from it when it is started again.
The pictures of step n are named by n, so a run that was interrupted sees what it would have seen.
"""

import argparse
import copy
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

import torch
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaNextForConditionalGeneration

import samples
from begin import begin
from heldout import HELD_OUT
from labels import IGNORED
from model import Learner, halve

# Batches of a step of the whole: one length each, so that little is padded.
PARTS = 3
# Share of the pictures that are shown as base only at first, if they can be read so: a third of the time each.
SHORT = 0.75
# Tiles of letters beside each sample, and for how many of a new tower's steps they are black on white.
LETTERS = {"tower": 8, "whole": 1}
PLAIN = 400


class Draws(Dataset):
    """Steps' samples by number, in a few batches of prompts of like length."""

    def __init__(self, arguments, first, rank):
        self.stage, self.size, self.steps = arguments.stage, arguments.batch, arguments.steps
        self.frozen = arguments.frozen if arguments.stage == "whole" else 0
        self.new = arguments.stage == "tower" and arguments.start is None
        self.short, self.first, self.rank, self.ranks = arguments.short, first, rank, arguments.processes

    def __len__(self):
        return self.steps - self.first

    def __getitem__(self, index):
        seed = {"tower": 0, "whole": 1 << 32}[self.stage] + (self.first + index) * self.size
        assert seed + self.size < HELD_OUT, "these seeds are the evaluation's"
        short = SHORT if self.stage == "whole" and self.first + index < self.short else 0.0
        numbers = range(self.rank, self.size, self.ranks)
        drawn = [samples.draw(seed + k, self.stage == "tower", short) for k in numbers]
        plain = self.new and self.first + index < PLAIN
        # A tower that rests learns nothing from letters.
        tiles = 0 if self.first + index < self.frozen else LETTERS[self.stage] * self.size
        sheets = range(self.rank, tiles // samples.CUTS, self.ranks)
        tiles = [tile for k in sheets for tile in samples.letters(seed * 4 + k, plain)]
        if self.stage == "tower":
            return [samples.batch(drawn, tiles)]
        drawn.sort(key=lambda sample: len(sample.rows))
        cuts = [round(k * len(drawn) / PARTS) for k in range(PARTS + 1)]
        return [samples.batch(drawn[begin:end], tiles[k::PARTS]) for k, (begin, end) in enumerate(zip(cuts, cuts[1:]))]


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is made orthogonal (Jordan et al. 2024), like shapes at once."""

    def __init__(self, weights, lr, decay=0.02, momentum=0.95):
        super().__init__([{"params": list(weights)}], {"lr": lr, "decay": decay, "momentum": momentum})

    @staticmethod
    def orthogonal(update, rounds=5):
        update = update.bfloat16()
        tall = update.shape[-2] > update.shape[-1]
        x = update.transpose(-2, -1) if tall else update
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(rounds):
            square = x @ x.transpose(-2, -1)
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        return x.transpose(-2, -1) if tall else x

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes.setdefault(weight.shape, []).append(weight)
            for shape, weights in shapes.items():
                grads = []
                for weight in weights:
                    kept = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                    kept.lerp_(weight.grad, 1 - group["momentum"])
                    grads.append(weight.grad.lerp(kept, group["momentum"]))
                updates = self.orthogonal(torch.stack(grads).flatten(2)).float()
                scale = 0.2 * max(updates.shape[1:]) ** 0.5
                for weight, update in zip(weights, updates):
                    weight.mul_(1 - group["lr"] * group["decay"]).add_(update.view(shape), alpha=-group["lr"] * scale)


def optimizers(learner, rate):
    """Muon for the layers' matrices and the patches' convolution, AdamW for the rest."""
    matrices, rest = [], []
    for name, weight in learner.named_parameters():
        if weight.requires_grad:
            inner = weight.ndim == 4 or (weight.ndim == 2 and ("layers." in name or "projector" in name))
            (matrices if inner else rest).append(weight)
    return Muon(matrices, rate), torch.optim.AdamW(rest, rate, betas=(0.9, 0.98), weight_decay=0.0)


def rate_at(step, left, cooling):
    """Share of the full rate: a short rise, a plateau, and a straight fall to nothing. `left`: the share to come."""
    return min(1.0, (step + 1) / 60, max(0.02, left / cooling))


class Average:
    """The weights' moving average, which is what is kept."""

    def __init__(self, learner):
        self.model = copy.deepcopy(learner).requires_grad_(False)

    @torch.no_grad()
    def follow(self, learner, step):
        share = max(0.005, 1 / (step + 1))
        for mean, weight in zip(self.model.parameters(), learner.parameters()):
            mean.lerp_(weight, share)


def share_gradients(learner, ranks):
    """Every process goes on with the mean of all processes' gradients."""
    grads = [weight.grad for weight in learner.parameters() if weight.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads]) / ranks
    dist.all_reduce(flat)
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads])):
        grad.copy_(part.view_as(grad))


def start_with(learner, start):
    """Sets the first weights: an earlier state's, a checkpoint's, or those of `begin`."""
    if start is None:
        begin(learner.llava.model.vision_tower)
    elif start.is_dir():
        kept = LlavaNextForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
        learner.llava.load_state_dict(kept.state_dict())
    else:
        learner.load_state_dict(torch.load(start)["learner"], strict=False)


def run(rank, arguments):
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    dist.init_process_group(
        "gloo", init_method=f"file://{arguments.meeting}", rank=rank, world_size=arguments.processes
    )
    learner = Learner()
    file, first, spent = arguments.folder / f"state-{arguments.stage}.pt", 0, 0.0
    if not file.exists():
        start_with(learner, arguments.start)
    if arguments.half:
        halve(learner.llava.model)
    tower_only = arguments.stage == "tower"
    if tower_only:
        for part in (
            learner.llava.model.language_model,
            learner.llava.lm_head,
            learner.llava.model.multi_modal_projector,
        ):
            part.requires_grad_(False)
        learner.llava.model.image_newline.requires_grad_(False)
    average, both = Average(learner), optimizers(learner, arguments.rate)
    if file.exists():
        state = torch.load(file)
        learner.load_state_dict(state["learner"])
        average.model.load_state_dict(state["average"])
        for optimizer, kept in zip(both, state["optimizers"]):
            optimizer.load_state_dict(kept)
        first, spent = state["step"], state["seconds"]
        print(f"going on from step {first}", flush=True)
    draws = Draws(arguments, first, rank)
    batches = DataLoader(draws, batch_size=None, num_workers=arguments.workers, prefetch_factor=6)
    began, history = time.monotonic() - spent, deque(maxlen=20)
    for step, parts in enumerate(batches, first):
        left = 1 - step / arguments.steps
        if arguments.minutes:
            # One process' clock is everybody's.
            clock = torch.tensor(1 - (time.monotonic() - began) / (60 * arguments.minutes))
            dist.broadcast(clock, 0)
            left = min(left, clock.item())
        last = step + 1 == arguments.steps or left <= 0
        share = rate_at(step, left, arguments.cooling)
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("full", group["lr"]) * share
        # While the decoder finds its feet the tower rests.
        frozen = not tower_only and step < arguments.frozen
        asked, figures = sum(int((batch["targets"] != IGNORED).sum()) for batch in parts), Counter()
        for batch in parts:
            with torch.set_grad_enabled(not frozen):
                features = learner.tower(batch["tiles"])
            seen, right = learner.seen(features, batch["classes"])
            total = seen / len(parts) * (1.0 if tower_only else arguments.see)
            figures.update(
                {name: value.item() / len(parts) for name, value in right.items()}, seen=seen.item() / len(parts)
            )
            if not tower_only:
                weight = int((batch["targets"] != IGNORED).sum()) / asked
                answer, told = learner.answers(features, batch)
                differ, known = learner.differences(batch["between"])
                total = total + weight * answer + arguments.compare * differ / len(parts)
                figures.update(answers=weight * answer.item(), right=weight * told.item())
                if known is not None:
                    figures.update(differ=known.item(), pairs=1)
            total.backward()
        history.append(figures)
        share_gradients(learner, arguments.processes)
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.follow(learner, step)
        if rank == 0 and (step % 20 == 0 or last):
            mean = {name: sum(figures[name] for figures in history) / len(history) for name in sorted(figures)}
            if pairs := sum(figures["pairs"] for figures in history):
                mean["differ"] = sum(figures["differ"] for figures in history) / pairs
            told = " ".join(f"{name} {value:.3f}" for name, value in mean.items())
            print(f"{time.monotonic() - began:6.0f} s step {step} rate {share:.2f} {told}", flush=True)
        if rank == 0 and ((step + 1) % arguments.keep == 0 or last):
            state = {
                "learner": learner.state_dict(),
                "average": average.model.state_dict(),
                "step": step + 1,
                "optimizers": [optimizer.state_dict() for optimizer in both],
                "seconds": time.monotonic() - began,
            }
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
        if last:
            break


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("tower", "whole"))
    parser.add_argument("--folder", type=Path, default=Path("."), help="where states are kept")
    parser.add_argument(
        "--start", type=Path, help="the state to begin with, or the folder of a checkpoint, whose heads are lost"
    )
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument(
        "--minutes", type=float, help="end the stage after so long, if that is sooner, and let the rate fall until then"
    )
    parser.add_argument("--batch", type=int, default=16, help="samples a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--cooling", type=float, default=0.3, help="share of the steps over which the rate falls")
    parser.add_argument("--short", type=int, default=0, help="steps of the whole for which most pictures are base only")
    parser.add_argument("--frozen", type=int, default=0, help="steps for which the tower rests")
    parser.add_argument(
        "--see", type=float, default=0.1, help="weight of the tower's own heads while the whole is trained"
    )
    parser.add_argument(
        "--compare", type=float, default=0.05, help="weight of the decoder's head that compares two pictures"
    )
    parser.add_argument("--half", action="store_true", help="multiply in bf16, which some processors do twice as fast")
    parser.add_argument("--keep", type=int, default=100, help="steps between two states")
    parser.add_argument("--processes", type=int, default=2, help="that share a step's samples; one a core is fastest")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--workers", type=int, default=1, help="that draw, for each process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments.meeting = Path(folder) / "meeting"
        torch.multiprocessing.spawn(run, (arguments,), arguments.processes)


if __name__ == "__main__":
    main()
