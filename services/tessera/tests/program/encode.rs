//! `tessera encode` as a user runs it, and what is asked about its handles.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Output, Stdio};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use tessera_testkit::{Golden, Program, family_dir};

use crate::{EXECUTABLE, complaint, free_ports, output, path};

const PICTURES: [&str; 3] = ["one_image_0.png", "two_images_0.png", "two_images_1.png"];

/// A program that serves, and where.
fn up() -> (Program, String) {
    let (model, port) = (family_dir("mistral"), free_ports());
    let arguments = ["up", "--model", model.to_str().unwrap(), "--port", &port.to_string()];
    let (program, _) = Program::start(EXECUTABLE, &arguments, "tessera.gateway.v1.Gateway");
    (program, format!("http://127.0.0.1:{port}"))
}

/// A folder with `photos/`: three pictures in two folders, one broken, and a text.
fn photos() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir_all(photos.join("more")).unwrap();
    for (name, place) in PICTURES.iter().zip(["", "", "more"]) {
        fs::copy(path(&format!("tiny/pictures/{name}")), photos.join(place).join(name)).unwrap();
    }
    fs::write(photos.join("broken.png"), b"\x89PNG\r\n\x1a\nand no more").unwrap();
    fs::write(photos.join("notes.txt"), b"no image").unwrap();
    folder
}

/// Runs `tessera encode` in a folder.
fn encode(folder: &TempDir, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(EXECUTABLE);
    command.current_dir(folder.path()).arg("encode").args(arguments).write_stdin(input);
    command.output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The handles that were printed, by path.
fn handles(stdout: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once('\t').map(|(handle, path)| (path.to_owned(), handle.to_owned())).unwrap();
    stdout.lines().map(pair).collect()
}

fn manifest(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_folder_is_encoded_once_however_often_it_is_named_or_cut_off() {
    let (folder, (_program, server)) = (photos(), up());
    let file = folder.path().join("manifest.jsonl");
    let again = ["--server", &server, "--manifest", "manifest.jsonl", "photos"];

    let (code, stdout, stderr) = said(&encode(&folder, &again, ""));
    assert_eq!(code, Some(1), "{stderr}");
    let first = handles(&stdout);
    let images = ["photos/more/two_images_1.png", "photos/one_image_0.png", "photos/two_images_0.png"];
    assert_eq!(first.keys().collect::<Vec<_>>(), images);
    assert!(stderr.contains("error: photos/broken.png: "), "{stderr}");
    assert!(stderr.contains("failed: photos/broken.png: "), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("encoded 3, 1 failed, ") && last.ends_with(" images a second"), "{last}");

    let lines = manifest(&file);
    let header = lines.iter().position(|line| line["tessera_manifest"] == 1).unwrap();
    assert_eq!((lines.len(), lines[header]["encoder"].as_str().unwrap().len()), (5, 64));
    assert!(lines[..header].iter().all(|line| line["handle"].is_null()), "it stands in front of what is stored");
    let line = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
    for (path, handle) in &first {
        let line = line(path);
        let about = fs::metadata(folder.path().join(path)).unwrap();
        assert_eq!((line["handle"].as_str(), line["size"].as_u64()), (Some(handle.as_str()), Some(about.len())));
        assert_eq!(line["stored_before"], false);
        assert!(line["image_tokens"].as_u64() > Some(0) && line["tiles"].as_u64() > Some(1), "{line}");
        assert!(line["grid"]["width"].as_u64() > Some(0) && line["modified_unix_nanoseconds"].as_u64() > Some(0));
    }
    assert_eq!(
        (line("photos/one_image_0.png")["width"].is_u64(), line("photos/broken.png")["handle"].is_null()),
        (true, true)
    );
    assert!(line("photos/broken.png")["reason"].as_str().unwrap().starts_with("IMAGE_"));

    // What is done is skipped, what failed is tried again.
    let (code, stdout, stderr) = said(&encode(&folder, &again, ""));
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("encoded 0, 3 were done before, 1 failed, "), "{stderr}");

    // A kill cut the last line off, and somebody mended the picture.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 9]).unwrap();
    fs::copy(path("tiny/pictures/portrait_0.png"), folder.path().join("photos/broken.png")).unwrap();
    let (code, stdout, stderr) = said(&encode(&folder, &again, ""));
    assert_eq!((code, handles(&stdout).len()), (Some(0), 1), "{stderr}");
    assert!(stderr.contains("encoded 1, 3 were done before, 0 failed, "), "{stderr}");
    let lines = manifest(&file);
    assert_eq!((lines.len(), &lines[5]["path"]), (6, &Value::from("photos/broken.png")));

    // Without a manifest the store knows them.
    let json = ["--server", &server, "--json", "photos/**/two*", "-"];
    let (code, stdout, stderr) = said(&encode(&folder, &json, "photos/one_image_0.png\n"));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("encoded 3 (3 were stored before), 0 failed, "), "{stderr}");
    for line in stdout.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["handle"].as_str(), first.get(line["path"].as_str().unwrap()).map(String::as_str));
    }
}

#[test]
fn a_handle_stands_for_its_image_until_it_is_removed() {
    let (folder, (_program, server)) = (photos(), up());
    let pictures = ["photos/two_images_0.png", "photos/more/two_images_1.png"];
    let (code, stdout, stderr) = said(&encode(&folder, &[&["--server", &server], &pictures[..]].concat(), ""));
    assert_eq!(code, Some(0), "{stderr}");
    let handles = pictures.map(|picture| handles(&stdout)[picture].clone());
    let files = pictures.map(|picture| folder.path().join(picture).to_str().unwrap().to_owned());

    let question = ["ask", "--server", &server, "--json", "--max-tokens", "16", "What differs?"];
    let ask =
        |pictures: &[&str]| -> Value { serde_json::from_slice(&output(&[&question[..], pictures].concat())).unwrap() };
    let expected = ask(&["--image", &files[0], "--image", &files[1]]);
    let stored = ask(&["--embedding", &handles[0], "--embedding", &handles[1]]);
    let mixed = ask(&["--embedding", &handles[0], "--image", &files[1]]);
    let turned = ask(&["--image", &files[1], "--embedding", &handles[0]]);
    for answer in [&stored, &mixed] {
        assert_eq!((&answer["text"], &answer["token_ids"]), (&expected["text"], &expected["token_ids"]));
        assert_eq!(answer["usage"]["image_tokens"], expected["usage"]["image_tokens"]);
    }
    assert_ne!(turned["token_ids"], expected["token_ids"]);

    let gone = "0".repeat(64);
    let error = complaint(&["ask", "--server", &server, "--embedding", &gone, "What?"]);
    assert!(error.contains(&gone) && error.contains("tessera encode") && error.contains("--image"), "{error}");

    let stat = ["store", "stat", "--server", &server, "--json", &handles[0]];
    let about: Value = serde_json::from_slice(&output(&stat)).unwrap();
    assert_eq!(about["handle"], Value::from(handles[0].clone()));
    assert_eq!(
        (&about["stored"]["in_memory"], &about["stored"]["uploaded"]),
        (&Value::from(true), &Value::from(false))
    );
    let missing = Command::new(EXECUTABLE).args(["store", "stat", "--server", &server, &gone]).assert().code(1);
    missing.stdout(format!("{gone}\tnot stored\n"));

    let remove =
        |what: &[&str]| String::from_utf8(output(&[&["store", "rm", "--server", &server], what].concat())).unwrap();
    assert_eq!(remove(&[&handles[0], &gone]), "deleted 1\n");
    assert_eq!(remove(&["--image", &files[1]]), "deleted 1\n");
    assert_eq!(remove(&["--everything", "--yes"]), "deleted 0\n");
    let error = complaint(&["ask", "--server", &server, "--embedding", &handles[0], "What?"]);
    assert!(error.contains(&handles[0]), "{error}");
}

/// The files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_folder_keeps_images_from_one_process_to_the_next() {
    let (folder, model) = (photos(), family_dir("mistral"));
    let store = folder.path().join("features").to_str().unwrap().to_owned();
    let services = ["--model", model.to_str().unwrap(), "--store", &store];
    let more = ["--manifest", "m.jsonl", "--lease", "1h", "photos/one_image_0.png"];
    let (code, stdout, stderr) = said(&encode(&folder, &[&services[..], &more].concat(), ""));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("on no disk"), "{stderr}");
    let handle = &handles(&stdout)["photos/one_image_0.png"];
    let lines = manifest(&folder.path().join("m.jsonl"));
    assert_eq!((&lines[1]["durable"], lines[1]["leased_until_unix_seconds"].is_u64()), (&Value::from(true), true));

    let golden = Golden::load("mistral", "one_image");
    let question = ["--embedding", handle, "What is shown in this image?", "--max-tokens", "16", "--json"];
    let answer: Value = serde_json::from_slice(&output(&[&["ask"], &services[..], &question].concat())).unwrap();
    assert_eq!(answer["token_ids"], Value::from(golden.greedy[0].clone()));

    let at_store = |command: &[&str]| {
        let mut all = Command::new(EXECUTABLE);
        said(&all.arg("store").args(command).args(["--store", &store]).output().unwrap())
    };
    let (code, listed, _) = at_store(&["ls"]);
    assert!(code == Some(0) && listed.lines().count() == 1 && listed.starts_with(handle.as_str()), "{listed}");
    let (code, told, _) = at_store(&["stat", handle]);
    assert!(code == Some(0) && told.contains("on disk") && told.contains("leased until"), "{told}");
    let (code, verified, _) = at_store(&["verify"]);
    assert!(
        code == Some(0) && verified.starts_with("1 checked ") && verified.ends_with(" 0 broken and deleted\n"),
        "{verified}"
    );

    let artifact =
        files_below(Path::new(&store)).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&artifact).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&artifact, bytes).unwrap();
    let (code, verified, _) = at_store(&["verify"]);
    assert!(code == Some(1) && verified.ends_with(" 1 broken and deleted\n"), "{verified}");
    assert_eq!(at_store(&["ls"]), (Some(0), String::new(), String::new()));
    assert_eq!(at_store(&["rm", handle]).1, "deleted 0\n");

    // What the manifest says is done is not there any more.
    let (code, _, stderr) = said(&encode(&folder, &[&services[..], &more].concat(), ""));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.contains("note: photos/one_image_0.png is done by the manifest")
            && stderr.contains("encoded 1, 0 failed")
    );
    assert_eq!(at_store(&["rm", "--everything", "--yes"]).1, "deleted 1\n");

    let other = [&services[..], &["--compute", "f16"], &more].concat();
    let (code, stdout, stderr) = said(&encode(&folder, &other, ""));
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("another model") && stderr.contains("another --manifest"), "{stderr}");
    assert_eq!(manifest(&folder.path().join("m.jsonl")).len(), 3);
}

/// A run that has encoded one image and waits for more paths, as long as its standard input is open.
fn waiting(folder: &TempDir, server: &str) -> (Child, ChildStdin) {
    let mut command = std::process::Command::new(EXECUTABLE);
    command.current_dir(folder.path()).args(["encode", "--server", server, "--manifest", "m.jsonl", "-"]);
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut paths = run.stdin.take().unwrap();
    writeln!(paths, "photos/one_image_0.png").unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with("photos/one_image_0.png\n"), "{line}");
    (run, paths)
}

#[test]
fn a_run_that_is_broken_off_has_written_what_is_done() {
    let (folder, (program, server)) = (photos(), up());
    let (interrupted, _open) = waiting(&folder, &server);
    let killed = std::process::Command::new("kill").args(["-TERM", &interrupted.id().to_string()]).status();
    assert!(killed.unwrap().success());
    // It ends although standard input does not.
    let (code, _, stderr) = said(&interrupted.wait_with_output().unwrap());
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("encoded 1, 0 failed, "), "{stderr}");
    assert_eq!(manifest(&folder.path().join("m.jsonl")).len(), 2);

    fs::remove_file(folder.path().join("m.jsonl")).unwrap();
    let (orphan, _open) = waiting(&folder, &server);
    drop(program);
    let (code, _, stderr) = said(&orphan.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("run it again") && stderr.contains("encoded 1 (1 was stored before), 0 failed"),
        "{stderr}"
    );
    assert_eq!(manifest(&folder.path().join("m.jsonl")).len(), 2);
}

#[test]
fn what_cannot_be_encoded_is_said_with_what_to_do() {
    let folder = photos();
    let cases: [(&[&str], &str); 4] = [
        (&["photos"], "--store STORE"),
        (&["--server", "http://127.0.0.1:9", "photos"], "no gateway at http://127.0.0.1:9"),
        (&["--server", "http://127.0.0.1:9", "--manifest", "photos/notes.txt", "photos"], "photos/notes.txt"),
        (&["--server", "http://127.0.0.1:9", "--manifest", "nowhere/m.jsonl", "photos"], "nowhere/m.jsonl"),
    ];
    for (arguments, expected) in cases {
        let (code, stdout, stderr) = said(&encode(&folder, arguments, ""));
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(expected), "{arguments:?}: {stderr}");
    }
    assert_eq!(fs::read(folder.path().join("photos/notes.txt")).unwrap(), b"no image");
    let handle = "0".repeat(64);
    assert!(complaint(&["ask", "--embedding", &handle, "What?"]).contains("--store STORE"));
}

#[test]
fn what_a_store_did_not_take_is_no_success() {
    let folder = photos();
    let model = family_dir("mistral");
    // Nobody listens there.
    let store = format!("redis://127.0.0.1:{}", free_ports());
    let arguments = ["photos/one_image_0.png", "--model", model.to_str().unwrap(), "--store", &store, "--json"];
    let (code, stdout, stderr) = said(&encode(&folder, &arguments, ""));
    assert_eq!(code, Some(1), "{stderr}");
    let line: Value = serde_json::from_str(stdout.trim()).unwrap();
    assert_eq!(line["reason"], "NOT_KEPT", "{line}");
}
