//! Towers without a class token: SigLIP's, with the "full" strategy.

use serde_json::{Value, json};

use super::{Files, hub_config, mistral_text, tiny};
use crate::{Activation, Checkpoint, FeatureSelect, VisionConfig};

/// The tower of `siglip-so400m-patch14-384`, whose tiles are no whole number of patches, as checkpoints of the
/// llava-next class describe it: what the class assumes is left out.
fn files() -> Files {
    let pinpoints = json!([[384, 384], [384, 768], [768, 384], [768, 768]]);
    let vision = json!({
        "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "model_type": "siglip_vision_model",
        "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14
    });
    Files::hub(hub_config(32_000, &mistral_text()))
        .set("config.json", "vision_config", vision)
        .set("config.json", "vision_feature_layer", json!([-24, -20, -12, -1]))
        .set("config.json", "vision_feature_select_strategy", json!("full"))
        .set("config.json", "image_grid_pinpoints", pinpoints.clone())
        .set("processor_config.json", "num_additional_image_tokens", json!(0))
        .set("processor_config.json", "vision_feature_select_strategy", json!("full"))
        .set("preprocessor_config.json", "image_grid_pinpoints", pinpoints)
        .set("preprocessor_config.json", "crop_size", json!({"height": 384, "width": 384}))
        .set("preprocessor_config.json", "size", json!({"height": 384, "width": 384}))
}

#[test]
fn a_sparse_tower_has_the_defaults_of_its_own_class() {
    let checkpoint = files().open().unwrap();
    let expected = VisionConfig {
        hidden_size: 1152,
        intermediate_size: 4304,
        layers: 27,
        heads: 16,
        image_size: 384,
        patch_size: 14,
        channels: 3,
        layer_norm_eps: 1e-6,
        activation: Activation::GeluTanh,
        has_cls: false,
        patch_bias: true,
        input_norm: false,
    };
    assert_eq!(checkpoint.model.vision, expected);
    assert_eq!((expected.patches_per_side(), expected.positions()), (27, 729));
    assert_eq!(checkpoint.geometry().patches_per_side(), 27);
    assert_eq!(checkpoint.model.select, FeatureSelect::Full);
    assert_eq!((checkpoint.model.feature_states(), checkpoint.model.feature_channels()), (vec![4, 8, 16, 27], 4608));
}

#[test]
fn a_tower_that_is_only_named_is_the_base_one() {
    let tile = |files: Files| {
        files
            .set("config.json", "vision_config", json!({"model_type": "siglip_vision_model"}))
            .set("config.json", "vision_feature_layer", json!(-2))
            .set("config.json", "image_grid_pinpoints", json!([[224, 448]]))
            .set("processor_config.json", "patch_size", json!(16))
            .set("preprocessor_config.json", "image_grid_pinpoints", json!([[224, 448]]))
            .set("preprocessor_config.json", "crop_size", json!(224))
            .set("preprocessor_config.json", "size", json!(224))
    };
    let vision = tile(files()).open().unwrap().model.vision;
    assert_eq!((vision.hidden_size, vision.intermediate_size, vision.layers, vision.heads), (768, 3072, 12, 12));
    assert_eq!((vision.image_size, vision.patch_size, vision.positions()), (224, 16, 196));
    assert_eq!((vision.layer_norm_eps, vision.activation), (1e-6, Activation::GeluTanh));
}

#[test]
fn what_the_file_says_goes_before_the_class() {
    let vision = files()
        .set("config.json", "vision_config.hidden_act", json!("gelu"))
        .set("config.json", "vision_config.layer_norm_eps", json!(1e-5))
        .open()
        .unwrap()
        .model
        .vision;
    assert_eq!((vision.activation, vision.layer_norm_eps), (Activation::Gelu, 1e-5));
}

#[test]
fn a_silent_processor_file_follows_the_tower() {
    let processor = files().without("processor_config.json").open().unwrap().processor;
    assert_eq!((processor.num_additional_image_tokens, processor.select), (0, FeatureSelect::Full));
}

#[test]
fn a_strategy_that_does_not_suit_the_tower_is_refused() {
    let strategy = |name: &str| files().set("config.json", "vision_feature_select_strategy", json!(name)).refusal();
    assert_eq!(
        strategy("default"),
        r#"config.json: vision_feature_select_strategy "default" keeps 728 rows of a tile, but 27x27 patches are 729"#
    );
    let clip = files().set("config.json", "vision_config.model_type", json!("clip_vision_model")).refusal();
    assert_eq!(
        clip,
        r#"config.json: vision_feature_select_strategy "full" keeps 730 rows of a tile, but 27x27 patches are 729"#
    );
}

#[test]
fn a_processor_that_counts_a_class_token_or_drops_a_row_is_refused() {
    let refused = |key: &str, value: Value| files().set("processor_config.json", key, value).refusal();
    let model = r#"vision_feature_select_strategy of config.json is "full" (729 features of a tile), but"#;
    assert_eq!(
        refused("num_additional_image_tokens", json!(1)),
        format!(
            r#"{model} num_additional_image_tokens of processor_config.json is 1 with strategy "full" (730 tokens of a tile)"#
        )
    );
    assert_eq!(
        refused("vision_feature_select_strategy", json!("default")),
        format!(
            r#"{model} num_additional_image_tokens of processor_config.json is 0 with strategy "default" (728 tokens of a tile)"#
        )
    );
}

#[test]
fn sides_that_are_lists_and_patches_larger_than_a_tile_are_named() {
    let refused = |key: &str, value: Value| files().set("config.json", key, value).refusal();
    assert_eq!(
        refused("vision_config.image_size", json!([384, 384])),
        "config.json: vision_config.image_size is [384,384], expected pixels, at least 1"
    );
    assert_eq!(
        refused("vision_config.patch_size", json!(385)),
        "config.json: vision_config.patch_size is 385, expected at most image_size, 384"
    );
}

#[test]
fn the_tiny_family_resolves_to_its_values() {
    let checkpoint = Checkpoint::open(&tiny("siglip_full")).unwrap();
    let expected = VisionConfig {
        hidden_size: 32,
        intermediate_size: 48,
        layers: 3,
        heads: 2,
        image_size: 56,
        patch_size: 14,
        channels: 3,
        layer_norm_eps: 1e-6,
        activation: Activation::GeluTanh,
        has_cls: false,
        patch_bias: true,
        input_norm: false,
    };
    let model = &checkpoint.model;
    assert_eq!(model.vision, expected);
    assert_eq!((model.select, model.feature_states(), model.feature_channels()), (FeatureSelect::Full, vec![3, 1], 64));
    assert_eq!((model.text.hidden_size, model.text.layers, model.text.heads, model.text.head_dim), (32, 2, 4, 16));
    let processor = &checkpoint.processor;
    assert_eq!((processor.num_additional_image_tokens, processor.select), (0, FeatureSelect::Full));
    assert_eq!(processor.image, Checkpoint::open(&tiny("mistral")).unwrap().processor.image);
}
