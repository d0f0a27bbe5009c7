//! What is written about the program: help, manual pages, completions. `shells` has them read by those they are for.

use std::fs;

use crate::{complaint, output};

/// Every command with its subcommands, by their names: those that have a manual page.
fn commands(folder: &std::path::Path) -> Vec<String> {
    output(&["man", folder.to_str().unwrap()]);
    let files = folder.read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files.map(|file| file.strip_suffix(".1").unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_command_has_a_page_and_examples() {
    let folder = tempfile::tempdir().unwrap();
    let names = commands(&folder.path().join("man1"));
    let expected = [
        "tessera",
        "tessera-ask",
        "tessera-chat",
        "tessera-completions",
        "tessera-encode",
        "tessera-inspect",
        "tessera-man",
        "tessera-store",
        "tessera-store-ls",
        "tessera-store-rm",
        "tessera-store-stat",
        "tessera-store-verify",
        "tessera-up",
    ];
    assert_eq!(names, expected);
    for name in names {
        let page = fs::read_to_string(folder.path().join("man1").join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Examples:"), "{page}");
        let arguments: Vec<&str> = name.split('-').skip(1).chain(["--help"]).collect();
        let help = String::from_utf8(output(&arguments)).unwrap();
        let example = format!(
            "\n  {}",
            arguments[..arguments.len() - 1].iter().fold("tessera".to_owned(), |all, part| all + " " + part)
        );
        let examples = help.split("Examples:\n").nth(1);
        assert!(examples.is_some_and(|examples| format!("\n{examples}").contains(&example)), "{name}: {help}");
    }
    assert!(output(&["man"]).starts_with(b".ie"), "the page of the program itself");
    assert!(complaint(&["man", "/proc/nowhere"]).contains("/proc/nowhere"));
}

#[test]
fn completions_name_commands_and_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(output(&["completions", shell])).unwrap();
        for word in ["chat", "completions", "verify", "max-tokens"] {
            assert!(script.contains(word), "{word} is not completed in {shell}");
        }
    }
}
