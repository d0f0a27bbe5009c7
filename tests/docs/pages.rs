//! Pages as they are committed.

use std::fs;

use crate::files::root;

/// What has the pages written instead of compared.
const WRITE: &str = "TESSERA_WRITE_DOCS";

/// A page, by its path in the repository.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Holds a committed page to what is generated, or writes it where that is asked for.
pub(crate) fn hold(path: &str, generated: &str) {
    #[expect(clippy::disallowed_methods, reason = "cargo hands a test no flags of its own")]
    if std::env::var(WRITE).is_ok() {
        return fs::write(root().join(path), generated).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let committed = fs::read_to_string(root().join(path)).unwrap_or_default();
    if committed != generated {
        let pairs = committed.lines().chain([""]).zip(generated.lines().chain([""]));
        let first = pairs.enumerate().find(|(_, (committed, generated))| committed != generated);
        let first = first.map(|(at, (committed, generated))| {
            format!("line {} is\n  {committed}\nand should be\n  {generated}", at + 1)
        });
        let first = first.unwrap_or_else(|| "one of them is longer".to_owned());
        panic!(
            "{path} went stale: {first}\n`{WRITE}=1 cargo test -p tessera-tests --test docs` writes it, look at it and commit it"
        );
    }
}

/// The rows under a heading: the cells of each, without code marks around them. A heading is told without its `#`s.
pub(crate) fn rows<const CELLS: usize>(page: &str, heading: &str) -> Vec<[String; CELLS]> {
    let section = page.split("\n## ").find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'));
    let section = section.unwrap_or_else(|| panic!("there is no section {heading}"));
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.skip(1)
        .map(|row| {
            let cells: Vec<String> = row.splitn(CELLS, " | ").map(|cell| cell.trim_matches('`').to_owned()).collect();
            cells.try_into().unwrap_or_else(|_| panic!("not {CELLS} cells: {row}"))
        })
        .collect()
}

#[test]
fn rows_are_those_of_their_section() {
    let page = "# P\n\n## A\n\n| a | b |\n|---|---|\n| `x` | 1 |\n\n## B\n\n| a | b |\n|---|---|\n| `y` | 3 |\n";
    assert_eq!(rows::<2>(page, "A"), [["x", "1"]]);
    assert_eq!(rows::<2>(page, "B"), [["y", "3"]]);
}
