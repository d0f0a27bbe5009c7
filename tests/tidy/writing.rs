//! Rules about how a file is written.

use crate::{
    files::{Source, TextFile},
    lexer::has_word,
};

const LONG: usize = 500;

pub(crate) fn long_file(source: &Source) -> Vec<String> {
    let product = source.product_code().count();
    let message = format!("{product} lines without tests, {LONG} are long");
    if product > LONG { vec![source.at(LONG, &message)] } else { Vec::new() }
}

pub(crate) fn shortcuts(source: &Source) -> Vec<String> {
    // Spelled in two halves, so that searching for them does not find this.
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut wrong = Vec::new();
    for (line, code) in source.product_code() {
        let shortcut = [".unwrap()", "todo!", "unimplemented!", "#[allow", "#![allow"]
            .into_iter()
            .find(|text| code.contains(text));
        let note = notes.into_iter().find(|note| has_word(&source.lines[line - 1], note));
        wrong.extend(shortcut.or(note).map(|found| source.at(line, &format!("{found} outside tests"))));
    }
    wrong
}

pub(crate) fn missing_module_doc(source: &Source) -> Vec<String> {
    let documented = source.lines.first().is_some_and(|line| line.starts_with("//!"));
    if documented || source.is_test { Vec::new() } else { vec![source.at(1, "the file does not start with //!")] }
}

/// Paths that leave the repository, or that only one machine has.
pub(crate) fn foreign_paths(file: &TextFile) -> Vec<String> {
    let depth = file.path.matches('/').count();
    let mut wrong = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let absolute = line.contains(concat!("/wo", "rk/"));
        let outside = line.match_indices("../").any(|(at, _)| {
            let ups =
                line[..at].rsplit(|c: char| c != '.' && c != '/').next().unwrap_or_default().matches("../").count() + 1;
            ups > depth && line[at + 3..].starts_with("shared")
        });
        if absolute || outside {
            wrong.push(format!("{}:{}: a path that leaves the repository", file.path, index + 1));
        }
    }
    wrong
}

#[cfg(test)]
mod samples {
    use super::*;

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let lines = |count| "let a = 1;\n".repeat(count);
        assert_eq!(long_file(&Source::new("shared/a/src/b.rs", &lines(501))).len(), 1);
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(499), lines(400));
        assert!(long_file(&Source::new("shared/a/src/b.rs", &tests)).is_empty());
    }

    #[test]
    fn shortcuts_are_found() {
        let note = concat!("// TO", "DO: later\n");
        let bad = format!("a.unwrap();\ntodo!();\n#[allow(dead_code)]\n{note}let b = \".unwrap()\"; // .unwrap()\n");
        let found = shortcuts(&Source::new("shared/a/src/b.rs", &bad));
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[0], "shared/a/src/b.rs:1: .unwrap() outside tests");
        let tests = format!("#[cfg(test)]\nmod tests {{\n{bad}}}\n");
        assert!(shortcuts(&Source::new("shared/a/src/b.rs", &tests)).is_empty());
        assert!(shortcuts(&Source::new("shared/a/tests/b.rs", &bad)).is_empty());
    }

    #[test]
    fn a_file_without_its_first_sentence_is_found() {
        for text in ["", "use std::fs;\n", "/// A.\nfn a() {}\n"] {
            assert_eq!(missing_module_doc(&Source::new("shared/a/src/b.rs", text)).len(), 1, "{text}");
        }
        assert!(missing_module_doc(&Source::new("shared/a/src/b.rs", "//! A.\n")).is_empty());
        assert!(missing_module_doc(&Source::new("shared/a/src/b/tests.rs", "use a;\n")).is_empty());
    }

    #[test]
    fn a_path_out_of_the_repository_is_found() {
        let wrong = |path: &str, text: &str| foreign_paths(&TextFile { path: path.into(), text: text.into() }).len();
        let up = concat!(".", "./shared/design");
        assert_eq!(wrong("README.md", concat!("a\nsee /wo", "rk/notes\n")), 1);
        assert_eq!(wrong("README.md", up), 1);
        assert_eq!(wrong("services/a/src/b.rs", &format!("include_bytes!(\"../../../{up}\")")), 1);
        assert_eq!(wrong("services/a/src/b.rs", &format!("include_bytes!(\"../../{up}\")")), 0);
    }
}
