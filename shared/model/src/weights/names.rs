//! The names of tensors. Four spellings are in the world; all are normalised to that of the newest module tree.
//!
//! | part | hub files | saved since 5.6 | modules 4.52 to 5.5 | normalised |
//! | --- | --- | --- | --- | --- |
//! | decoder | `language_model.model.` | the same | `model.language_model.` | `model.language_model.` |
//! | head | `language_model.lm_head.` | the same | `lm_head.` | `lm_head.` |
//! | tower | `vision_tower.vision_model.` | `vision_tower.` | `model.vision_tower.vision_model.` | `model.vision_tower.` |
//! | projector | `multi_modal_projector.` | the same | `model.multi_modal_projector.` | `model.multi_modal_projector.` |
//! | newline | `image_newline` | the same | `model.image_newline` | `model.image_newline` |

use tessera_checkpoint::VisionConfig;

pub(crate) const EMBEDDINGS: &str = "model.language_model.embed_tokens.weight";
pub(crate) const FINAL_NORM: &str = "model.language_model.norm.weight";
pub(crate) const HEAD: &str = "lm_head";
pub(crate) const NEWLINE: &str = "model.image_newline";
pub(crate) const PROJECTOR_1: &str = "model.multi_modal_projector.linear_1";
pub(crate) const PROJECTOR_2: &str = "model.multi_modal_projector.linear_2";
pub(crate) const TOWER: &str = "model.vision_tower.";
pub(crate) const CLASS_EMBEDDING: &str = "model.vision_tower.embeddings.class_embedding";
pub(crate) const PATCH_EMBEDDING: &str = "model.vision_tower.embeddings.patch_embedding.weight";
pub(crate) const PATCH_BIAS: &str = "model.vision_tower.embeddings.patch_embedding.bias";
pub(crate) const POSITION_EMBEDDING: &str = "model.vision_tower.embeddings.position_embedding.weight";
/// Spelled like this in every checkpoint.
pub(crate) const INPUT_NORM: &str = "model.vision_tower.pre_layrnorm";

/// What the names of all parts of decoder layers begin with.
pub(crate) const DECODER_LAYERS: &str = "model.language_model.layers.";
const TOWER_LAYERS: &str = "model.vision_tower.encoder.layers.";
const PROJECTOR: &str = "model.multi_modal_projector.";

/// Returns the name of a part of a decoder layer, counted from 0.
pub(crate) fn decoder_layer(layer: usize, part: &str) -> String {
    format!("{DECODER_LAYERS}{layer}.{part}")
}

/// Returns the name of a part of a tower layer, counted from 0.
pub(crate) fn tower_layer(layer: usize, part: &str) -> String {
    format!("{TOWER_LAYERS}{layer}.{part}")
}

/// Returns the normalised name of a stored tensor; that of an unknown one stays as it is.
pub(super) fn normalised(stored: &str) -> String {
    if let Some(rest) = stored.strip_prefix("language_model.model.") {
        return format!("model.language_model.{rest}");
    }
    if let Some(rest) = stored.strip_prefix("language_model.lm_head.") {
        return format!("lm_head.{rest}");
    }
    let old = ["vision_tower.", "multi_modal_projector.", "image_newline"].iter().any(|old| stored.starts_with(old));
    let name = if old { format!("model.{stored}") } else { stored.to_owned() };
    match name.strip_prefix("model.vision_tower.vision_model.") {
        Some(rest) => format!("{TOWER}{rest}"),
        None => name,
    }
}

/// Tells whether the vision model with this tower, of which `layers` layers run, needs the tensor.
pub(crate) fn of_vision(name: &str, tower: &VisionConfig, layers: usize) -> bool {
    let embedding = match name {
        PATCH_EMBEDDING | POSITION_EMBEDDING => true,
        PATCH_BIAS => tower.patch_bias,
        CLASS_EMBEDDING => tower.has_cls,
        _ => false,
    };
    let input_norm = tower.input_norm && name.starts_with(INPUT_NORM) && is_parameter(name);
    embedding || input_norm || is_of_layer(name, TOWER_LAYERS, layers) || is_of_both(name)
}

/// Tells whether the language model with this many decoder layers needs the tensor.
pub(crate) fn of_language(name: &str, layers: usize, tied: bool) -> bool {
    let head = !tied && name.starts_with(HEAD) && is_parameter(name);
    name == EMBEDDINGS || name == FINAL_NORM || head || is_of_layer(name, DECODER_LAYERS, layers) || is_of_both(name)
}

/// Projector and newline vector are small and needed on both sides.
fn is_of_both(name: &str) -> bool {
    name == NEWLINE || (name.starts_with(PROJECTOR) && is_parameter(name))
}

/// Tells whether this is a parameter of one of the first `layers` layers.
fn is_of_layer(name: &str, prefix: &str, layers: usize) -> bool {
    let index = name.strip_prefix(prefix).and_then(|rest| rest.split('.').next());
    index.and_then(|index| index.parse().ok()).is_some_and(|index: usize| index < layers) && is_parameter(name)
}

/// Files of old versions also hold constants (`rotary_emb.inv_freq`, `position_ids`), which are computed here.
fn is_parameter(name: &str) -> bool {
    name.ends_with(".weight") || name.ends_with(".bias")
}

#[cfg(test)]
mod tests {
    use tessera_checkpoint::Activation;

    use super::*;

    #[test]
    fn the_four_spellings_become_one() {
        let spellings = [
            ["language_model.model.norm.weight", "model.language_model.norm.weight", FINAL_NORM, FINAL_NORM],
            ["language_model.lm_head.weight", "language_model.lm_head.weight", "lm_head.weight", "lm_head.weight"],
            ["image_newline", "image_newline", "model.image_newline", NEWLINE],
            [
                "vision_tower.vision_model.embeddings.class_embedding",
                "vision_tower.embeddings.class_embedding",
                "model.vision_tower.vision_model.embeddings.class_embedding",
                CLASS_EMBEDDING,
            ],
        ];
        for [a, b, c, d] in spellings {
            assert_eq!([a, b, c, d].map(normalised), [d; 4].map(str::to_owned));
        }
        assert_eq!(normalised("multi_modal_projector.linear_1.bias"), format!("{PROJECTOR_1}.bias"));
    }

    fn tower(has_cls: bool) -> VisionConfig {
        VisionConfig {
            hidden_size: 64,
            intermediate_size: 128,
            layers: 24,
            heads: 4,
            image_size: 336,
            patch_size: 14,
            channels: 3,
            layer_norm_eps: 1e-5,
            activation: Activation::Gelu,
            has_cls,
            patch_bias: !has_cls,
            input_norm: has_cls,
        }
    }

    #[test]
    fn each_side_wants_its_own_and_no_constants() {
        let of_vision = |name: &str, layers| of_vision(name, &tower(true), layers);
        let block = |layer| tower_layer(layer, "mlp.fc1.weight");
        assert!(of_vision(&block(22), 23) && !of_vision(&block(23), 23) && !of_language(&block(0), 32, false));
        let layer = |layer| decoder_layer(layer, "mlp.up_proj.weight");
        assert!(of_language(&layer(31), 32, false) && !of_language(&layer(32), 32, false) && !of_vision(&layer(0), 23));
        assert!(!of_language(&decoder_layer(0, "self_attn.rotary_emb.inv_freq"), 32, false));
        assert!(!of_vision("model.vision_tower.embeddings.position_ids", 23));
        assert!(of_language("lm_head.weight", 32, false) && !of_language("lm_head.weight", 32, true));
        for name in [NEWLINE, "model.multi_modal_projector.linear_2.bias"] {
            assert!(of_vision(name, 0) && of_language(name, 0, true));
        }
    }

    #[test]
    fn a_tower_wants_the_tensors_of_its_options_and_nothing_after_its_blocks() {
        let (clip, siglip) = (tower(true), tower(false));
        for name in [CLASS_EMBEDDING, "model.vision_tower.pre_layrnorm.weight", "model.vision_tower.pre_layrnorm.bias"]
        {
            assert!(of_vision(name, &clip, 23) && !of_vision(name, &siglip, 23), "{name}");
        }
        assert!(of_vision(PATCH_BIAS, &siglip, 23) && !of_vision(PATCH_BIAS, &clip, 23));
        for name in ["post_layernorm.weight", "head.probe", "head.mlp.fc1.weight", "head.attention.in_proj_bias"] {
            let name = format!("{TOWER}{name}");
            assert!(!of_vision(&name, &siglip, 24) && !of_vision(&name, &clip, 24), "{name}");
        }
    }
}
