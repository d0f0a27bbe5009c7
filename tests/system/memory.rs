//! A worker loads its own part of a checkpoint: measured by the memory that is resident in a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tessera_testkit::family_dir;

use crate::cluster::limited;

/// Names the role of a process that this test starts, and its checkpoint.
const ROLE: &str = "TESSERA_TEST_ROLE";
const CHECKPOINT: &str = "TESSERA_TEST_CHECKPOINT";
/// Width of the large part's inner layers: 3 x 64 x 3 x 2 bytes of each unit in the decoder.
const WIDE: usize = 1 << 18;
const MIB: u64 = 1 << 20;

/// `mistral` of the test kit in 16-bit zeros, with a wide decoder or a wide tower. The file is sparse: it takes no disk.
fn checkpoint(wide: &str) -> (TempDir, u64) {
    let (source, copy) = (family_dir("mistral"), tempfile::tempdir().unwrap());
    for name in ["generation_config.json", "processor_config.json"] {
        fs::copy(source.join(name), copy.path().join(name)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
    let section = if wide == "decoder" { "text_config" } else { "vision_config" };
    let narrow = config[section]["intermediate_size"].as_u64().unwrap();
    config[section]["intermediate_size"] = json!(WIDE);
    fs::write(copy.path().join("config.json"), config.to_string()).unwrap();

    let prefix = if wide == "decoder" { "language_model.model." } else { "vision_tower." };
    let (mut tensors, mut end, mut of_wide) = (Map::new(), 0, 0);
    for (name, tensor) in header(&source.join("model.safetensors")) {
        let mut shape: Vec<u64> = serde_json::from_value(tensor["shape"].clone()).unwrap();
        if name.starts_with(prefix) && name.contains(".mlp.") {
            shape.iter_mut().filter(|side| **side == narrow).for_each(|side| *side = WIDE as u64);
        }
        let bytes = shape.iter().product::<u64>() * 2;
        of_wide += if name.starts_with(prefix) { bytes } else { 0 };
        tensors.insert(name, json!({"dtype": "F16", "shape": shape, "data_offsets": [end, end + bytes]}));
        end += bytes;
    }
    let header = Value::Object(tensors).to_string();
    let start = (header.len() as u64).to_le_bytes();
    let path = copy.path().join("model.safetensors");
    fs::write(&path, [&start[..], header.as_bytes()].concat()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8 + header.len() as u64 + end).unwrap();
    (copy, of_wide)
}

/// The tensors that a file of weights names.
fn header(path: &Path) -> Map<String, Value> {
    let file = fs::read(path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let mut tensors: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
    tensors.remove("__metadata__");
    tensors
}

/// The most bytes that were resident at once in a process that builds a worker on this checkpoint.
fn peak(role: &str, checkpoint: &Path) -> u64 {
    let program: PathBuf = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "memory::one_worker_in_a_process_of_its_own", "--nocapture"])
        .env(ROLE, role)
        .env(CHECKPOINT, checkpoint)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let peak = text.lines().find_map(|line| line.split_once("peak: ")).unwrap_or_else(|| panic!("{text}"));
    peak.1.trim().parse().unwrap()
}

/// Does nothing, unless [`peak`] runs it.
#[test]
#[expect(clippy::disallowed_methods, reason = "the only way to tell a process that the test harness starts what it is")]
fn one_worker_in_a_process_of_its_own() {
    let (Ok(role), Ok(checkpoint)) = (std::env::var(ROLE), std::env::var(CHECKPOINT)) else { return };
    limited(async {
        let model = PathBuf::from(checkpoint);
        if role == "vision" {
            let settings = tessera_vision::Settings { model, ..Default::default() };
            drop(tessera_vision::build(settings, |_| {}).await.unwrap());
        } else {
            let settings = tessera_language::Settings { model, ..Default::default() };
            drop(tessera_language::build(settings, |_| {}).await.unwrap());
        }
    });
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    println!("peak: {}", kib * 1024);
}

#[test]
fn a_worker_never_touches_the_other_ones_weights() {
    for (wide, owner, other) in [("decoder", "language", "vision"), ("tower", "vision", "language")] {
        let (copy, bytes) = checkpoint(wide);
        assert!(bytes > 200 * MIB, "{bytes}");
        let (with, without) = (peak(owner, copy.path()), peak(other, copy.path()));
        let small = peak(other, &family_dir("mistral"));
        println!(
            "{wide} of {} MiB: {owner} peaks at {} MiB, {other} at {} MiB and at {} MiB without it",
            bytes / MIB,
            with / MIB,
            without / MIB,
            small / MIB
        );
        // The owner shows that the measure sees the weights; the other is where it was without them.
        assert!(with > bytes, "{with} of {bytes}");
        assert!(without < small + 16 * MIB, "{without}, {small} without the {wide}");
    }
}
