"""Writes the trained weights as a checkpoint in the Hugging Face layout: f16, beside the tokenizer.

python export.py --state state-whole.pt
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlavaNextImageProcessor, LlavaNextProcessor, PreTrainedTokenizerFast

import tokens
from anyres import PATCH, PINPOINTS, TILE
from model import Learner

FOLDER = Path(__file__).parent.parent


def processor():
    """The processor whose files stand beside the weights."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens.load(),
        bos_token=tokens.BOS,
        eos_token=tokens.EOS,
        pad_token=tokens.PAD,
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    image = LlavaNextImageProcessor(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=[list(pair) for pair in PINPOINTS],
    )
    return LlavaNextProcessor(
        image_processor=image,
        tokenizer=tokenizer,
        patch_size=PATCH,
        image_token=tokens.IMAGE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokens.CHAT_TEMPLATE,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument(
        "--weights",
        choices=("learner", "average"),
        default="learner",
        help="the last, which are best once the rate has fallen to nothing, or their average",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    learner = Learner()
    learner.load_state_dict(torch.load(arguments.state)[arguments.weights])
    model = learner.llava.to(torch.float16)
    ids = model.config.text_config
    model.generation_config = GenerationConfig(
        bos_token_id=ids.bos_token_id, eos_token_id=ids.eos_token_id, pad_token_id=ids.pad_token_id
    )
    model.save_pretrained(arguments.folder)
    tokenizer = tokens.FILE.read_text(encoding="utf-8")
    processor().save_pretrained(arguments.folder)
    # The library's own copy differs in layout only; one form is kept, so that a change of words shows as one.
    (arguments.folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    total = sum(file.stat().st_size for file in arguments.folder.glob("*") if file.is_file())
    print(json.dumps({"parameters": sum(weight.numel() for weight in model.parameters()), "bytes": total}))


if __name__ == "__main__":
    main()
