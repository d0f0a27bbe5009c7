//! Tests of manifests: going on, repairing, refusing.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::encode::line::Failure;

/// A folder with a manifest of this text.
fn manifest(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.jsonl");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn file(path: &str, size: u64) -> ImageFile {
    ImageFile { path: path.into(), stamp: Stamp { size, modified_unix_nanoseconds: 7 } }
}

fn done(path: &str, size: u64) -> String {
    format!(r#"{{"path":"{path}","handle":"ab","width":1,"size":{size},"modified_unix_nanoseconds":7,"new":[1]}}"#)
        + "\n"
}

fn failed(path: &str) -> String {
    format!(r#"{{"path":"{path}","error":"e","reason":"R"}}"#) + "\n"
}

fn encoder(name: &str) -> EncoderFingerprint {
    EncoderFingerprint::of(&[name.as_bytes()])
}

fn refused(text: &str) -> String {
    let (_folder, path) = manifest(text);
    let error = format!("{:#}", Manifest::open(&path).unwrap_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "it is left as it is");
    error
}

#[test]
fn what_is_done_and_unchanged_is_known_by_its_last_line() {
    let text =
        [done("a", 1), done("b", 1), failed("c"), done("d", 1), failed("d"), done("b", 2), failed("e"), done("e", 1)];
    let (_folder, path) = manifest(&text.concat());
    let manifest = Manifest::open(&path).unwrap();
    let known = [("a", 1), ("b", 2), ("e", 1)];
    for name in ["a", "b", "c", "d", "e", "f"] {
        for size in [1, 2] {
            assert_eq!(manifest.has(&file(name, size)), known.contains(&(name, size)), "{name} {size}");
        }
    }
    let touched = Stamp { size: 1, modified_unix_nanoseconds: 8 };
    assert!(!manifest.has(&ImageFile { path: "a".into(), stamp: touched }));
}

#[test]
fn a_line_that_was_cut_off_anywhere_is_taken_away_and_lines_go_on_behind_the_whole_ones() {
    let (first, second) = (done("a", 1), done("b", 1));
    for cut in 1..second.len() {
        let (_folder, path) = manifest(&format!("{first}{}", &second[..cut]));
        let mut opened = Manifest::open(&path).unwrap();
        assert!(opened.has(&file("a", 1)) && !opened.has(&file("b", 1)));
        opened.add(&Failure::new(Path::new("c"), "e".into(), "R")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first.clone() + &failed("c"));
    }
}

#[test]
fn a_manifest_says_what_encoded_it_and_takes_nothing_from_others() {
    let (_folder, path) = manifest("");
    let mut new = Manifest::open(&path).unwrap();
    new.encoded_by(encoder("a")).unwrap();
    new.encoded_by(encoder("a")).unwrap();
    drop(new);
    let header = format!("{{\"tessera_manifest\":1,\"encoder\":\"{}\"}}\n", encoder("a"));
    assert_eq!(fs::read_to_string(&path).unwrap(), header);
    let mut again = Manifest::open(&path).unwrap();
    let error = again.encoded_by(encoder("b")).unwrap_err().to_string();
    assert!(error.contains("another --manifest") && error.contains(&encoder("a").to_string()), "{error}");
    again.encoded_by(encoder("a")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), header);

    // What failed before the first image was encoded has no encoder.
    let (_folder, path) = manifest(&failed("a"));
    Manifest::open(&path).unwrap().encoded_by(encoder("a")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), failed("a") + &header);

    // The encoder of the first lines was not to be had: nothing is said of it later.
    let (_folder, path) = manifest(&done("a", 1));
    Manifest::open(&path).unwrap().encoded_by(encoder("a")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), done("a", 1));
}

#[test]
fn what_is_no_manifest_is_refused_and_left_as_it_is() {
    assert!(refused("GIF89a").contains("line 1"));
    assert!(refused(&(done("a", 1) + "{}\n")).contains("line 2"));
    assert!(refused(&(done("a", 1) + "\0\0\0\0")).contains("line 2"));
    assert!(refused(r#"{"path":1}"#).contains("line 1"));
    assert!(refused(&format!("{{\"path\":\"{}", "a".repeat(70_000))).contains("line 1"));
    assert!(refused("{\"tessera_manifest\":2,\"encoder\":\"\"}\n").contains("version 2"));
    assert!(refused("{\"tessera_manifest\":1,\"encoder\":\"x\"}\n").contains("line 1"));
}

#[test]
fn one_run_at_a_time_writes_a_manifest() {
    let (_folder, path) = manifest("");
    let first = Manifest::open(&path).unwrap();
    let error = Manifest::open(&path).unwrap_err().to_string();
    assert!(error.contains("another run"), "{error}");
    drop(first);
    assert!(Manifest::open(&path).is_ok());
}
