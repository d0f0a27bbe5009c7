//! Checkpoints of the real shapes with made-up weights.

use std::collections::BTreeMap;

use safetensors::Dtype;
use tessera_checkpoint::Checkpoint;
use tessera_testkit::family_dir;

use crate::copy::{Copy, Stored};

/// The tensors of a checkpoint to be.
struct Tensors(BTreeMap<String, Stored>);

impl Tensors {
    fn add(&mut self, name: &str, shape: &[usize]) {
        let count = shape.iter().product::<usize>();
        // Small numbers without a pattern: a multiplicative hash of the place.
        let number = |index: usize| {
            let hash = (index as u32).wrapping_add(self.0.len() as u32).wrapping_mul(0x9E37_79B9).rotate_left(15);
            half::f16::from_f32((hash.wrapping_mul(0x85EB_CA6B) >> 8) as f32 / 2.0f32.powi(24) * 0.08 - 0.04)
                .to_le_bytes()
        };
        let data = (0..count).flat_map(number).collect();
        self.0.insert(name.to_owned(), Stored { dtype: Dtype::F16, shape: shape.to_vec(), data });
    }
}

/// A CLIP ViT-L/14-336 of `tower_layers` layers in front of a decoder.
pub(crate) fn checkpoint(tower_layers: usize, decoder: impl FnOnce(&mut Checkpoint)) -> (Copy, Checkpoint) {
    let mut checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    let vision = &mut checkpoint.model.vision;
    (vision.hidden_size, vision.intermediate_size, vision.heads, vision.layers) = (1024, 4096, 16, tower_layers + 1);
    vision.image_size = 336;
    decoder(&mut checkpoint);
    let mut tensors = Tensors(BTreeMap::new());
    tower(&mut tensors, tower_layers);
    language(&mut tensors, &checkpoint);
    let mut copy = Copy::of("mistral");
    copy.tensors = tensors.0;
    copy.write();
    checkpoint.dir = copy.dir().to_owned();
    (copy, checkpoint)
}

/// One layer of Mistral 7B, with the fixture's small vocabulary.
pub(crate) fn one_layer_of_mistral(checkpoint: &mut Checkpoint) {
    let text = &mut checkpoint.model.text;
    (text.hidden_size, text.intermediate_size, text.layers) = (4096, 14336, 1);
    (text.heads, text.kv_heads, text.head_dim) = (32, 8, 128);
}

/// SmolLM2-135M's decoder.
pub(crate) fn smol(checkpoint: &mut Checkpoint) {
    checkpoint.model.tie_word_embeddings = true;
    let text = &mut checkpoint.model.text;
    (text.hidden_size, text.intermediate_size, text.layers, text.vocab_size) = (576, 1536, 30, 49152);
    (text.heads, text.kv_heads, text.head_dim) = (9, 3, 64);
}

fn tower(tensors: &mut Tensors, layers: usize) {
    let embeddings = "vision_tower.embeddings";
    tensors.add(&format!("{embeddings}.class_embedding"), &[1024]);
    tensors.add(&format!("{embeddings}.patch_embedding.weight"), &[1024, 3, 14, 14]);
    tensors.add(&format!("{embeddings}.position_embedding.weight"), &[577, 1024]);
    let vectors = |tensors: &mut Tensors, name: &str, width: usize| {
        for part in ["weight", "bias"] {
            tensors.add(&format!("{name}.{part}"), &[width]);
        }
    };
    vectors(tensors, "vision_tower.pre_layrnorm", 1024);
    for layer in 0..layers {
        let name = |part: &str| format!("vision_tower.encoder.layers.{layer}.{part}");
        for norm in ["layer_norm1", "layer_norm2"] {
            vectors(tensors, &name(norm), 1024);
        }
        let attention = ["q", "k", "v", "out"].map(|part| (format!("self_attn.{part}_proj"), 1024, 1024));
        let feed = [("mlp.fc1".to_owned(), 4096, 1024), ("mlp.fc2".to_owned(), 1024, 4096)];
        for (part, outputs, inputs) in attention.into_iter().chain(feed) {
            tensors.add(&name(&format!("{part}.weight")), &[outputs, inputs]);
            tensors.add(&name(&format!("{part}.bias")), &[outputs]);
        }
    }
}

fn language(tensors: &mut Tensors, checkpoint: &Checkpoint) {
    let text = &checkpoint.model.text;
    let (hidden, intermediate) = (text.hidden_size, text.intermediate_size);
    let (queries, keys) = (text.heads * text.head_dim, text.kv_heads * text.head_dim);
    for (layer, inputs) in [("linear_1", 1024), ("linear_2", hidden)] {
        tensors.add(&format!("multi_modal_projector.{layer}.weight"), &[hidden, inputs]);
        tensors.add(&format!("multi_modal_projector.{layer}.bias"), &[hidden]);
    }
    tensors.add("image_newline", &[hidden]);
    tensors.add("language_model.model.embed_tokens.weight", &[text.vocab_size, hidden]);
    tensors.add("language_model.model.norm.weight", &[hidden]);
    if !checkpoint.model.tie_word_embeddings {
        tensors.add("language_model.lm_head.weight", &[text.vocab_size, hidden]);
    }
    for layer in 0..text.layers {
        let name = |part: &str| format!("language_model.model.layers.{layer}.{part}.weight");
        tensors.add(&name("input_layernorm"), &[hidden]);
        tensors.add(&name("post_attention_layernorm"), &[hidden]);
        tensors.add(&name("self_attn.q_proj"), &[queries, hidden]);
        tensors.add(&name("self_attn.k_proj"), &[keys, hidden]);
        tensors.add(&name("self_attn.v_proj"), &[keys, hidden]);
        tensors.add(&name("self_attn.o_proj"), &[hidden, queries]);
        tensors.add(&name("mlp.gate_proj"), &[intermediate, hidden]);
        tensors.add(&name("mlp.up_proj"), &[intermediate, hidden]);
        tensors.add(&name("mlp.down_proj"), &[hidden, intermediate]);
    }
}
