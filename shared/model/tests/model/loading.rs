//! Weight files: spellings, shards, element types, halves of a checkpoint, and everything that can be wrong.

use std::{cell::RefCell, error::Error, fs};

use safetensors::Dtype;
use tessera_checkpoint::Checkpoint;
use tessera_model::{LanguageModel, LoadOptions, Logits, ModelError, Progress, VisionModel};
use tessera_tensor::DType;
use tessera_testkit::{Golden, distance, family_dir, pixels};

use crate::{
    copy::{Copy, Stored},
    run::{Loaded, tiles_of},
};

const DOWN_1: &str = "language_model.model.layers.1.mlp.down_proj.weight";

/// Logits of the whole prompt of one case.
fn logits(loaded: &Loaded) -> Vec<f32> {
    let golden = Golden::load("mistral", "portrait");
    let images = loaded.images("portrait", &golden);
    let embeddings = loaded.embeddings(&images);
    let ids = golden.unpadded_ids(0);
    let inputs = loaded.inputs(&ids, &mut embeddings.as_slice());
    loaded.step(&mut loaded.sequence(ids.len()), inputs, Logits::All)
}

fn open(copy: &Copy) -> Checkpoint {
    Checkpoint::open(copy.dir()).unwrap()
}

fn load_vision(copy: &Copy) -> Result<VisionModel, ModelError> {
    VisionModel::load(&open(copy), &LoadOptions::default())
}

fn load_language(copy: &Copy) -> Result<LanguageModel, ModelError> {
    LanguageModel::load(&open(copy), &LoadOptions::default())
}

/// The message of a load that must fail, without the temporary directory.
fn refusal<T>(copy: &Copy, loaded: Result<T, ModelError>) -> String {
    let error = loaded.err().expect("the load is refused");
    let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
    format!("{error}{source}").replace(&format!("{}/", copy.dir().display()), "")
}

fn is_of_tower(name: &str) -> bool {
    name.starts_with("vision_tower.")
}

fn is_of_decoder(name: &str) -> bool {
    name.starts_with("language_model.")
}

/// The names of the fixture (saved since 5.6) as hub files spell them.
fn hub(name: &str) -> String {
    name.replace("vision_tower.", "vision_tower.vision_model.")
}

/// The names of the fixture as the module tree since 5.6 spells them.
fn modules(name: &str) -> String {
    let name = name.replace("language_model.lm_head", "lm_head").replace("language_model.model.", "language_model.");
    if name.starts_with("lm_head") { name } else { format!("model.{name}") }
}

#[test]
fn all_four_spellings_give_the_same_logits_and_fingerprint() {
    let expected = Loaded::family("mistral");
    let both = |name: &str| modules(&hub(name));
    let spellings: [&dyn Fn(&str) -> String; 3] = [&hub, &both, &modules];
    for (scheme, spelling) in ["A", "C", "D"].into_iter().zip(spellings) {
        let mut copy = Copy::of("mistral");
        copy.rename(spelling);
        copy.write();
        let loaded = Loaded::open(copy.dir());
        assert_eq!(logits(&loaded), logits(&expected), "scheme {scheme}");
        assert_eq!(loaded.vision.fingerprint(), expected.vision.fingerprint(), "scheme {scheme}");
    }
}

#[test]
fn each_side_loads_without_the_tensors_of_the_other() {
    let expected = logits(&Loaded::family("mistral"));
    let copy = Copy::of("mistral");
    copy.write_part("model.safetensors", |name| !is_of_decoder(name));
    assert!(refusal(&copy, load_language(&copy)).contains("embed_tokens.weight is missing"));
    let vision = load_vision(&copy).unwrap();
    copy.write_part("model.safetensors", |name| !is_of_tower(name));
    assert!(refusal(&copy, load_vision(&copy)).contains("patch_embedding.weight is missing"));
    let language = load_language(&copy).unwrap();
    assert_eq!(logits(&Loaded { checkpoint: open(&copy), vision, language }), expected);
}

#[test]
fn blocks_after_the_last_selected_one_need_not_exist() {
    let copy = Copy::of("mistral");
    copy.write_part("model.safetensors", |name| !name.contains("encoder.layers.3.") && !name.contains("post_layer"));
    let vision = load_vision(&copy).unwrap();
    assert_eq!(vision.fingerprint(), Loaded::family("mistral").vision.fingerprint());
}

#[test]
fn shards_load_and_those_that_are_not_needed_may_be_absent() {
    let shard = |name: &str| match name {
        name if is_of_tower(name) => "vision.safetensors".to_owned(),
        name if is_of_decoder(name) => "decoder.safetensors".to_owned(),
        _ => "projector.safetensors".to_owned(),
    };
    let copy = Copy::of("mistral");
    copy.write_index(shard);
    for file in ["vision", "decoder", "projector"].map(|file| format!("{file}.safetensors")) {
        copy.write_part(&file, |name| shard(name) == file);
    }
    assert_eq!(logits(&Loaded::open(copy.dir())), logits(&Loaded::family("mistral")));

    fs::remove_file(copy.file("decoder.safetensors")).unwrap();
    load_vision(&copy).unwrap();
    let missing = "model.safetensors.index.json names the shard decoder.safetensors, which does not exist";
    assert_eq!(refusal(&copy, load_language(&copy)), missing);

    copy.write_part("decoder.safetensors", |name| is_of_decoder(name) && name != DOWN_1);
    let stale = format!(
        "decoder.safetensors is not a valid safetensors file: the index says that it holds {DOWN_1}, \
                         it does not"
    );
    assert_eq!(refusal(&copy, load_language(&copy)), stale);

    copy.write_index(|_| "../decoder.safetensors".to_owned());
    assert!(refusal(&copy, load_language(&copy)).contains("which is no file name"));
    fs::write(copy.file("model.safetensors.index.json"), "{\"weight_map\": [").unwrap();
    assert!(refusal(&copy, load_language(&copy)).starts_with("model.safetensors.index.json is not a valid index"));
}

#[test]
fn a_checkpoint_without_weights_is_refused() {
    let copy = Copy::of("mistral");
    let message = refusal(&copy, load_vision(&copy));
    assert!(message.ends_with("has neither model.safetensors nor model.safetensors.index.json"), "{message}");
}

#[test]
fn a_missing_or_misshapen_tensor_is_named() {
    let mut copy = Copy::of("mistral");
    let down = copy.tensors.remove(DOWN_1).unwrap();
    copy.write();
    let missing = "tensor model.language_model.layers.1.mlp.down_proj.weight is missing, shape [64, 112] is expected";
    assert_eq!(refusal(&copy, load_language(&copy)), missing);
    copy.tensors.insert(DOWN_1.to_owned(), Stored { shape: vec![112, 64], ..down });
    copy.write();
    let misshapen = format!("tensor {DOWN_1} has shape [112, 64], expected is [64, 112]");
    assert_eq!(refusal(&copy, load_language(&copy)), misshapen);
}

#[test]
fn a_tensor_stored_twice_is_refused() {
    let mut copy = Copy::of("mistral");
    let newline = copy.tensors["image_newline"].clone();
    copy.tensors.insert("model.image_newline".to_owned(), newline);
    copy.write();
    let message = refusal(&copy, load_vision(&copy));
    assert!(message.starts_with("tensor model.image_newline is stored twice, as "), "{message}");
}

#[test]
fn unknown_tensors_and_constants_are_ignored() {
    let mut copy = Copy::of("mistral");
    let data = Stored { dtype: Dtype::I64, shape: vec![1, 2], data: vec![0; 16] };
    for name in [
        "vision_tower.embeddings.position_ids",
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq",
        "optimizer.state",
    ] {
        copy.tensors.insert(name.to_owned(), data.clone());
    }
    copy.write();
    assert_eq!(logits(&Loaded::open(copy.dir())), logits(&Loaded::family("mistral")));
}

#[test]
fn an_element_type_that_is_not_read_is_named() {
    let mut copy = Copy::of("mistral");
    copy.tensors.insert(DOWN_1.to_owned(), Stored { dtype: Dtype::U8, shape: vec![64, 112], data: vec![0; 64 * 112] });
    copy.write();
    let message = format!("tensor {DOWN_1} has element type U8, supported are F32, F16 and BF16");
    assert_eq!(refusal(&copy, load_language(&copy)), message);
    load_vision(&copy).unwrap();
}

#[test]
fn a_damaged_file_is_named() {
    let copy = Copy::of("mistral");
    copy.write();
    let file = copy.file("model.safetensors");
    let whole = fs::read(&file).unwrap();
    let mut nonsense = whole.clone();
    nonsense[8..40].fill(b'#');
    let mut endless = whole.clone();
    endless[..8].fill(0xff);
    let damaged = [whole[..whole.len() - 1].to_vec(), whole[..100].to_vec(), whole[..5].to_vec(), Vec::new()];
    for bytes in damaged.into_iter().chain([nonsense, endless]) {
        fs::write(&file, &bytes).unwrap();
        for message in [refusal(&copy, load_vision(&copy)), refusal(&copy, load_language(&copy))] {
            assert!(message.starts_with("model.safetensors is not a valid safetensors file: "), "{message}");
        }
    }
}

#[test]
fn sixteen_bit_files_are_widened() {
    let expected = logits(&Loaded::family("mistral"));
    for (dtype, tolerance) in [(Dtype::F16, 0.03), (Dtype::BF16, 0.3)] {
        let mut copy = Copy::of("mistral");
        for stored in copy.tensors.values_mut() {
            let numbers = stored.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            stored.data = match dtype {
                Dtype::F16 => numbers.flat_map(|number| half::f16::from_f32(number).to_le_bytes()).collect(),
                _ => numbers.flat_map(|number| half::bf16::from_f32(number).to_le_bytes()).collect(),
            };
            stored.dtype = dtype;
        }
        copy.write();
        let found = logits(&Loaded::open(copy.dir()));
        let worst = distance(&found, &expected);
        println!("{dtype:?}: {worst:.2e}");
        assert!(worst > 0.0 && worst < tolerance, "{dtype:?}: {worst}");
    }
}

#[test]
fn half_precision_computes_and_bf16_is_refused_on_the_cpu() {
    let checkpoint = Checkpoint::open(&family_dir("mistral_hub_fp16")).unwrap();
    let half = LoadOptions { compute: DType::F16, ..LoadOptions::default() };
    let vision = VisionModel::load(&checkpoint, &half).unwrap();
    let language = LanguageModel::load(&checkpoint, &half).unwrap();
    let loaded = Loaded { checkpoint, vision, language };
    let full = Loaded::family("mistral_hub_fp16");
    let worst = distance(&logits(&loaded), &logits(&full));
    println!("computed in f16: {worst:.2e}");
    assert!(worst < 0.05, "{worst}");
    assert_ne!(loaded.vision.fingerprint(), full.vision.fingerprint());
    assert_eq!(loaded.language.kv_bytes_per_position() * 2, full.language.kv_bytes_per_position());
    assert_eq!(full.language.kv_bytes_per_position(), 2 * 3 * 2 * 16 * 4);

    let brain = LoadOptions { compute: DType::BF16, ..LoadOptions::default() };
    let error = VisionModel::load(&loaded.checkpoint, &brain).err().unwrap();
    assert_eq!(error.to_string(), "the CPU does not compute in bf16, choose f32 or f16");
}

#[test]
fn progress_counts_the_bytes_of_this_side_to_the_end() {
    let checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    let steps = RefCell::new(Vec::new());
    let progress = |progress: Progress| steps.borrow_mut().push(progress);
    let options = LoadOptions { progress: &progress, ..LoadOptions::default() };
    VisionModel::load(&checkpoint, &options).unwrap();
    let vision = steps.take();
    LanguageModel::load(&checkpoint, &options).unwrap();
    let language = steps.take();
    for steps in [&vision, &language] {
        assert!(steps.windows(2).all(|pair| pair[0].done_bytes < pair[1].done_bytes));
        let last = steps.last().unwrap();
        assert_eq!(last.done_bytes, last.total_bytes);
    }
    let projector = 4 * (64 + 2 * (64 * 64 + 64));
    let decoder_layer = 2 * 64 + (64 + 32 + 32) * 64 + 64 * 64 + 3 * 64 * 112;
    assert_eq!(language[0].total_bytes, projector + 4 * (2 * 640 * 64 + 64 + 3 * decoder_layer));
    let tower_layer = 4 * 64 + 4 * (64 * 64 + 64) + 2 * 64 * 128 + 128 + 64;
    assert_eq!(vision[0].total_bytes, projector + 4 * (64 + 588 * 64 + 17 * 64 + 2 * 64 + 3 * tower_layer));
}

#[test]
fn the_fingerprint_is_the_encoders_and_nothing_elses() {
    let original = Loaded::family("mistral").vision.fingerprint();
    let mut copy = Copy::of("mistral");
    copy.tensors.get_mut(DOWN_1).unwrap().data[0] ^= 1;
    copy.write();
    assert_eq!(load_vision(&copy).unwrap().fingerprint(), original, "a decoder weight");
    copy.tensors.get_mut("vision_tower.encoder.layers.2.mlp.fc1.bias").unwrap().data[0] ^= 1;
    copy.write();
    assert_ne!(load_vision(&copy).unwrap().fingerprint(), original, "a tower weight");

    let mut checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    let fingerprint =
        |checkpoint: &Checkpoint| VisionModel::load(checkpoint, &LoadOptions::default()).unwrap().fingerprint();
    checkpoint.model.feature_layers = vec![3];
    assert_eq!(fingerprint(&checkpoint), original, "-2 of four layers, counted from the front");
    checkpoint.model.feature_layers = vec![1];
    assert_ne!(fingerprint(&checkpoint), original, "another layer");
    checkpoint.model.feature_layers = vec![-2];
    checkpoint.model.vision.layer_norm_eps = 2e-5;
    assert_ne!(fingerprint(&checkpoint), original, "another epsilon");
}

#[test]
fn every_hidden_state_can_be_selected() {
    let mut checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    let golden = pixels(56, "one_image").torchvision;
    let tiles = tiles_of(&golden, 0, 5);
    let mut encode = |layers: &[i32]| {
        checkpoint.model.feature_layers = layers.to_vec();
        VisionModel::load(&checkpoint, &LoadOptions::default()).map(|vision| vision.encode(&tiles).unwrap())
    };
    let states: Vec<_> = (0..5).map(|layer| encode(&[layer]).unwrap()).collect();
    for (front, back) in (0..5).zip(-5..0) {
        assert_eq!(encode(&[back]).unwrap(), states[usize::try_from(front).unwrap()]);
    }
    assert!(states.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(matches!(encode(&[1, -1]), Err(ModelError::TensorShape { .. })), "the projector is for one state");
}

#[test]
fn models_and_pools_go_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    fn assert_sent<T: Send>() {}
    assert_shared::<VisionModel>();
    assert_shared::<LanguageModel>();
    assert_shared::<tessera_model::ImageEmbedding>();
    assert_sent::<tessera_model::KvPool>();
}

#[test]
fn wrong_inputs_are_refused_with_their_numbers() {
    let loaded = Loaded::family("mistral");
    let tiles = tiles_of(&pixels(42, "one_image").torchvision, 0, 2);
    let message = loaded.vision.encode(&tiles).unwrap_err().to_string();
    assert_eq!(message, "pixels have shape [2, 3, 42, 42], expected is [tiles, 3, 56, 56]");

    let image = &loaded.images("portrait", &Golden::load("mistral", "portrait"))[0];
    let short = image.features.narrow(0, 3).unwrap();
    let message = loaded.language.image_embedding(&short, &image.plan).err().unwrap().to_string();
    assert!(message.starts_with("features have shape [3, 64], expected is ["), "{message}");
    let message = loaded.vision.pack(&short, &image.plan).unwrap_err().to_string();
    assert_eq!(message, "encoded tiles have shape [3, 64], expected is [64, channels]");
}

#[test]
fn language_models_are_told_apart_by_weights_and_configuration() {
    let whole = Checkpoint::open(&family_dir("mistral")).unwrap();
    let of = |checkpoint: &Checkpoint| LanguageModel::load(checkpoint, &LoadOptions::default()).unwrap().fingerprint();
    let mut copy = Copy::of("mistral");
    copy.write();
    assert_eq!(of(&open(&copy)), of(&whole));

    let mut fingerprints = vec![of(&whole)];
    let name = copy.tensors.keys().find(|name| name.ends_with("layers.1.mlp.down_proj.weight")).unwrap().clone();
    *copy.tensors.get_mut(&name).unwrap().data.last_mut().unwrap() ^= 1;
    copy.write();
    fingerprints.push(of(&open(&copy)));
    let mut change = |change: fn(&mut Checkpoint)| {
        let mut checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
        change(&mut checkpoint);
        fingerprints.push(of(&checkpoint));
    };
    change(|checkpoint| checkpoint.model.text.rms_norm_eps *= 2.0);
    change(|checkpoint| checkpoint.model.text.rope_theta *= 2.0);
    change(|checkpoint| checkpoint.model.text.sliding_window = Some(7));
    let count = fingerprints.len();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), count);
}
