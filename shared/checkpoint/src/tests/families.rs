//! The tiny checkpoints of every family.

use tessera_anyres::ImageSize;

use super::tiny;
use crate::{Activation, Checkpoint, Family, FeatureSelect};

struct Expected {
    name: &'static str,
    family: Family,
    kv_heads: usize,
    rope_theta: f64,
    rms_norm_eps: f64,
    vocab_size: usize,
    image_token_id: u32,
    eos: u32,
    pad: u32,
    tile: u32,
}

const MISTRAL: Expected = Expected {
    name: "mistral",
    family: Family::Mistral,
    kv_heads: 2,
    rope_theta: 1e6,
    rms_norm_eps: 1e-5,
    vocab_size: 640,
    image_token_id: 586,
    eos: 2,
    pad: 587,
    tile: 56,
};

const VICUNA: Expected =
    Expected { name: "vicuna", family: Family::Llama, kv_heads: 4, rope_theta: 1e4, pad: 0, ..MISTRAL };

const EXPECTED: [Expected; 8] = [
    MISTRAL,
    VICUNA,
    Expected {
        name: "llama3",
        kv_heads: 2,
        rope_theta: 5e5,
        vocab_size: 576,
        image_token_id: 527,
        eos: 526,
        pad: 528,
        ..VICUNA
    },
    Expected {
        name: "qwen2",
        family: Family::Qwen2,
        kv_heads: 4,
        rms_norm_eps: 1e-6,
        vocab_size: 576,
        image_token_id: 517,
        eos: 516,
        pad: 514,
        ..MISTRAL
    },
    Expected { name: "yi", kv_heads: 1, rope_theta: 5e6, image_token_id: 591, eos: 7, ..VICUNA },
    Expected { name: "mistral_oddgrid", tile: 42, ..MISTRAL },
    Expected { name: "vicuna_layers", ..VICUNA },
    Expected { name: "mistral_hub_fp16", ..MISTRAL },
];

#[test]
fn every_tiny_family_resolves_to_its_values() {
    for expected in EXPECTED {
        let name = expected.name;
        let checkpoint = Checkpoint::open(&tiny(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = &checkpoint.model.text;
        assert_eq!(text.family, expected.family, "{name}");
        assert_eq!((text.hidden_size, text.intermediate_size, text.layers), (64, 112, 3), "{name}");
        assert_eq!((text.heads, text.kv_heads, text.head_dim), (4, expected.kv_heads, 16), "{name}");
        assert_eq!((text.rope_theta, text.rms_norm_eps), (expected.rope_theta, expected.rms_norm_eps), "{name}");
        assert_eq!((text.max_positions, text.sliding_window), (4096, None), "{name}");
        assert_eq!(text.vocab_size, expected.vocab_size, "{name}");
        assert_eq!(text.qkv_bias, expected.family == Family::Qwen2, "{name}");

        let vision = &checkpoint.model.vision;
        assert_eq!((vision.hidden_size, vision.intermediate_size, vision.layers, vision.heads), (64, 128, 4, 4));
        assert_eq!((vision.image_size, vision.patch_size, vision.channels), (expected.tile, 14, 3), "{name}");
        assert_eq!((vision.layer_norm_eps, vision.activation), (1e-5, Activation::QuickGelu), "{name}");

        let model = &checkpoint.model;
        assert_eq!(model.image_token_id, expected.image_token_id, "{name}");
        assert_eq!((model.select, model.projector_bias), (FeatureSelect::Default, true), "{name}");
        assert_eq!(model.projector_activation, Activation::Gelu, "{name}");
        assert_eq!(model.tie_word_embeddings, name == "vicuna_layers", "{name}");
        let dtype = if name == "mistral_hub_fp16" { "float16" } else { "float32" };
        assert_eq!(model.dtype.as_deref(), Some(dtype), "{name}");

        assert_eq!(checkpoint.generation.eos_ids, [expected.eos], "{name}");
        assert_eq!(checkpoint.generation.pad_id, Some(expected.pad), "{name}");
        assert_eq!(checkpoint.processor.image.tile, expected.tile, "{name}");
        assert_eq!(checkpoint.processor.image_token, "<image>", "{name}");
    }
}

#[test]
fn both_layouts_of_the_processor_files_mean_the_same() {
    let nested = Checkpoint::open(&tiny("mistral")).unwrap();
    let separate = Checkpoint::open(&tiny("mistral_hub_fp16")).unwrap();
    assert_eq!(nested.processor.image, separate.processor.image);
    assert_eq!(nested.processor.image.canonical_json(), separate.processor.image.canonical_json());
    assert_eq!(nested.model.text, separate.model.text);
}

#[test]
fn the_canonical_json_is_json_and_tells_configurations_apart() {
    let one = Checkpoint::open(&tiny("mistral")).unwrap().processor.image.canonical_json();
    let other = Checkpoint::open(&tiny("mistral_oddgrid")).unwrap().processor.image.canonical_json();
    assert_ne!(one, other);
    let parsed: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(parsed["tile"], 56);
    assert_eq!(parsed["pinpoints"][0], serde_json::json!([56, 112]));
    assert_eq!(parsed["rescale_factor"], 0.003_921_568_627_450_98);
}

#[test]
fn the_geometry_is_that_of_the_tower() {
    let geometry = Checkpoint::open(&tiny("mistral_oddgrid")).unwrap().geometry();
    assert_eq!((geometry.tile(), geometry.patch(), geometry.patches_per_side()), (42, 14, 3));
    assert_eq!(geometry.max_tiles(), 5);
}

#[test]
fn lists_of_layers_resolve_to_states() {
    let model = Checkpoint::open(&tiny("vicuna_layers")).unwrap().model;
    assert_eq!(model.feature_layers, [1, -1]);
    assert_eq!(model.feature_states(), [1, 4]);
    assert_eq!(model.feature_channels(), 128);
    let model = Checkpoint::open(&tiny("vicuna")).unwrap().model;
    assert_eq!((model.feature_states(), model.feature_channels()), (vec![3], 64));
}

#[test]
fn pinpoints_are_height_and_width() {
    let model = Checkpoint::open(&tiny("mistral")).unwrap().model;
    assert_eq!(model.pinpoints[0], ImageSize { height: 56, width: 112 });
    assert_eq!(model.pinpoints[3], ImageSize { height: 168, width: 56 });
}
