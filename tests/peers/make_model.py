#!/usr/bin/env python3
"""Makes what both sides of the comparison read: a random checkpoint of real shape, and the work.

    python tests/peers/make_model.py --out DIR

DIR/ gets a LLaVA-NeXT checkpoint in the usual layout (1.8 GB, float32): the tower of CLIP ViT-L/14-336 and a decoder of
SmolLM2-135M's shape as a Mistral. The weights are seeded by (seed, parameter name), and so are
    workload.json   the prompts (ids), how many new tokens, the questions about the picture, the weights' size
    picture.png     a picture that is cut into 2 x 2 tiles and the base
Tokenizer and chat template are those of the tiny checkpoints; the embedding table has more rows than the tokenizer ids.
"""

import argparse
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures"))
from make_tiny import TEMPLATES, build_tokenizer, picture, pinpoints  # noqa: E402
from transformers import (  # noqa: E402
    CLIPVisionConfig,
    GenerationConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    MistralConfig,
)

SEED = 20240313
TILE, PATCH = 336, 14
VOCABULARY = 49152
NEW_TOKENS = 48
PREFILL = 2000
LENGTHS = [256, 2400]
STREAMS = 8
QUESTIONS = ["What is shown in this image?", "Which colour is on the left side?"]


def config(image_token):
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=TILE,
        patch_size=PATCH,
        projection_dim=768,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    text = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        sliding_window=None,
        tie_word_embeddings=True,
    )
    return LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        image_grid_pinpoints=pinpoints(TILE),
        image_seq_length=(TILE // PATCH) ** 2,
        tie_word_embeddings=True,
    )


@torch.no_grad()
def fill(model):
    """Weights scaled by their fan-in, so that nothing fades or grows and the likeliest token is not nearly a tie. The
    embeddings are small: the output layer is the same table, and would else only say the last token again."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed((zlib.crc32(name.encode()) ^ SEED) & 0x7FFFFFFF)
        values = torch.randn(parameter.shape, generator=generator)
        if "norm" in name or "layrnorm" in name:
            values = 1.0 + 0.1 * values if name.endswith("weight") else 0.1 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        elif "embed_tokens" in name:
            values = 0.05 * values
        elif "image_newline" in name or "class_embedding" in name or "position_embedding" in name:
            values = 0.5 * values
        else:
            values = values * (1.5 / math.sqrt(parameter[0].numel()))
        parameter.copy_(values)


def workload(model, tokenizer):
    """Prompts that share no beginning, so that none is helped by another one's cache."""
    draws = np.random.default_rng(SEED)

    def prompt(length):
        return draws.integers(len(tokenizer), VOCABULARY, length).tolist()

    language = {name: p for name, p in model.named_parameters() if "vision_tower" not in name}
    return {
        "new_tokens": NEW_TOKENS,
        "warm_up": prompt(64),
        "prefill": prompt(PREFILL),
        "lengths": [{"one": prompt(n), "many": [prompt(n) for _ in range(STREAMS)]} for n in LENGTHS],
        "picture": "picture.png",
        "questions": QUESTIONS,
        "weight_bytes": sum(p.numel() * p.element_size() for p in language.values()),
        "layer_weights": sum(p.numel() for name, p in language.items() if ".layers." in name),
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the checkpoint goes")
    out = arguments.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    tokenizer = build_tokenizer("mistral")
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(config(tokenizer.convert_tokens_to_ids("<image>")))
    model = model.to_empty(device="cpu").float().eval()
    model.tie_weights()
    fill(model)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    image_processor = LlavaNextImageProcessor(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=pinpoints(TILE),
    )
    processor = LlavaNextProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES["mistral"],
    )
    model.save_pretrained(out)
    processor.save_pretrained(out)
    picture(2 * TILE, 2 * TILE, SEED).save(out / "picture.png")
    (out / "workload.json").write_text(json.dumps(workload(model, tokenizer)))


if __name__ == "__main__":
    main()
