//! Rules about manifests and example configurations.

use crate::files::TextFile;

/// In the root manifest, each group of dependencies (groups are parted by blank lines) begins with a comment on why.
pub(crate) fn unexplained_dependencies(file: &TextFile) -> Vec<String> {
    let (mut inside, mut explained, mut wrong) = (false, false, Vec::new());
    for (index, line) in file.text.lines().enumerate().filter(|_| file.path == "Cargo.toml") {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
            explained = false;
        } else if line.is_empty() {
            explained = false;
        } else if line.starts_with('#') {
            explained = true;
        } else if inside && !explained && line.contains('=') {
            wrong.push(format!("{}:{}: no comment says why: {line}", file.path, index + 1));
        }
    }
    wrong
}

/// A decoder that panics on a hostile file fails that file alone; a program that aborts then takes everybody's requests down.
pub(crate) fn aborting_profiles(file: &TextFile) -> Vec<String> {
    let aborts = |line: &str| line.split('#').next().unwrap_or_default().replace(' ', "") == "panic=\"abort\"";
    let lines = file.text.lines().enumerate().filter(|(_, line)| file.path.ends_with("Cargo.toml") && aborts(line));
    lines.map(|(index, _)| format!("{}:{}: a panic must unwind", file.path, index + 1)).collect()
}

pub(crate) fn missing_lints(file: &TextFile) -> Vec<String> {
    let is_crate = file.path.ends_with("/Cargo.toml");
    let taken = file.text.contains("\n[lints]\nworkspace = true\n") || file.text.contains("\nlints.workspace = true\n");
    if is_crate && !taken { vec![format!("{}:1: the workspace lints are not taken", file.path)] } else { Vec::new() }
}

/// That an example also fits the settings that it is for is tested with those settings.
pub(crate) fn broken_example(file: &TextFile) -> Vec<String> {
    let example = file.path.starts_with("deploy/") && file.path.ends_with(".toml");
    let error = example.then(|| file.text.parse::<toml::Table>().err()).flatten();
    error.map(|error| format!("{}:1: {error}", file.path)).into_iter().collect()
}

#[cfg(test)]
mod samples {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let bad = "[workspace.dependencies]\n# text\na = \"1\"\nb = \"1\"\n\nc = \"1\"\n\n[profile.dev]\nd = 1\n";
        assert_eq!(
            unexplained_dependencies(&file("Cargo.toml", bad)),
            ["Cargo.toml:6: no comment says why: c = \"1\""]
        );
        assert!(unexplained_dependencies(&file("shared/a/Cargo.toml", bad)).is_empty());
    }

    #[test]
    fn a_profile_that_aborts_is_found() {
        let bad = "[profile.release]\nstrip = \"debuginfo\"\npanic = \"abort\" # small\n";
        assert_eq!(aborting_profiles(&file("Cargo.toml", bad)), ["Cargo.toml:3: a panic must unwind"]);
        assert!(aborting_profiles(&file("Cargo.toml", "[profile.release]\n# panic = \"abort\"\n")).is_empty());
    }

    #[test]
    fn a_crate_without_the_lints_is_found() {
        assert_eq!(missing_lints(&file("shared/a/Cargo.toml", "[package]\n")).len(), 1);
        assert!(missing_lints(&file("shared/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n")).is_empty());
    }

    #[test]
    fn an_example_that_does_not_parse_is_found() {
        assert_eq!(broken_example(&file("deploy/gateway.toml", "a = \n")).len(), 1);
        assert!(broken_example(&file("deploy/gateway.toml", "a = 1\n")).is_empty());
        assert!(broken_example(&file("deploy/notes.md", "a = \n")).is_empty());
    }
}
