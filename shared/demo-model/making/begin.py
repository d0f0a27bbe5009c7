"""What the tower begins with, so that little has to be learned before it can learn to read.

* The patches' convolution whitens: its filters are the principal components of the training pictures' patches, each as
  loud as the next (as in Jordan's airbench, 2024). Raw pixels tell mostly of brightness, strokes would be drowned.
* The last `PLACE` channels hold a patch's place, and the heads of all layers begin as a convolution's taps: each looks
  at one neighbour (after d'Ascoli et al., ConViT, 2021).
"""

import torch

import samples
from anyres import ACROSS, MEAN, PATCH, STD

PLACE = 32
# Rows and columns from a patch to the one that a head looks at, a head each.
TAPS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))
# How sharply the heads look.
GAIN = 1.3
PICTURES = 250
SEED = 1 << 34


def patches():
    """Patches [n, 3 * PATCH * PATCH] of the tower's pictures, normalised."""
    found = []
    for seed in range(SEED, SEED + PICTURES):
        tiles = (
            torch.from_numpy(samples.draw(seed, True).tiles).float() / 255 - torch.from_numpy(MEAN)
        ) / torch.from_numpy(STD)
        cut = tiles.permute(0, 3, 1, 2).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        found.append(cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH * PATCH))
    return torch.cat(found)


def paces():
    return torch.linspace(0.4, 2.8, PLACE // 4)


def places():
    """Sines and cosines of rows and columns: [PER_TILE, PLACE], pairs side by side."""
    row, column = torch.meshgrid(torch.arange(ACROSS), torch.arange(ACROSS), indexing="ij")
    angles = torch.cat([place.reshape(-1, 1) * paces() for place in (row, column)], 1)
    return 2**0.5 * torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


@torch.no_grad()
def begin(tower):
    """Sets a CLIP tower's first weights."""
    width = tower.config.hidden_size
    content = width - PLACE
    seen = patches()
    mean = seen.mean(0)
    power, parts = torch.linalg.eigh((seen - mean).T @ (seen - mean) / len(seen))
    filters = 0.35 * (parts / (power + 0.01).sqrt()).T.flip(0)[:content]
    tower.embeddings.patch_embedding.weight.zero_()
    tower.embeddings.patch_embedding.weight[:content] = filters.view(content, 3, PATCH, PATCH)
    position = tower.embeddings.position_embedding.weight
    position.zero_()
    position[1:, content:] = places()
    position[1:, :content] = -filters @ mean
    for layer in tower.encoder.layers:
        attention, size = layer.self_attn, PLACE
        attention.q_proj.weight.mul_(0.3)
        attention.k_proj.weight.mul_(0.3)
        for head, (down, across) in enumerate(TAPS):
            turn = torch.cat([down * paces(), across * paces()])
            for pair, angle in enumerate(turn):
                sine, cosine = content + 2 * pair, content + 2 * pair + 1
                row = head * size + 2 * pair
                attention.k_proj.weight[row, sine] += GAIN
                attention.k_proj.weight[row + 1, cosine] += GAIN
                # A query turned by the angle meets the key of the patch that lies so far away.
                attention.q_proj.weight[row, sine] += GAIN * angle.cos()
                attention.q_proj.weight[row, cosine] += GAIN * angle.sin()
                attention.q_proj.weight[row + 1, cosine] += GAIN * angle.cos()
                attention.q_proj.weight[row + 1, sine] -= GAIN * angle.sin()
