//! Links between the pages: each leads to a file, and to a place in it where it names one.

use std::collections::BTreeSet;

use crate::files::{self, TextFile};

/// What is wrong with the links of a page. `exists` says whether there is a file or a folder.
fn broken(page: &TextFile, files: &[TextFile], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for link in links(&page.text) {
        let (path, place) = link.split_once('#').unwrap_or((link, ""));
        let target = if path.is_empty() { Some(page.path.clone()) } else { resolved(&page.path, path) };
        let text = match &target {
            Some(path) if *path == page.path => Some(page),
            Some(path) => files.iter().find(|file| file.path == *path),
            None => None,
        };
        let problem = match target {
            None => "leaves the repository",
            Some(target) if target != page.path && !exists(&target) => "leads to no file",
            _ if !place.is_empty() && !text.is_some_and(|page| places(&page.text).contains(place)) => {
                "leads to no heading"
            }
            _ => continue,
        };
        wrong.push(format!("{}: {link} {problem}", page.path));
    }
    wrong
}

/// Where the links of a page lead that stay in the repository. Code is no link.
fn links(page: &str) -> Vec<&str> {
    let lines = page.split("\n```").step_by(2).flat_map(str::lines);
    let all = lines.flat_map(|line| line.split('`').step_by(2).flat_map(|text| text.split("](").skip(1)));
    let ends = all.filter_map(|rest| rest.split_once(')').map(|(link, _)| link));
    ends.filter(|link| !link.contains("://")).collect()
}

/// Where a link leads, from the root of the repository.
fn resolved(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "." => {}
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The names of a page's places: its headings', as GitHub makes them, and those that are given.
fn places(page: &str) -> BTreeSet<String> {
    let prose = page.split("\n```").step_by(2).flat_map(str::lines);
    let headings =
        prose.clone().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#').trim()));
    let given = prose.flat_map(|line| line.split("<a id=\"").skip(1)).filter_map(|rest| rest.split_once('"'));
    headings.chain(given.map(|(id, _)| id.to_owned())).collect()
}

fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let texts = files::text_files();
    let is_page =
        |file: &&TextFile| file.path == "README.md" || (file.path.starts_with("deploy/") && file.path.ends_with(".md"));
    let exists = |path: &str| files::root().join(path).exists();
    let wrong: Vec<_> = texts.iter().filter(is_page).flat_map(|page| broken(page, &texts, exists)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_index_names_every_page() {
    let texts = files::text_files();
    let index = texts.iter().find(|file| file.path == "deploy/docs/README.md").expect("there is an index");
    let named: BTreeSet<_> = links(&index.text).into_iter().filter_map(|link| resolved(&index.path, link)).collect();
    let is_page =
        |file: &&TextFile| file.path.starts_with("deploy/") && file.path.ends_with(".md") && file.path != index.path;
    let missing: Vec<_> = texts.iter().filter(is_page).filter(|page| !named.contains(&page.path)).collect();
    let missing: Vec<_> = missing.iter().map(|page| page.path.as_str()).collect();
    assert!(missing.is_empty(), "deploy/docs/README.md does not name {}", missing.join(", "));
}

#[test]
fn a_link_to_nowhere_is_found() {
    let file = |path: &str, text: &str| TextFile { path: path.into(), text: text.into() };
    let files = [
        file("deploy/docs/a.md", "# A b: `c_d`\n<a id=\"given\"></a>\n```\n# no heading\n```\n## E\n"),
        file("shared/x/y.rs", ""),
    ];
    let exists = |path: &str| path == "shared/x" || files.iter().any(|file| file.path == path);
    let wrong = |text: &str| broken(&file("deploy/b.md", text), &files, exists);
    let good = "[a](docs/a.md) [b](docs/a.md#a-b-c_d) [c](../shared/x) [d](docs/a.md#e) [e](docs/a.md#given) `[f](g)`\n\
                [h](https://h/i)\n```\n[j](k)\n```\n";
    assert_eq!(wrong(good), [""; 0]);
    for (link, expected) in [
        ("[a](a.md)", "leads to no file"),
        ("[a](docs/a.md#no-heading)", "leads to no heading"),
        ("[a](../../a.md)", "leaves the repository"),
        ("[a](#b)", "leads to no heading"),
    ] {
        assert!(wrong(link)[0].ends_with(expected), "{link}");
    }
}
