//! The tower without class token: spellings, what is ignored, what the fingerprint covers, tiles that are no whole
//! number of patches.

use tessera_checkpoint::{Activation, Checkpoint, FeatureSelect};
use tessera_model::{LoadOptions, VisionModel};
use tessera_tensor::HostTensor;
use tessera_testkit::{family_dir, pixels};

use crate::{copy::Copy, run::tiles_of};

const PATCH_BIAS: &str = "vision_tower.embeddings.patch_embedding.bias";

fn load(checkpoint: &Checkpoint) -> VisionModel {
    VisionModel::load(checkpoint, &LoadOptions::default()).unwrap()
}

fn family() -> Checkpoint {
    Checkpoint::open(&family_dir("siglip_full")).unwrap()
}

/// A checkpoint is described by its tower's features of two tiles, and by its fingerprint.
fn described(vision: &VisionModel) -> (HostTensor, [u8; 32]) {
    let tiles = tiles_of(&pixels(56, "one_image").torchvision, 0, 2);
    (vision.encode(&tiles).unwrap(), vision.fingerprint())
}

#[test]
fn the_features_are_all_rows_of_the_selected_states() {
    let (features, _) = described(&load(&family()));
    assert_eq!(features.shape(), [2 * 16, 2 * 32]);
}

#[test]
fn all_four_spellings_give_the_same_features_and_fingerprint() {
    let expected = described(&load(&family()));
    let hub = |name: &str| name.replace("vision_tower.", "vision_tower.vision_model.");
    let modules = |name: &str| match name {
        name if name.starts_with("language_model.") => name.to_owned(),
        name => format!("model.{name}"),
    };
    let both = |name: &str| modules(&hub(name));
    let spellings: [&dyn Fn(&str) -> String; 3] = [&hub, &modules, &both];
    for spelling in spellings {
        let mut copy = Copy::of("siglip_full");
        copy.rename(spelling);
        copy.write();
        assert_eq!(described(&load(&Checkpoint::open(copy.dir()).unwrap())), expected);
    }
}

#[test]
fn pooling_head_and_final_norm_are_not_looked_at() {
    let mut copy = Copy::of("siglip_full");
    let before = copy.tensors.len();
    copy.tensors.retain(|name, _| !name.contains(".head.") && !name.contains("post_layernorm"));
    assert!(copy.tensors.len() < before - 2, "the fixture has both");
    copy.write();
    assert_eq!(described(&load(&Checkpoint::open(copy.dir()).unwrap())), described(&load(&family())));
}

#[test]
fn the_bias_of_the_patches_must_be_there_and_counts() {
    let mut copy = Copy::of("siglip_full");
    copy.tensors.get_mut(PATCH_BIAS).unwrap().data[3] ^= 0x80;
    copy.write();
    let (features, fingerprint) = described(&load(&family()));
    let (other_features, other_fingerprint) = described(&load(&Checkpoint::open(copy.dir()).unwrap()));
    assert!(features != other_features && fingerprint != other_fingerprint);

    copy.tensors.remove(PATCH_BIAS);
    copy.write();
    let error = VisionModel::load(&Checkpoint::open(copy.dir()).unwrap(), &LoadOptions::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "tensor model.vision_tower.embeddings.patch_embedding.bias is missing, shape [32] is expected"
    );
}

#[test]
fn every_option_of_a_tower_is_in_its_fingerprint() {
    let mut fingerprints = vec![load(&family()).fingerprint()];
    let mut change = |change: fn(&mut Checkpoint)| {
        let mut checkpoint = family();
        change(&mut checkpoint);
        fingerprints.push(load(&checkpoint).fingerprint());
    };
    change(|checkpoint| checkpoint.model.vision.activation = Activation::Gelu);
    change(|checkpoint| checkpoint.model.vision.activation = Activation::QuickGelu);
    change(|checkpoint| checkpoint.model.vision.patch_bias = false);
    change(|checkpoint| checkpoint.model.vision.layer_norm_eps = 1e-5);
    change(|checkpoint| checkpoint.model.select = FeatureSelect::Default);
    change(|checkpoint| checkpoint.model.feature_layers = vec![1, -1]);
    let count = fingerprints.len();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!((fingerprints.len(), count), (7, 7));
}

#[test]
fn pixels_beyond_the_last_whole_patch_are_not_looked_at() {
    let tiles = tiles_of(&pixels(56, "one_image").torchvision, 0, 2);
    let wide: Vec<f32> = tiles
        .to_f32()
        .chunks_exact(56 * 56)
        .flat_map(|channel| {
            let rows = channel.chunks_exact(56).flat_map(|row| row.iter().copied().chain([7.0; 4]));
            rows.chain([9.0; 4 * 60])
        })
        .collect();
    let mut checkpoint = family();
    let expected = load(&checkpoint).encode(&tiles).unwrap();
    checkpoint.model.vision.image_size = 60;
    let wide = HostTensor::from_f32(vec![2, 3, 60, 60], wide).unwrap();
    assert_eq!(load(&checkpoint).encode(&wide).unwrap(), expected);
}
