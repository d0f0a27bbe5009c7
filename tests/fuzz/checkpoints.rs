//! Configuration files of a checkpoint that somebody edited, or that are no JSON any more.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use tempfile::TempDir;
use tessera_anyres::ImageSize;
use tessera_checkpoint::{Checkpoint, CheckpointError};
use tessera_testkit::{FAMILIES, damaged, default_cases, family_dir, peak};

const FILES: [&str; 4] = ["config.json", "processor_config.json", "preprocessor_config.json", "generation_config.json"];
/// Sides of images that are planned with what was read.
const SIDES: [u32; 5] = [0, 1, 336, 70_000, u32::MAX];

thread_local! {
    /// Where this thread writes what it tries.
    static FOLDER: TempDir = tempfile::tempdir().unwrap();
}

/// The files of every family; an empty one where a family lacks it.
static CORPUS: LazyLock<Vec<[Vec<u8>; 4]>> = LazyLock::new(|| {
    let read = |family: &str, name: &str| fs::read(family_dir(family).join(name)).unwrap_or_else(|_| b"{}".to_vec());
    FAMILIES.map(|family| FILES.map(|name| read(family, name))).to_vec()
});

/// Opens a folder with these files, and asks what was read for everything that follows from it.
fn open(files: &[Vec<u8>; 4]) -> Result<(), CheckpointError> {
    FOLDER.with(|folder| {
        for (name, file) in FILES.into_iter().zip(files) {
            fs::write(folder.path().join(name), file).unwrap();
        }
        let length: usize = files.iter().map(Vec::len).sum();
        let (opened, taken) = peak(|| Checkpoint::open(folder.path()));
        assert!(taken < 100 * length + (64 << 10), "{taken} bytes for {length}");
        match opened {
            Ok(checkpoint) => {
                follow(&checkpoint);
                Ok(())
            }
            Err(error) => {
                names_what_is_wrong(&error, folder.path());
                Err(error)
            }
        }
    })
}

fn follow(checkpoint: &Checkpoint) {
    let geometry = checkpoint.geometry();
    for (height, width) in SIDES.into_iter().flat_map(|height| SIDES.map(|width| (height, width))) {
        let plan = geometry.plan(ImageSize { height, width });
        // A grid alone may be too much for one model; to count it must not be.
        let _ = (plan.image_tokens(), plan.feature_rows(), plan.tile_count());
    }
    let states = checkpoint.model.feature_states();
    assert!(states.iter().all(|&state| state <= checkpoint.model.vision.layers), "{states:?}");
    assert!(checkpoint.model.feature_channels() > 0);
}

fn names_what_is_wrong(error: &CheckpointError, folder: &Path) {
    let message = error.to_string();
    assert!(message.contains(&*folder.to_string_lossy()), "the file is not named: {message}");
    assert!(message.len() < 4096, "{message}");
}

/// Values that are of another kind, or at the end of a range.
fn hostile() -> impl Strategy<Value = Value> {
    let numbers = [0, 1, 2, 7, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0000, i64::MAX as u64, u64::MAX];
    let others = vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(i64::MIN),
        json!(0.5),
        json!(1e308),
        json!(1e-320),
        json!(""),
        json!("full"),
        json!([]),
        json!({}),
        json!([[1, 1]]),
        json!([[u32::MAX, u32::MAX], [32_768, 32_768]]),
        json!([i64::MIN, i64::MAX]),
        Value::from(vec![-1; 1000]),
        json!({"height": u32::MAX, "width": 1}),
    ];
    prop_oneof![select(numbers.to_vec()).prop_map(Value::from), select(others)]
}

/// Every place of a document.
fn places(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| places(value, &format!("{here}/{key}"), found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| places(value, &format!("{here}/{index}"), found));
        }
        _ => {}
    }
}

fn edit(file: &[u8], edits: &[(Index, Value)]) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(file).unwrap();
    for (place, value) in edits {
        let mut found = Vec::new();
        places(&document, "", &mut found);
        if let Some(there) = document.pointer_mut(place.get(&found).as_str()) {
            *there = value.clone();
        }
    }
    document.to_string().into_bytes()
}

#[test]
fn the_corpus_itself_is_read() {
    for files in CORPUS.iter() {
        open(files).unwrap();
    }
}

proptest! {
    #![proptest_config(default_cases(2000))]

    #[test]
    fn an_edited_configuration_is_read_or_refused(
        which: Index, file in 0..FILES.len(), edits in prop::collection::vec((any::<Index>(), hostile()), 1..4),
    ) {
        let mut files = which.get(&CORPUS[..]).clone();
        files[file] = edit(&files[file], &edits);
        let _ = open(&files);
    }

    /// The same in both files that must agree, as somebody does who means it.
    #[test]
    fn a_configuration_that_agrees_with_itself_is_read_or_refused(
        which: Index,
        sizes in prop::collection::vec(select(vec![1_u32, 2, 3, 14, 336, 4096, 32_768, 65_536, 0x7fff_ffff, u32::MAX]), 5),
        layers in select(vec![1_u64, 24, 0x7fff_ffff, 0xffff_ffff, u64::MAX]), full: bool,
    ) {
        let [config, processor, preprocessor, generation] = which.get(&CORPUS[..]).clone();
        let (tile, patch) = (sizes[0], sizes[1]);
        let grids = json!([[sizes[2], sizes[3]], [tile, tile]]);
        let strategy = if full { "full" } else { "default" };
        let change = |file: &[u8], change: &dyn Fn(&mut Value)| {
            let mut document: Value = serde_json::from_slice(file).unwrap();
            change(&mut document);
            document.to_string().into_bytes()
        };
        let config = change(&config, &|config| {
            config["image_grid_pinpoints"] = grids.clone();
            config["vision_feature_select_strategy"] = json!(strategy);
            config["vision_config"]["image_size"] = json!(tile);
            config["vision_config"]["patch_size"] = json!(patch);
            config["vision_config"]["num_hidden_layers"] = json!(layers);
        });
        let image = |image: &mut Value| {
            image["image_grid_pinpoints"] = grids.clone();
            image["crop_size"] = json!({"height": tile, "width": tile});
            image["size"] = json!({"height": tile, "width": tile});
        };
        let processor = change(&processor, &|processor| {
            processor["patch_size"] = json!(patch);
            processor["vision_feature_select_strategy"] = json!(strategy);
            processor.get_mut("image_processor").into_iter().for_each(image);
        });
        let _ = open(&[config, processor, change(&preprocessor, &image), generation]);
    }

    #[test]
    fn a_damaged_configuration_is_read_or_refused(
        which: Index, file in 0..FILES.len(), damaged in damaged(CORPUS.iter().flatten().cloned().collect()),
    ) {
        let mut files = which.get(&CORPUS[..]).clone();
        files[file] = damaged;
        let _ = open(&files);
    }
}
