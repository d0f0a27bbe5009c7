//! The files of the repository, as the rules see them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::lexer;

/// Folders that hold no source: what is built, what git keeps, what Python caches.
const SKIPPED: [&str; 3] = ["target", ".git", "__pycache__"];

/// A file of text. Its path is relative to the repository, with `/`.
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A Rust file.
pub(crate) struct Source {
    pub(crate) path: String,
    /// As it was written.
    pub(crate) lines: Vec<String>,
    /// The same lines without comments and without the insides of literals.
    pub(crate) code: Vec<String>,
    /// Which lines are tests.
    pub(crate) test: Vec<bool>,
    /// Whether the whole file is.
    pub(crate) is_test: bool,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = lexer::code_lines(text);
        let is_test = is_test_file(path);
        let test = if is_test { vec![true; code.len()] } else { lexer::test_lines(&code) };
        Self { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect(), code, test, is_test }
    }

    /// The code that is not test, with line numbers from 1.
    pub(crate) fn product_code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().zip(&self.test).enumerate();
        lines.filter(|(_, (_, test))| !**test).map(|(index, (line, _))| (index + 1, line.as_str()))
    }

    /// Whether the file is `FOLDER/NAME.rs` or lies in `FOLDER/NAME/`.
    pub(crate) fn is_module(&self, folder: &str, name: &str) -> bool {
        let rest = self.path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        let rest = rest.and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    pub(crate) fn at(&self, line: usize, message: &str) -> String {
        format!("{}:{line}: {message}", self.path)
    }
}

/// Tests that are a file of their own, and the crates that are nothing else.
fn is_test_file(path: &str) -> bool {
    let in_tests = path.starts_with("tests/") || path.contains("/tests/") || path.contains("/benches/");
    in_tests || path.ends_with("/tests.rs") || path.starts_with("shared/testkit/")
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the tests lie in the repository")
}

/// Every file of UTF-8 text.
pub(crate) fn text_files() -> Vec<TextFile> {
    let (root, mut files) = (root(), Vec::new());
    walk(&root, &root, &mut files);
    assert!(files.iter().any(|file| file.path == "Cargo.toml"), "the walk must find the repository");
    files
}

/// Every Rust file.
pub(crate) fn sources() -> Vec<Source> {
    let rust = text_files().into_iter().filter(|file| file.path.ends_with(".rs"));
    rust.map(|file| Source::new(&file.path, &file.text)).collect()
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<TextFile>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("a folder can be listed")
        .map(|entry| entry.expect("an entry can be read"))
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("a file has a type");
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
            walk(root, &path, files);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(&path)
        {
            let relative = path.strip_prefix(root).expect("the walk starts at the root");
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            files.push(TextFile { path: parts.join("/"), text });
        }
    }
}

#[test]
fn a_module_is_its_file_and_its_folder() {
    let is_module = |path| Source::new(path, "").is_module("services/gateway/src", "upstream");
    assert!(is_module("services/gateway/src/upstream.rs") && is_module("services/gateway/src/upstream/pool.rs"));
    assert!(!is_module("services/gateway/src/upstreams.rs") && !is_module("services/vision/src/upstream.rs"));
}
