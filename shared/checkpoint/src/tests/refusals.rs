//! Everything that is refused, with the words that it is refused in.

use serde_json::{Value, json};

use super::{Files, hub_config, mistral_text};
use crate::{Checkpoint, CheckpointError};

fn files() -> Files {
    Files::hub(hub_config(32_000, &mistral_text()))
}

#[test]
fn a_wrong_value_of_the_decoder_is_named_with_file_key_and_value() {
    let cases = [
        ("model_type", json!("llava_onevision"), r#"model_type is "llava_onevision", supported: llava_next"#),
        (
            "text_config.model_type",
            json!("gemma"),
            r#"text_config.model_type is "gemma", supported: llama, mistral, qwen2"#,
        ),
        (
            "text_config.hidden_size",
            json!("many"),
            r#"text_config.hidden_size is "many", expected a number from 1 to 2147483647"#,
        ),
        (
            "text_config.num_hidden_layers",
            json!(0),
            "text_config.num_hidden_layers is 0, expected a number from 1 to 2147483647",
        ),
        (
            "text_config.num_key_value_heads",
            json!(5),
            "text_config.num_key_value_heads is 5, expected a divisor of num_attention_heads, 32",
        ),
        ("text_config.head_dim", json!(63), "text_config.head_dim is 63, expected an even number"),
        ("text_config.rope_theta", json!(-1.0), "text_config.rope_theta is -1.0, expected a number greater than 0"),
        (
            "text_config.rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            r#"text_config.rope_scaling.type is "linear", supported: default"#,
        ),
        (
            "text_config.rope_parameters",
            json!({"rope_type": "yarn"}),
            r#"text_config.rope_parameters.rope_type is "yarn", supported: default"#,
        ),
        ("text_config.partial_rotary_factor", json!(0.5), "text_config.partial_rotary_factor is 0.5, supported: 1.0"),
        ("text_config.hidden_act", json!("gelu"), r#"text_config.hidden_act is "gelu", supported: silu"#),
        ("text_config.attention_bias", json!(true), "text_config.attention_bias is true, supported: false"),
    ];
    refuse_each(cases);
}

#[test]
fn a_wrong_value_of_tower_or_projector_is_named() {
    let cases = [
        ("vision_config", json!([]), "vision_config is [], expected an object"),
        (
            "vision_config.model_type",
            json!("siglip2_vision_model"),
            r#"vision_config.model_type is "siglip2_vision_model", supported: clip_vision_model, siglip_vision_model"#,
        ),
        (
            "vision_config.hidden_act",
            json!("relu"),
            r#"vision_config.hidden_act is "relu", supported: quick_gelu, gelu, gelu_pytorch_tanh"#,
        ),
        (
            "vision_config.num_attention_heads",
            json!(7),
            "vision_config.num_attention_heads is 7, expected a divisor of hidden_size, 1024",
        ),
        (
            "vision_config.image_size",
            json!(65_536),
            "vision_config.image_size is 65536, expected at most 32768, the longest side of a grid",
        ),
        (
            "vision_config.num_hidden_layers",
            json!(u64::MAX),
            "vision_config.num_hidden_layers is 18446744073709551615, expected a number from 1 to 2147483647",
        ),
        ("vision_config.patch_size", json!(337), "vision_config.patch_size is 337, expected at most image_size, 336"),
        ("vision_config.num_channels", json!(4), "vision_config.num_channels is 4, supported: 3"),
        ("vision_feature_layer", json!(25), "vision_feature_layer is 25, expected one or more layers from -25 to 24"),
        (
            "vision_feature_layer",
            json!([-26]),
            "vision_feature_layer is -26, expected one or more layers from -25 to 24",
        ),
        ("vision_feature_layer", json!([]), "vision_feature_layer is [], expected one or more layers from -25 to 24"),
        (
            "vision_feature_layer",
            json!("last"),
            r#"vision_feature_layer is "last", expected an integer or a list of them"#,
        ),
        (
            "vision_feature_select_strategy",
            json!("cls"),
            r#"vision_feature_select_strategy is "cls", supported: default, full"#,
        ),
        (
            "projector_hidden_act",
            json!("swish"),
            r#"projector_hidden_act is "swish", supported: quick_gelu, gelu, gelu_pytorch_tanh"#,
        ),
        ("image_token_index", json!(-1), "image_token_index is -1, expected a token id"),
        (
            "image_token_index",
            json!(40_000),
            "image_token_index is 40000, expected below text_config.vocab_size, 32064",
        ),
        ("image_token_id", json!(7), "image_token_id is 7, expected image_token_index, 32000"),
        (
            "image_grid_pinpoints",
            json!([[336]]),
            "image_grid_pinpoints is [[336]], expected a list of [height, width] in pixels",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            r#"quantization_config.quant_method is "gptq", supported: bitsandbytes"#,
        ),
        (
            "quantization_config",
            json!({"load_in_8bit": true}),
            "quantization_config.load_in_8bit is true, supported: false",
        ),
        ("eos_token_id", json!("</s>"), r#"eos_token_id is "</s>", expected a token id or a list of them"#),
    ];
    refuse_each(cases);
}

fn refuse_each<const N: usize>(cases: [(&str, Value, &str); N]) {
    for (key, value, expected) in cases {
        assert_eq!(files().set("config.json", key, value).refusal(), format!("config.json: {expected}"));
    }
}

#[test]
fn the_full_strategy_with_a_class_token_is_refused_before_any_image() {
    assert_eq!(
        files().set("config.json", "vision_feature_select_strategy", json!("full")).refusal(),
        r#"config.json: vision_feature_select_strategy "full" keeps 577 rows of a tile, but 24x24 patches are 576"#
    );
}

#[test]
fn a_wrong_value_of_the_processor_is_named() {
    let cases = [
        ("resample", json!(2), "resample is 2, supported: 3 (bicubic)"),
        ("image_std", json!([1.0, 0.0, 1.0]), "image_std is [1.0, 0.0, 1.0], expected numbers other than 0"),
        ("image_mean", json!([1.0]), "image_mean is [1.0], expected three numbers"),
        (
            "crop_size",
            json!({"height": 336, "width": 224}),
            r#"crop_size is {"height":336,"width":224}, supported: equal height and width"#,
        ),
        ("size", json!({"shortest_edge": 224}), "size is [224, 224], expected crop_size, [336, 336]"),
        ("rescale_factor", json!(0), "rescale_factor is 0, expected a number greater than 0"),
    ];
    for (key, value, expected) in cases {
        let message = files().set("preprocessor_config.json", key, value).refusal();
        assert_eq!(message, format!("preprocessor_config.json: {expected}"));
    }
}

#[test]
fn parts_that_disagree_are_both_named() {
    let pinpoints = files().set("preprocessor_config.json", "image_grid_pinpoints", json!([[336, 672]]));
    assert_eq!(
        pinpoints.refusal(),
        "image_grid_pinpoints of config.json is [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]], \
         but image_grid_pinpoints of preprocessor_config.json is [[336, 672]]"
    );
    let tile = files().set("preprocessor_config.json", "crop_size", json!(224)).set(
        "preprocessor_config.json",
        "size",
        json!(224),
    );
    assert_eq!(
        tile.refusal(),
        "vision_config.image_size of config.json is 336, but crop_size of preprocessor_config.json is 224"
    );
    let patch = files().set("processor_config.json", "patch_size", json!(16));
    assert_eq!(
        patch.refusal(),
        "vision_config.patch_size of config.json is 14, but patch_size of processor_config.json is 16"
    );
    let count = files().set("processor_config.json", "num_additional_image_tokens", json!(0));
    assert_eq!(
        count.refusal(),
        "vision_feature_select_strategy of config.json is \"default\" (576 features of a tile), but \
         num_additional_image_tokens of processor_config.json is 0 with strategy \"default\" (575 tokens of a tile)"
    );
}

#[test]
fn ragged_pinpoints_are_refused() {
    let ragged = json!([[336, 700]]);
    let error = files()
        .set("config.json", "image_grid_pinpoints", ragged.clone())
        .set("preprocessor_config.json", "image_grid_pinpoints", ragged)
        .open()
        .unwrap_err();
    assert!(matches!(error, CheckpointError::Geometry { .. }), "{error}");
}

#[test]
fn a_wrong_sampling_default_is_named() {
    let cases = [
        ("top_p", json!(1.5), "top_p is 1.5, expected above 0 and at most 1"),
        ("temperature", json!(-0.5), "temperature is -0.5, expected a number that is not negative"),
        ("eos_token_id", json!([1, -2]), "eos_token_id is [1,-2], expected a token id or a list of them"),
        ("typical_p", json!(0), "typical_p is 0, expected above 0 and at most 1"),
        ("early_stopping", json!("soon"), "early_stopping is \"soon\", expected true, false or \"never\""),
        ("bad_words_ids", json!([[1], []]), "bad_words_ids is [[1],[]], expected a list of lists of token ids"),
        ("num_beams", json!(0), "num_beams is 0, expected a number from 1 to 2147483647"),
    ];
    for (key, value, expected) in cases {
        let files = files().with("generation_config.json", json!({})).set("generation_config.json", key, value);
        assert_eq!(files.refusal(), format!("generation_config.json: {expected}"));
    }
}

#[test]
fn a_generation_key_that_would_be_ignored_is_refused_unless_it_does_nothing() {
    let with = |key: &str, value: &serde_json::Value| {
        files().with("generation_config.json", json!({})).set("generation_config.json", key, value.clone())
    };
    let cases = [
        ("guidance_scale", json!(1.5), json!(1.0), "1"),
        ("epsilon_cutoff", json!(0.1), json!(0.0), "0"),
        ("forced_eos_token_id", json!(2), json!(null), "none"),
        ("begin_suppress_tokens", json!([3]), json!([]), "none"),
        ("stop_strings", json!("end"), json!(null), "none"),
        ("renormalize_logits", json!(true), json!(false), "false"),
        ("num_beam_groups", json!(2), json!(1), "1"),
    ];
    for (key, value, neutral, supported) in cases {
        let expected = format!("generation_config.json: {key} is {value}, supported: {supported}");
        assert_eq!(with(key, &value).refusal(), expected);
        assert!(with(key, &neutral).open().is_ok(), "{key} {neutral}");
    }
}

#[test]
fn missing_and_broken_files_are_named() {
    assert_eq!(files().without("config.json").refusal(), "config.json is missing");
    assert_eq!(files().without("preprocessor_config.json").refusal(), "preprocessor_config.json is missing");
    assert_eq!(files().with("config.json", Value::Null).refusal(), "config.json is not a JSON object");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), "{\"model_type\":").unwrap();
    assert!(matches!(Checkpoint::open(dir.path()), Err(CheckpointError::NotJson { source: Some(_), .. })));
}
