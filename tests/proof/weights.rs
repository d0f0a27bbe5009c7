//! Makes a checkpoint of a real shape and random weights, in the files and names that transformers reads.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tessera_testkit::family_dir;

/// How large a checkpoint is. Tiles and their patches are as large as in every LLaVA-NeXT, or as in the tiny ones.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    width: usize,
    heads: usize,
    kv_heads: usize,
    inner: usize,
    layers: usize,
    vocabulary: usize,
    tower_width: usize,
    tower_inner: usize,
    tower_layers: usize,
    pub(crate) tile: usize,
}

const PATCH: usize = 14;
/// Of decoder and tower alike where it is real.
const HEAD: usize = 128;
const TOWER_HEAD: usize = 64;

impl Shape {
    /// Mistral 7B behind CLIP ViT-L/14 of 336 pixels: llava-v1.6-mistral-7b.
    pub(crate) const MISTRAL_7B: Self = Self {
        width: 4096,
        heads: 32,
        kv_heads: 8,
        inner: 14336,
        layers: 32,
        vocabulary: 32064,
        tower_width: 1024,
        tower_inner: 4096,
        tower_layers: 24,
        tile: 336,
    };
    /// The same with two layers of each: what a CPU computes in seconds, with the widths and heads of the real one.
    pub(crate) const TWO_LAYERS: Self = Self { layers: 2, tower_layers: 3, ..Self::MISTRAL_7B };
    /// For a test of what is done with a checkpoint.
    pub(crate) const SMALL: Self = Self {
        width: 256,
        heads: 2,
        kv_heads: 1,
        inner: 320,
        layers: 2,
        vocabulary: 640,
        tower_width: 128,
        tower_inner: 192,
        tower_layers: 3,
        tile: 56,
    };

    /// Tensors in the order of the files, a group for each file: name, shape, and how large the numbers are.
    fn groups(self) -> Vec<Vec<(String, Vec<usize>, Numbers)>> {
        let mut groups = vec![self.tower()];
        groups.extend((0..self.layers).map(|layer| self.layer(layer)));
        groups.push(self.ends());
        groups
    }

    fn layer(self, layer: usize) -> Vec<(String, Vec<usize>, Numbers)> {
        let name = |rest: &str| format!("language_model.model.layers.{layer}.{rest}.weight");
        let matrix = |rest: &str, rows, columns| (name(rest), vec![rows, columns], Numbers::Random(scale(columns)));
        let norm = |rest: &str| (name(rest), vec![self.width], Numbers::One);
        let (queries, keys) = (self.heads * HEAD, self.kv_heads * HEAD);
        vec![
            norm("input_layernorm"),
            matrix("self_attn.q_proj", queries, self.width),
            matrix("self_attn.k_proj", keys, self.width),
            matrix("self_attn.v_proj", keys, self.width),
            matrix("self_attn.o_proj", self.width, queries),
            norm("post_attention_layernorm"),
            matrix("mlp.gate_proj", self.inner, self.width),
            matrix("mlp.up_proj", self.inner, self.width),
            matrix("mlp.down_proj", self.width, self.inner),
        ]
    }

    /// What is before, behind and between tower and decoder.
    fn ends(self) -> Vec<(String, Vec<usize>, Numbers)> {
        let random =
            |name: &str, shape: [usize; 2], inputs| (name.to_owned(), shape.to_vec(), Numbers::Random(scale(inputs)));
        let vector = |name: &str, width, numbers| (name.to_owned(), vec![width], numbers);
        vec![
            // As large as what a layer adds.
            random("language_model.model.embed_tokens.weight", [self.vocabulary, self.width], 1),
            vector("language_model.model.norm.weight", self.width, Numbers::One),
            random("language_model.lm_head.weight", [self.vocabulary, self.width], self.width),
            random("multi_modal_projector.linear_1.weight", [self.width, self.tower_width], self.tower_width),
            vector("multi_modal_projector.linear_1.bias", self.width, Numbers::Random(0.01)),
            random("multi_modal_projector.linear_2.weight", [self.width, self.width], self.width),
            vector("multi_modal_projector.linear_2.bias", self.width, Numbers::Random(0.01)),
            vector("image_newline", self.width, Numbers::Random(0.5)),
        ]
    }

    fn tower(self) -> Vec<(String, Vec<usize>, Numbers)> {
        const TOWER: &str = "vision_tower.vision_model";
        let width = self.tower_width;
        let positions = (self.tile / PATCH).pow(2) + 1;
        let norm = |name: &str| {
            [
                (format!("{TOWER}.{name}.weight"), vec![width], Numbers::One),
                (format!("{TOWER}.{name}.bias"), vec![width], Numbers::Random(0.01)),
            ]
        };
        let linear = |name: String, outputs: usize, inputs: usize| {
            [
                (format!("{TOWER}.{name}.weight"), vec![outputs, inputs], Numbers::Random(scale(inputs))),
                (format!("{TOWER}.{name}.bias"), vec![outputs], Numbers::Random(0.01)),
            ]
        };
        let embeddings =
            |name: &str, shape: Vec<usize>, size| (format!("{TOWER}.embeddings.{name}"), shape, Numbers::Random(size));
        let mut tensors = vec![
            embeddings("class_embedding", vec![width], 0.5),
            embeddings("patch_embedding.weight", vec![width, 3, PATCH, PATCH], scale(3 * PATCH * PATCH)),
            embeddings("position_embedding.weight", vec![positions, width], 0.1),
        ];
        tensors.extend(norm("pre_layrnorm"));
        tensors.extend(norm("post_layernorm"));
        for layer in 0..self.tower_layers {
            let name = |rest: &str| format!("encoder.layers.{layer}.{rest}");
            tensors.extend(norm(&name("layer_norm1")));
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                tensors.extend(linear(name(&format!("self_attn.{part}")), width, width));
            }
            tensors.extend(norm(&name("layer_norm2")));
            tensors.extend(linear(name("mlp.fc1"), self.tower_inner, width));
            tensors.extend(linear(name("mlp.fc2"), width, self.tower_inner));
        }
        tensors
    }

    /// The bytes that a decode step reads of the weights: all of the decoder but the embeddings, of which it reads rows.
    pub(crate) fn read_bytes(self) -> usize {
        let layers: usize =
            (0..self.layers).flat_map(|layer| self.layer(layer)).map(|(_, shape, _)| product(&shape)).sum();
        2 * (layers + self.width * (self.vocabulary + 1))
    }

    /// The bytes of one position's keys and values.
    pub(crate) fn position_bytes(self) -> usize {
        2 * 2 * self.layers * self.kv_heads * HEAD
    }

    /// Operations of the tower for a tile: two for each weight and position of the layers that are run, which are all but the
    /// last, and those of attention.
    pub(crate) fn tile_operations(self) -> f64 {
        let positions = (self.tile / PATCH).pow(2) + 1;
        let weights = 4 * self.tower_width.pow(2) + 2 * self.tower_width * self.tower_inner;
        let layer = 2 * positions * weights + 4 * positions.pow(2) * self.tower_width;
        let patches = 2 * (positions - 1) * self.tower_width * 3 * PATCH * PATCH;
        ((self.tower_layers - 1) * layer + patches) as f64
    }
}

/// What a tensor is filled with.
#[derive(Clone, Copy)]
enum Numbers {
    One,
    /// Near the normal distribution, with this deviation.
    Random(f32),
}

/// Half of what keeps a product as large as its input, so that nothing grows through the layers.
fn scale(inputs: usize) -> f32 {
    0.5 / (inputs as f32).sqrt()
}

fn product(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Writes the checkpoint to a folder, in as many files as it has layers and two more, all at once.
pub(crate) fn make(shape: Shape, folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let groups = shape.groups();
    let name = |index: usize| format!("model-{:05}-of-{:05}.safetensors", index + 1, groups.len());
    let written: Result<Vec<()>, String> = groups
        .par_iter()
        .enumerate()
        .map(|(index, group)| {
            let path = folder.join(name(index));
            write_group(&path, group).map_err(|error| format!("{}: {error}", path.display()))
        })
        .collect();
    written?;
    let all = groups.iter().enumerate();
    let places: Map<String, Value> = all
        .flat_map(|(index, group)| group.iter().map(move |tensor| (tensor.0.clone(), index)))
        .map(|(tensor, index)| (tensor, json!(name(index))))
        .collect();
    let total: usize = groups.iter().flatten().map(|(_, shape, _)| 2 * product(shape)).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
    write_json(&folder.join("model.safetensors.index.json"), &index)?;
    configure(shape, folder)
}

fn write_group(path: &Path, group: &[(String, Vec<usize>, Numbers)]) -> std::io::Result<()> {
    let (mut header, mut end) = (Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]), 0);
    for (name, shape, _) in group {
        let start = end;
        end += 2 * product(shape);
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = serde_json::to_vec(&header)?;
    // Spaces up to a multiple of eight, so that the numbers are aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(1 << 22, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (name, shape, numbers) in group {
        let mut random = Random::seeded(name);
        let mut left = product(shape);
        while left > 0 {
            let count = left.min(1 << 16);
            let bytes: Vec<u8> = (0..count)
                .flat_map(|_| match numbers {
                    Numbers::One => bf16::ONE.to_le_bytes(),
                    Numbers::Random(size) => bf16::from_f32(random.number() * size).to_le_bytes(),
                })
                .collect();
            file.write_all(&bytes)?;
            left -= count;
        }
    }
    file.flush()
}

/// The configuration, tokenizer and template of a tiny checkpoint, with this shape. The tokenizer has fewer ids than the
/// embedding table has rows, which nobody minds.
fn configure(shape: Shape, folder: &Path) -> Result<(), String> {
    let tiny = family_dir("mistral");
    let mut config = read_json(&tiny.join("config.json"))?;
    // The tiny one's tiles.
    let times = |value: &Value| json!(value.as_u64().unwrap_or(0) as usize * shape.tile / 56);
    let pinpoints = |value: &Value| -> Value {
        let pairs = value.as_array().into_iter().flatten();
        pairs.map(|pair| Value::from_iter(pair.as_array().into_iter().flatten().map(times))).collect()
    };
    let grids = pinpoints(&config["image_grid_pinpoints"]);
    config["image_grid_pinpoints"] = grids.clone();
    config["image_seq_length"] = json!((shape.tile / PATCH).pow(2));
    config["dtype"] = json!("bfloat16");
    let text = &mut config["text_config"];
    text["hidden_size"] = json!(shape.width);
    text["intermediate_size"] = json!(shape.inner);
    text["head_dim"] = json!(HEAD);
    text["num_attention_heads"] = json!(shape.heads);
    text["num_key_value_heads"] = json!(shape.kv_heads);
    text["num_hidden_layers"] = json!(shape.layers);
    text["vocab_size"] = json!(shape.vocabulary);
    text["max_position_embeddings"] = json!(32768);
    let vision = &mut config["vision_config"];
    vision["hidden_size"] = json!(shape.tower_width);
    vision["intermediate_size"] = json!(shape.tower_inner);
    vision["num_attention_heads"] = json!(shape.tower_width / TOWER_HEAD);
    vision["num_hidden_layers"] = json!(shape.tower_layers);
    vision["image_size"] = json!(shape.tile);
    write_json(&folder.join("config.json"), &config)?;

    let mut processor = read_json(&tiny.join("processor_config.json"))?;
    let image = &mut processor["image_processor"];
    image["crop_size"] = json!({ "height": shape.tile, "width": shape.tile });
    image["size"] = json!({ "shortest_edge": shape.tile });
    image["image_grid_pinpoints"] = grids;
    write_json(&folder.join("processor_config.json"), &processor)?;

    for name in ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(tiny.join(name), folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

fn read_json(path: &Path) -> Result<Value, String> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn write_json(path: &Path, value: &Value) -> Result<(), String> {
    let text = serde_json::to_vec_pretty(value).expect("a value is JSON");
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Random numbers that only depend on a name: splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(name: &str) -> Self {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// The sum of four even draws, which is nearly normal, with mean 0 and deviation 1.
    pub(crate) fn number(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u32 = (0..4).map(|part| u32::from((bits >> (16 * part)) as u16)).sum();
        (sum as f32 - 131_070.0) * (3f32.sqrt() / 65_536.0)
    }
}
