//! Checkpoints written into a temporary folder, and the tiny ones of the project.

mod families;
mod hub;
mod refusals;
mod siglip;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Checkpoint, CheckpointError};

/// The folder of a tiny checkpoint.
fn tiny(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny").join(family)
}

/// Files of a checkpoint by name.
struct Files(Vec<(&'static str, Value)>);

impl Files {
    /// The processor files and generation settings of the hub's repositories around a given `config.json`.
    fn hub(config: Value) -> Self {
        Self(vec![
            ("config.json", config),
            ("processor_config.json", processor()),
            ("preprocessor_config.json", preprocessor()),
        ])
    }

    fn with(mut self, name: &'static str, value: Value) -> Self {
        self.0.retain(|(existing, _)| *existing != name);
        self.0.push((name, value));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(existing, _)| *existing != name);
        self
    }

    /// Sets a key of a file; dots lead into sections.
    fn set(mut self, name: &str, key: &str, value: Value) -> Self {
        let (_, file) = self.0.iter_mut().find(|(existing, _)| *existing == name).expect("the file is there");
        *file
            .pointer_mut("")
            .and_then(|root| {
                key.split('.').try_fold(root, |at, part| Some(at.as_object_mut()?.entry(part).or_insert(Value::Null)))
            })
            .expect("sections are objects") = value;
        self
    }

    fn open(&self) -> Result<Checkpoint, CheckpointError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in &self.0 {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        Checkpoint::open(dir.path())
    }

    /// Opens, expecting a refusal, and returns its message with the folder's path cut out.
    fn refusal(&self) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in &self.0 {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
        message.replace(&format!("{}/", dir.path().display()), "")
    }
}

/// `config.json` as the hub's repositories have it, around a given `text_config`.
fn hub_config(image_token_id: u32, text: &Value) -> Value {
    json!({
        "architectures": ["LlavaNextForConditionalGeneration"],
        "ignore_index": -100,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "image_token_index": image_token_id,
        "model_type": "llava_next",
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": false,
        "torch_dtype": "float16",
        "transformers_version": "4.39.0.dev0",
        "use_image_newline_parameter": true,
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "model_type": "clip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32000
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": 32064
    })
}

fn mistral_text() -> Value {
    json!({
        "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
        "architectures": ["MistralForCausalLM"],
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "sliding_window": null,
        "torch_dtype": "bfloat16",
        "vocab_size": 32064
    })
}

fn processor() -> Value {
    json!({
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": 14,
        "processor_class": "LlavaNextProcessor",
        "vision_feature_select_strategy": "default"
    })
}

fn preprocessor() -> Value {
    json!({
        "aspect_ratio_setting": "anyres",
        "crop_size": {"height": 336, "width": 336},
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "LlavaNextImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "processor_class": "LlavaNextProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 336}
    })
}
