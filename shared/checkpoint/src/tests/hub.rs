//! Sparse configurations as the published repositories have them, with the values that the reference resolves.

use serde_json::{Value, json};

use super::{Files, hub_config, mistral_text, preprocessor, processor};
use crate::{Activation, Checkpoint, EarlyStopping, Family, FeatureSelect, GenerationDefaults, TextConfig};

fn open(image_token_id: u32, text: &Value) -> Checkpoint {
    Files::hub(hub_config(image_token_id, text)).open().unwrap()
}

fn llama_text(extra: &Value) -> Value {
    let mut text = json!({
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float16",
        "vocab_size": 32064
    });
    text.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    text
}

#[test]
fn mistral_7b() {
    let checkpoint = open(32_000, &mistral_text());
    assert_eq!(
        checkpoint.model.text,
        TextConfig {
            family: Family::Mistral,
            vocab_size: 32_064,
            hidden_size: 4096,
            intermediate_size: 14_336,
            layers: 32,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            rms_norm_eps: 1e-5,
            rope_theta: 1e6,
            max_positions: 32_768,
            sliding_window: None,
            qkv_bias: false,
        }
    );
    let vision = &checkpoint.model.vision;
    assert_eq!((vision.hidden_size, vision.layers, vision.heads, vision.positions()), (1024, 24, 16, 577));
    assert_eq!((vision.layer_norm_eps, vision.activation), (1e-5, Activation::QuickGelu));
    assert_eq!(checkpoint.model.feature_states(), [23]);
    assert_eq!(checkpoint.model.select, FeatureSelect::Default);
    assert!(checkpoint.model.projector_bias);
    assert_eq!(checkpoint.model.dtype.as_deref(), Some("float16"));
    assert_eq!((checkpoint.generation.eos_ids, checkpoint.generation.bos_id), (vec![2], Some(1)));
    assert_eq!(checkpoint.generation.pad_id, Some(2));
}

#[test]
fn a_mistral_without_the_key_has_a_window_of_4096() {
    let mut text = mistral_text();
    text.as_object_mut().unwrap().remove("sliding_window");
    assert_eq!(open(32_000, &text).model.text.sliding_window, Some(4096));
}

#[test]
fn vicuna_7b() {
    let text = open(32_000, &llama_text(&json!({}))).model.text;
    assert_eq!((text.hidden_size, text.intermediate_size, text.layers), (4096, 11_008, 32));
    assert_eq!((text.heads, text.kv_heads, text.head_dim, text.rope_theta), (32, 32, 128, 1e4));
    assert_eq!((text.rms_norm_eps, text.sliding_window, text.max_positions), (1e-5, None, 4096));
}

#[test]
fn vicuna_13b_takes_its_longest_length_from_the_decoder() {
    let extra = json!({
        "hidden_size": 5120, "intermediate_size": 13824, "max_length": 4096, "num_attention_heads": 40,
        "num_hidden_layers": 40, "num_key_value_heads": 40
    });
    let checkpoint = open(32_000, &llama_text(&extra));
    let text = &checkpoint.model.text;
    assert_eq!((text.hidden_size, text.layers, text.heads, text.kv_heads, text.head_dim), (5120, 40, 40, 40, 128));
    assert_eq!(checkpoint.generation.max_length, Some(4096));
    assert_eq!((checkpoint.generation.eos_ids, checkpoint.generation.pad_id), (vec![2], Some(0)));

    // With a file of its own the decoder's keys no longer count.
    let own = Files::hub(hub_config(32_000, &llama_text(&extra)))
        .with("generation_config.json", json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}));
    assert_eq!(own.open().unwrap().generation.max_length, None);
}

#[test]
fn the_34b() {
    let checkpoint = open(
        64_000,
        &llama_text(&json!({
            "eos_token_id": 7, "hidden_size": 7168, "intermediate_size": 20480, "num_attention_heads": 56,
            "num_hidden_layers": 60, "num_key_value_heads": 8, "rope_theta": 5_000_000.0, "vocab_size": 64064
        })),
    );
    let text = &checkpoint.model.text;
    assert_eq!((text.hidden_size, text.intermediate_size, text.layers), (7168, 20_480, 60));
    assert_eq!((text.heads, text.kv_heads, text.head_dim, text.rope_theta), (56, 8, 128, 5e6));
    assert_eq!((checkpoint.generation.bos_id, checkpoint.generation.eos_ids), (Some(1), vec![7]));
}

#[test]
fn llama3_8b() {
    let text = llama_text(&json!({
        "bos_token_id": 128_000, "eos_token_id": 128_009, "intermediate_size": 14336,
        "max_position_embeddings": 8192, "num_key_value_heads": 8, "rope_theta": 500_000.0, "vocab_size": 128_320
    }));
    let files = Files::hub(hub_config(128_256, &text)).with(
        "generation_config.json",
        json!({"bos_token_id": 128_000, "eos_token_id": [128_001, 128_009], "temperature": 0.6, "top_p": 0.9, "do_sample": true}),
    );
    let checkpoint = files.open().unwrap();
    let text = &checkpoint.model.text;
    assert_eq!((text.hidden_size, text.intermediate_size, text.layers), (4096, 14_336, 32));
    assert_eq!((text.kv_heads, text.rope_theta, text.max_positions, text.vocab_size), (8, 5e5, 8192, 128_320));
    let generation = &checkpoint.generation;
    assert_eq!(generation.eos_ids, [128_001, 128_009]);
    assert_eq!((generation.do_sample, generation.temperature, generation.top_p), (Some(true), Some(0.6), Some(0.9)));
    assert_eq!((generation.top_k, generation.min_p, generation.repetition_penalty), (None, None, None));
}

#[test]
fn every_generation_default_that_the_reference_honours_is_read() {
    let file = json!({
        "typical_p": 0.9, "no_repeat_ngram_size": 3, "min_length": 5, "min_new_tokens": 2, "num_beams": 4,
        "length_penalty": -0.5, "early_stopping": "never", "num_return_sequences": 2, "bad_words_ids": [[7], [8, 9]],
        "suppress_tokens": [10, 11],
    });
    let read = Files::hub(hub_config(32_000, &mistral_text())).with("generation_config.json", file).open().unwrap();
    let expected = GenerationDefaults {
        eos_ids: read.generation.eos_ids.clone(),
        pad_id: read.generation.pad_id,
        typical_p: Some(0.9),
        no_repeat_ngram: Some(3),
        min_length: Some(5),
        min_new_tokens: Some(2),
        num_beams: Some(4),
        length_penalty: Some(-0.5),
        early_stopping: Some(EarlyStopping::Never),
        num_return_sequences: Some(2),
        bad_words: Some(vec![vec![7], vec![8, 9]]),
        suppress_tokens: Some(vec![10, 11]),
        ..GenerationDefaults::default()
    };
    assert_eq!(read.generation, expected);
}

#[test]
fn the_72b() {
    let text = json!({
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 8192, "intermediate_size": 24576,
        "max_window_layers": 70, "model_type": "qwen2", "num_attention_heads": 64, "num_hidden_layers": 80,
        "num_key_value_heads": 64, "rope_theta": 1_000_000.0, "sliding_window": 32768, "vocab_size": 152_064,
        "use_sliding_window": false
    });
    let text = open(151_646, &text).model.text;
    assert_eq!(
        text,
        TextConfig {
            family: Family::Qwen2,
            vocab_size: 152_064,
            hidden_size: 8192,
            intermediate_size: 24_576,
            layers: 80,
            heads: 64,
            kv_heads: 64,
            head_dim: 128,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            max_positions: 32_768,
            sliding_window: None,
            qkv_bias: true,
        }
    );
}

#[test]
fn new_and_old_key_forms_mean_the_same() {
    let old = Files::hub(hub_config(32_000, &mistral_text()));
    let new = Files::hub(hub_config(32_000, &mistral_text()))
        .set("config.json", "text_config.rope_theta", Value::Null)
        .set("config.json", "text_config.rope_parameters", json!({"rope_theta": 1e6, "rope_type": "default"}))
        .set("config.json", "torch_dtype", Value::Null)
        .set("config.json", "dtype", json!("float16"))
        .set("config.json", "image_token_index", Value::Null)
        .set("config.json", "image_token_id", json!(32_000))
        .without("preprocessor_config.json")
        .set("processor_config.json", "image_processor", preprocessor());
    let (old, new) = (old.open().unwrap(), new.open().unwrap());
    assert_eq!(old.model, new.model);
    assert_eq!(old.processor.image, new.processor.image);
}

#[test]
fn a_processor_file_that_is_silent_follows_the_tower() {
    let silent = Files::hub(hub_config(32_000, &mistral_text())).without("processor_config.json").open().unwrap();
    let full =
        Files::hub(hub_config(32_000, &mistral_text())).with("processor_config.json", processor()).open().unwrap();
    let values = |checkpoint: &Checkpoint| {
        let processor = &checkpoint.processor;
        (processor.image_token.clone(), processor.num_additional_image_tokens, processor.patch_size, processor.select)
    };
    assert_eq!(values(&silent), values(&full));
    assert_eq!(values(&silent), ("<image>".to_owned(), 1, 14, FeatureSelect::Default));
}

#[test]
fn sizes_may_be_plain_numbers_or_both_sides() {
    for size in [json!(336), json!({"height": 336, "width": 336})] {
        let files = Files::hub(hub_config(32_000, &mistral_text())).set("preprocessor_config.json", "size", size).set(
            "preprocessor_config.json",
            "crop_size",
            json!(336),
        );
        assert_eq!(files.open().unwrap().processor.image.tile, 336);
    }
}

#[test]
fn missing_sections_are_the_large_tower_and_a_llama() {
    let config = json!({"model_type": "llava_next", "image_token_index": 31_999});
    let model = Files::hub(config).open().unwrap().model;
    assert_eq!((model.vision.hidden_size, model.vision.layers, model.vision.image_size), (1024, 24, 336));
    assert_eq!((model.text.family, model.text.vocab_size), (Family::Llama, 32_000));
    assert_eq!((model.feature_layers.as_slice(), model.pinpoints.len()), ([-2].as_slice(), 5));
}

#[test]
fn layers_at_both_ends_are_in_range() {
    let files = Files::hub(hub_config(32_000, &mistral_text()));
    let files = files.set("config.json", "vision_feature_layer", json!([0, 24, -1, -25]));
    assert_eq!(files.open().unwrap().model.feature_states(), [0, 24, 24, 0]);
}

#[test]
fn a_qwen2_window_counts_when_it_is_used_on_all_layers() {
    let text = |first: usize| {
        json!({
            "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 1024, "max_window_layers": first,
            "num_hidden_layers": 4
        })
    };
    assert_eq!(open(5, &text(0)).model.text.sliding_window, Some(1024));
    assert_eq!(open(5, &text(4)).model.text.sliding_window, None);
    let message = Files::hub(hub_config(5, &text(2))).refusal();
    assert!(message.starts_with("config.json: text_config.max_window_layers is 2, supported: 0"), "{message}");
}

#[test]
fn pre_quantised_checkpoints_open_like_plain_ones() {
    let quantisation = json!({
        "_load_in_4bit": true, "_load_in_8bit": false, "bnb_4bit_quant_type": "nf4", "load_in_4bit": true,
        "load_in_8bit": false, "quant_method": "bitsandbytes"
    });
    let plain = Files::hub(hub_config(32_000, &mistral_text()));
    let quantised =
        Files::hub(hub_config(32_000, &mistral_text())).set("config.json", "quantization_config", quantisation);
    assert_eq!(plain.open().unwrap().model, quantised.open().unwrap().model);
}
