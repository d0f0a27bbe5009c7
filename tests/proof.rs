//! The proof on a GPU, tried on the CPU: every part at small sizes. What it finds here says nothing about a GPU.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a part ends at the first error and prints its figures")]

#[path = "proof/program.rs"]
mod program;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Runs a part; a folder holds its results and the checkpoint.
fn run(part: &str, folder: &Path, device: &str) -> ExitCode {
    let (results, model) = (folder.to_str().unwrap(), folder.join("model"));
    let arguments =
        [part, "--results", results, "--device", device, "--model", model.to_str().unwrap(), "--size", "small"];
    program::main(&arguments.map(str::to_owned))
}

#[test]
fn every_part_runs_and_the_page_holds_what_they_found() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["device", "shapes", "ceilings", "checkpoint", "model", "services", "pictures"] {
        assert_eq!(run(part, folder.path(), "cpu"), ExitCode::SUCCESS, "{part}");
    }
    for phase in ["profile-decode-one", "profile-decode-many", "profile-prefill", "profile-tower"] {
        assert_eq!(run(phase, folder.path(), "cpu"), ExitCode::SUCCESS, "{phase}");
    }
    // One part is missing, which the page says; that of the kernels is written by their tests.
    fs::write(folder.path().join("kernels.json"), "{}").unwrap();
    assert_eq!(run("table", folder.path(), "cpu"), ExitCode::FAILURE);
    let page = fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
    assert!(page.contains("**The part `parity` has no result**"), "{page}");
    fs::write(folder.path().join("parity.json"), "{}").unwrap();
    assert_eq!(run("table", folder.path(), "cpu"), ExitCode::SUCCESS);
    let page = fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
    for expected in [
        "| decode, 1 sequence behind 70 positions |",
        "of the ceiling, which is",
        "transformers was not measured",
        "| attention and cache | 0.",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    let ours = page.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(2));
    let unmeasured = ours.filter(|cell| cell.contains("not measured")).count();
    assert_eq!(unmeasured, 1, "all but the comparison with transformers: {page}");
    // A check that fails is an error, whatever else holds.
    fs::write(folder.path().join("parity.json"), r#"{"checks": [{"name": "a", "holds": false, "found": "b"}]}"#)
        .unwrap();
    assert_eq!(run("table", folder.path(), "cpu"), ExitCode::FAILURE);
}

#[test]
fn every_tiny_checkpoint_is_within_the_tolerances_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run("parity", folder.path(), "cpu"), ExitCode::SUCCESS);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run("device", folder.path(), "cuda:0"), ExitCode::FAILURE);
    assert!(!folder.path().join("device.json").exists());
    assert_eq!(run("kernels", folder.path(), "cuda:0"), ExitCode::FAILURE);
}

#[test]
fn a_call_that_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let usage = ExitCode::from(2);
    for arguments in [&["device"][..], &[], &["device", "--results"], &["device", "--size", "7b"]] {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        assert_eq!(program::main(&arguments), usage, "{arguments:?}");
    }
    assert_eq!(run("everything", folder.path(), "cpu"), ExitCode::FAILURE);
}
