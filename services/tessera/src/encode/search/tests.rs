//! Tests of what is found, and in which order.

use std::fs;

use tempfile::TempDir;

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A folder of files.
fn files(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

/// What is found of `names` in a folder: paths below it, and reasons of failures.
fn found(folder: &TempDir, names: &[&str], input: &[u8]) -> Vec<String> {
    let below = |path: &str| match Path::new(path).strip_prefix(folder.path()) {
        Ok(below) => below.to_str().unwrap().to_owned(),
        Err(_) => path.to_owned(),
    };
    let named: Vec<PathBuf> =
        names.iter().map(|&name| if name == "-" { name.into() } else { folder.path().join(name) }).collect();
    let mut all = Vec::new();
    let mut tell = |found: Found| {
        all.push(match found {
            Ok(file) => below(&file.path),
            Err(failure) => format!("{} {}", below(&failure.path), failure.reason),
        });
        ControlFlow::Continue(())
    };
    assert!(search(&named, input, &mut tell).is_continue());
    all
}

#[test]
fn a_folder_gives_its_images_in_the_order_of_names() {
    let folder = files(&[
        ("b.JPG", b""),
        ("a/z.webp", b""),
        ("a/content", PNG),
        ("a/notes.txt", b"words"),
        ("a/empty", b""),
        ("c.tiff", b""),
        (".hidden.png", b""),
        (".git/d.png", b""),
    ]);
    let images = ["a/content", "a/z.webp", "b.JPG", "c.tiff"];
    assert_eq!(found(&folder, &[""], b""), images);
    assert_eq!(found(&folder, &["c.tiff", "a"], b""), ["c.tiff", "a/content", "a/z.webp"]);
    assert_eq!(found(&folder, &["a/notes.txt", ".hidden.png"], b""), ["a/notes.txt", ".hidden.png"], "named is meant");
    assert_eq!(found(&folder, &["nowhere.png", "c.tiff"], b""), ["nowhere.png UNREADABLE", "c.tiff"]);
}

#[test]
fn a_pattern_gives_the_images_that_match_it() {
    let folder =
        files(&[("a/1.png", b""), ("a/b/2.png", b""), ("a/b/3.jpg", b""), ("a/b/4.txt", b"words"), ("[x].png", b"")]);
    assert_eq!(found(&folder, &["a/*.png"], b""), ["a/1.png"]);
    assert_eq!(found(&folder, &["**/*.png"], b""), ["[x].png", "a/1.png", "a/b/2.png"]);
    assert_eq!(found(&folder, &["a/b/[23].*"], b""), ["a/b/2.png", "a/b/3.jpg"]);
    assert_eq!(found(&folder, &["a/b/*"], b""), ["a/b/2.png", "a/b/3.jpg"]);
    assert_eq!(found(&folder, &["[x].png"], b""), ["[x].png"], "a file may be called so");
    assert_eq!(found(&folder, &["a/*.gif", "a/**b"], b""), ["a/*.gif NO_MATCH", "a/**b PATTERN_INVALID"]);
}

#[test]
fn standard_input_names_a_file_or_a_folder_a_line() {
    let folder = files(&[("a b.png", b""), ("c/d.png", b"")]);
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let input = format!("{}\r\n\n{}\n{}", at("a b.png"), at("nowhere*"), at("c"));
    assert_eq!(found(&folder, &["-"], input.as_bytes()), ["a b.png", "nowhere* UNREADABLE", "c/d.png"]);
    let broken = [&b"\xff\n"[..], at("c").as_bytes(), b"\n", &[b'x'; 40_000], b"\n"].concat();
    assert_eq!(found(&folder, &["-"], &broken), ["\u{fffd} PATH_NOT_TEXT", "c/d.png", "- UNREADABLE"]);
}

#[test]
fn nothing_is_searched_for_nobody() {
    let folder = files(&[("a.png", b""), ("b.png", b"")]);
    let mut count = 0;
    let mut tell = |_| {
        count += 1;
        ControlFlow::Break(())
    };
    assert!(search(&[folder.path().to_owned(), folder.path().to_owned()], &b""[..], &mut tell).is_break());
    assert_eq!(count, 1);
}

#[cfg(unix)]
#[test]
fn a_link_is_followed_and_one_that_goes_round_is_told_of() {
    let folder = files(&[("a/1.png", b""), ("b/2.png", b"")]);
    std::os::unix::fs::symlink(folder.path().join("b"), folder.path().join("a/b")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("a/a")).unwrap();
    assert_eq!(found(&folder, &["a"], b""), ["a/1.png", "a/a UNREADABLE", "a/b/2.png"]);
}
