//! Completions and manual pages, read by those they are for: bash, zsh, fish and groff, which must be there.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use assert_cmd::Command as Program;

/// What the program prints.
fn printed(arguments: &[&str]) -> Vec<u8> {
    Program::cargo_bin("tessera").unwrap().args(arguments).assert().success().get_output().stdout.clone()
}

/// What a reader says of a text; empty where it is content.
fn said(reader: &[&str], text: &[u8]) -> String {
    let mut command = Command::new(reader[0]);
    command.args(&reader[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = command.spawn().unwrap_or_else(|error| panic!("{} must be installed: {error}", reader[0]));
    run.stdin.take().unwrap().write_all(text).unwrap();
    let ended = run.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() || !said.is_empty(), "{} fails and says nothing", reader[0]);
    said
}

#[test]
fn shells_understand_their_scripts() {
    for (shell, reader) in
        [("bash", vec!["bash", "-n"]), ("zsh", vec!["zsh", "-n"]), ("fish", vec!["fish", "--no-execute"])]
    {
        assert_eq!(said(&reader, &printed(&["completions", shell])), "", "{shell}");
        assert_ne!(said(&reader, b"case if (\n"), "", "{shell} objects to nothing");
    }
}

#[test]
fn groff_understands_every_page() {
    let reader = ["groff", "-man", "-ww", "-z", "-K", "utf8"];
    let folder = tempfile::tempdir().unwrap();
    printed(&["man", folder.path().to_str().unwrap()]);
    let pages: Vec<_> = folder.path().read_dir().unwrap().map(|page| page.unwrap().path()).collect();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        assert_eq!(said(&reader, &fs::read(&page).unwrap()), "", "{}", page.display());
    }
    assert_ne!(said(&reader, b".TH a 1\n.no-such-request\n"), "", "groff objects to nothing");
}
