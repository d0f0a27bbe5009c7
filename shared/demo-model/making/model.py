"""The network: the reference's own classes, in a small shape, and the extra heads that teach the tower."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, MistralConfig

import tokens
from anyres import MEAN, PATCH, PER_TILE, PINPOINTS, STD, TILE
from labels import BETWEEN, HEADS, IGNORED, NAMES

# The decoder's layer, counted from 1, after which it shall know what an earlier picture shows at each place.
COMPARED = 2


def config():
    ids = {name: tokens.load().token_to_id(name) for name in tokens.SPECIAL}
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=5,
        image_size=TILE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=160,
    )
    text = MistralConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        vocab_size=tokens.load().get_vocab_size(),
        rope_theta=10000.0,
        max_position_embeddings=4096,
        sliding_window=None,
        bos_token_id=ids[tokens.BOS],
        eos_token_id=ids[tokens.EOS],
        pad_token_id=ids[tokens.PAD],
        tie_word_embeddings=False,
    )
    return LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[tokens.IMAGE],
        image_grid_pinpoints=[list(pair) for pair in PINPOINTS],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=PER_TILE,
        tie_word_embeddings=False,
    )


class Halved(torch.autograd.Function):
    """A linear layer whose products are of bf16, forth and back. Autocast, which halves more, is no faster."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        flat, weight = x.flatten(0, -2).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(flat, weight)
        ctx.biased, made = bias is not None, (flat @ weight.T).float()
        return (made + bias if ctx.biased else made).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        flat, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        half = rows.bfloat16()
        back = (half @ weight).float().view(*grad.shape[:-1], -1)
        return back, (half.T @ flat).float(), rows.sum(0) if ctx.biased else None


def halve(part):
    """Lets all linear layers of a part multiply in bf16: twice as fast on processors that can (`avx512_bf16`)."""
    for layer in part.modules():
        if isinstance(layer, nn.Linear):
            layer.forward = lambda x, layer=layer: Halved.apply(x, layer.weight, layer.bias)


class Learner(nn.Module):
    """The model as it is trained. `llava` is what is kept."""

    def __init__(self):
        super().__init__()
        self.llava = LlavaNextForConditionalGeneration(config())
        tower = self.llava.model.vision_tower
        # The features are those of the last layer but one, so the last is never run: it adds nothing.
        last = tower.encoder.layers[-1]
        for weight in (last.self_attn.out_proj, last.mlp.fc2):
            nn.init.zeros_(weight.weight)
        for weight in last.parameters():
            weight.requires_grad_(False)
        tower.post_layernorm.requires_grad_(False)
        self.norm = nn.LayerNorm(tower.config.hidden_size)
        self.heads = nn.Linear(tower.config.hidden_size, sum(HEADS.values()))
        width = self.llava.config.text_config.hidden_size
        self.compared = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(BETWEEN.values())))
        self.middle = None
        self.llava.model.language_model.layers[COMPARED - 1].register_forward_hook(self._keep)
        self.register_buffer("mean", torch.from_numpy(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.from_numpy(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def tower(self, tiles):
        """Features [tiles, PER_TILE, width] of tiles [tiles, TILE, TILE, 3] of u8."""
        tower = self.llava.model.vision_tower
        pixels = (tiles.permute(0, 3, 1, 2).float() - self.mean) / self.std
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        return hidden[:, 1:]

    def seen(self, features, classes):
        """The heads' loss, and each head's share of right classes where something is. `classes`: [heads, patches]."""
        scores = self.heads(self.norm(features)).flatten(0, 1)
        loss, right, begin = 0.0, {}, 0
        for name, target in zip(NAMES, classes):
            score, begin = scores[:, begin : begin + HEADS[name]], begin + HEADS[name]
            weight = torch.ones(HEADS[name])
            weight[0] = 0.1
            loss = loss + F.cross_entropy(score, target, weight, ignore_index=IGNORED)
            there = target > 0
            right[name] = ((score.argmax(1) == target) & there).sum() / there.sum().clamp(min=1)
        return loss, right

    def _keep(self, layer, given, made):
        self.middle = made

    def differences(self, between):
        """The loss of the head that tells, at the places of a second picture, what the first shows there, and the share
        of changed places that it knows. `between`: [heads, samples, positions]. After `answers`."""
        told = between[0] != IGNORED
        if not told.any():
            # No loss, but a gradient, since all processes share theirs.
            return sum(0.0 * weight.sum() for weight in self.compared.parameters()), None
        scores, wanted = self.compared(self.middle[told]), between[:, told]
        loss, begin = 0.0, 0
        for size, target in zip(BETWEEN.values(), wanted):
            score, begin = scores[:, begin : begin + size], begin + size
            loss = loss + F.cross_entropy(score, target, torch.tensor([0.2] + [1.0] * (size - 1)))
        there = target > 0
        right = ((score.argmax(1) == target) & there).sum() / there.sum().clamp(min=1)
        return loss, right if there.any() else None

    def answers(self, features, batch):
        """The loss over the answers' tokens, and the share of them that are right."""
        model = self.llava.model
        projected = model.multi_modal_projector(features[: batch["own"]]).flatten(0, 1)
        rows = torch.cat([projected, model.image_newline[None], model.language_model.embed_tokens.weight])
        hidden = F.embedding(batch["rows"], rows)
        hidden = model.language_model(
            inputs_embeds=hidden, attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
        ).last_hidden_state
        target = batch["targets"]
        asked = target != IGNORED
        scores, target = self.llava.lm_head(hidden[asked]), target[asked]
        return F.cross_entropy(scores, target), (scores.argmax(1) == target).float().mean()
