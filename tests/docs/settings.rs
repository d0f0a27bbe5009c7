//! The page of settings: keys and defaults as the services serialise them, meanings from the comments of the structs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::defaults::{self, NOT_SET};
use crate::files::{self, Source};
use crate::pages;

const PAGE: &str = "deploy/docs/settings.md";

const HEAD: &str = "\
# Settings

<!-- Generated from the services' defaults and the comments of their settings: see tests/docs.rs. -->

Everything that can be set of the three services, with what it is unless somebody says otherwise. What happens beyond each
bound is said in [limits.md](../limits.md); commented examples for a cluster stand in [`deploy/config`](../config).

A setting comes from, each going before the one above it:

1. its default,
2. a file, `--config FILE`, in TOML or YAML: `limits.images` is `images` in the group `[limits]`,
3. the environment: the service's name in capitals, then the key, with two underscores before each of its levels, so
   `TESSERA_GATEWAY__LIMITS__IMAGES=8`, `TESSERA_VISION__BATCH__TILES=20`, `TESSERA_LANGUAGE__COMPUTE=f16`,
4. flags: `--set limits.images=8`, any number of them; `--listen` and `--model` have flags of their own.

Variables and flags spell lists as TOML or JSON does: `--set 'vision=[\"http://a:50052\", \"http://b:50052\"]'`.
`--check-config` names everything that is wrong, at once, a key that does not exist included; `--print-config` shows
what is in force, without secrets. `tessera up` runs all three with these defaults, but for what its flags say and what
their `--help` tells.

*Times* are written as `250ms`, `30s`, `1m 30s`; *sizes* as `64MiB` or `20 MB`; a *share of memory* as `60%`, of what is
free; *secrets* as they are or, better, as `file:PATH`, whose content they then are; *addresses* as `127.0.0.1:50051`. A
setting that is \"not set\" has no value until it is given one.
";

/// What people write for a Rust type. An enum among the settings, whose values its variants name, needs no entry.
const TYPES: [(&str, &str); 20] = [
    ("bool", "`true` or `false`"),
    ("u32", "number"),
    ("u64", "number"),
    ("usize", "number"),
    ("NonZeroU64", "number from 1"),
    ("NonZeroUsize", "number from 1"),
    ("f64", "number with a point"),
    ("Weight", "number with a point"),
    ("String", "text"),
    ("Secret", "secret"),
    ("PathBuf", "path"),
    ("SocketAddr", "address"),
    ("Duration", "time"),
    ("ByteSize", "size"),
    ("MemoryBudget", "size, or share of memory"),
    ("Hedge", "`off`, or `p50` to `p99`"),
    ("Devices", "`auto`, `cpu`, `cuda:N`, or a list of GPUs"),
    ("Compute", "`auto`, `f32`, `f16` or `bf16`"),
    ("Pattern", "`HOST`, `*.HOST` or `*`, with `https://` before and `:PORT` behind it if need be"),
    ("StorePattern", "URL with `*` for any part of a name"),
];
/// Types that are written as text of a form of its own.
const FORMS: [(&str, &str); 2] =
    [("IpNet", "network such as `10.0.0.0/8`"), ("NamedTenants", "group by name: [below](#tenant)")];

/// A field of a settings struct, or a variant of an enum.
struct Documented {
    name: String,
    /// The type of a field; nothing for a variant.
    of: String,
    meaning: String,
}

/// A type among the settings: the comment above it, and what it is made of.
struct Type {
    about: String,
    parts: Vec<Documented>,
}

/// The types that settings consist of, as the sources have them.
struct Types(BTreeMap<String, Type>);

impl Types {
    fn read(sources: &[Source]) -> Self {
        let mut types = BTreeMap::new();
        for source in sources.iter().filter(|source| !source.is_test) {
            for (at, line) in source.lines.iter().enumerate() {
                let line = line.strip_prefix("pub ").and_then(|line| line.strip_suffix(" {"));
                let Some((kind, name)) = line.and_then(|line| line.split_once(' ')) else { continue };
                let body = source.lines[at + 1..].iter().take_while(|line| *line != "}").map(String::as_str);
                let above = || source.lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
                if (kind == "struct" && name.ends_with("Settings"))
                    || (kind == "enum" && above().any(|line| is_renamed(line)))
                {
                    let mut about: Vec<_> = above().filter_map(|line| line.strip_prefix("/// ")).collect();
                    about.reverse();
                    let key = if name == "Settings" { &source.path } else { name };
                    types.insert(key.to_owned(), Type { about: about.join(" "), parts: documented(body, kind) });
                }
            }
        }
        Self(types)
    }

    /// How a value of a type is written.
    fn written(&self, of: &str) -> String {
        if let Some(of) = inside(of, "Option<") {
            return self.written(of);
        }
        if let Some(of) = inside(of, "Vec<") {
            return format!("list: {}", self.written(of));
        }
        let known = TYPES.iter().chain(&FORMS).find(|(name, _)| *name == of);
        known.map_or_else(|| self.variants(of), |(_, written)| (*written).to_owned())
    }

    fn variants(&self, of: &str) -> String {
        let variants = self.0.get(of).unwrap_or_else(|| panic!("tests/docs/settings.rs: how is a {of} written?"));
        let variants = variants.parts.iter().map(|variant| format!("`{}`", snake_case(&variant.name)));
        variants.collect::<Vec<_>>().join(", ")
    }

    /// What a field means, and what each of its values does, if there are some to choose from.
    fn meaning(&self, field: &Documented) -> String {
        let mut meaning = field.meaning.clone();
        let parts = self.0.get(bare(&field.of)).into_iter().flat_map(|of| &of.parts);
        for variant in parts.filter(|part| part.of.is_empty()) {
            let _ = write!(meaning, " `{}`: {}", snake_case(&variant.name), variant.meaning);
        }
        meaning.replace('|', "\\|")
    }
}

/// The page, and what is wrong with what it is made from.
struct Writer<'a> {
    types: &'a Types,
    text: String,
    problems: Vec<String>,
}

impl Writer<'_> {
    /// A section with the settings of a service.
    fn service(&mut self, heading: &str, about: &str, root: &str, settings: &impl Serialize) {
        let _ = write!(self.text, "\n## {heading}\n\n{about}\n");
        let mut values = defaults::flat(settings);
        self.group("", root, &mut values);
        self.problems.extend(values.into_keys().map(|key| format!("{heading}: `{key}` is in no struct")));
    }

    /// A table of what a group holds itself, then the groups in it.
    fn group(&mut self, key: &str, of: &str, values: &mut BTreeMap<String, Value>) {
        let types = self.types;
        let fields = types.0.get(of).unwrap_or_else(|| panic!("no source has the settings {of}"));
        let path = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        let (plain, groups): (Vec<_>, Vec<_>) = fields
            .parts
            .iter()
            .partition(|field| values.contains_key(&path(&field.name)) || !types.0.contains_key(&field.of));
        if !plain.is_empty() {
            self.text.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
        }
        for field in plain {
            let key = path(&field.name);
            let Some(value) = values.remove(&key) else {
                self.problems.push(format!("`{key}` is in its struct and not in what is serialised"));
                continue;
            };
            if field.meaning.is_empty() {
                self.problems.push(format!("`{key}` has no meaning: write a comment above the field"));
            }
            let (written, meaning) = (types.written(&field.of), types.meaning(field));
            let _ = writeln!(self.text, "| `{key}` | {written} | {} | {meaning} |", default(&value));
        }
        for field in groups {
            let (key, about) = (path(&field.name), &types.0[&field.of].about);
            // The type may say more than the field.
            let says_more = about.starts_with(field.meaning.trim_end_matches('.'));
            let _ = write!(self.text, "\n### {key}\n\n{}\n", if says_more { about } else { &field.meaning });
            self.group(&key, &field.of, values);
        }
    }
}

fn default(value: &Value) -> String {
    match value {
        Value::Null => NOT_SET.to_owned(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Object(_) => "none".to_owned(),
        other => format!("`{other}`"),
    }
}

fn is_renamed(attribute: &str) -> bool {
    attribute.contains("rename_all = \"snake_case\"") || attribute.contains("rename_all = \"lowercase\"")
}

/// The fields of a struct or the variants of an enum, each with the comment above it.
fn documented<'a>(body: impl Iterator<Item = &'a str>, kind: &str) -> Vec<Documented> {
    let (mut found, mut comment) = (Vec::new(), Vec::new());
    for line in body {
        if let Some(words) = line.strip_prefix("    /// ") {
            comment.push(words);
        } else if let Some(field) = line.strip_prefix("    pub ").filter(|_| kind == "struct") {
            let (name, of) = field.trim_end_matches(',').split_once(": ").expect("a field has a type");
            let meaning = std::mem::take(&mut comment).join(" ");
            found.push(Documented { name: name.to_owned(), of: of.to_owned(), meaning });
        } else if kind == "enum" && line.starts_with("    ") && !line.trim_start().starts_with('#') {
            let meaning = std::mem::take(&mut comment).join(" ");
            found.push(Documented { name: line.trim().trim_end_matches(',').to_owned(), of: String::new(), meaning });
        }
    }
    found
}

fn inside<'a>(of: &'a str, outer: &str) -> Option<&'a str> {
    of.strip_prefix(outer)?.strip_suffix('>')
}

/// A type without the list or the option around it.
fn bare(of: &str) -> &str {
    inside(of, "Option<").or_else(|| inside(of, "Vec<")).unwrap_or(of)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn page(types: &Types) -> (String, Vec<String>) {
    let mut writer = Writer { types, text: HEAD.to_owned(), problems: Vec::new() };
    let (gateway, vision, language) = ("services/gateway/", "services/vision/", "services/language/");
    let root = |service: &str| format!("{service}src/settings.rs");
    writer.service(
        "Gateway",
        "`tessera-gateway`, variables `TESSERA_GATEWAY__…`.",
        &root(gateway),
        &tessera_gateway::Settings::default(),
    );
    writer.service(
        "Tenant",
        "Of a tenant that is listed, under `tenants.NAME` of the gateway.",
        "TenantSettings",
        &tessera_gateway::TenantSettings::default(),
    );
    writer.service(
        "Vision worker",
        "`tessera-vision`, variables `TESSERA_VISION__…`.",
        &root(vision),
        &tessera_vision::Settings::default(),
    );
    writer.service(
        "Language worker",
        "`tessera-language`, variables `TESSERA_LANGUAGE__…`.",
        &root(language),
        &tessera_language::Settings::default(),
    );
    (writer.text, writer.problems)
}

#[test]
fn the_page_of_settings_is_what_the_services_have() {
    let (text, problems) = page(&Types::read(&files::sources()));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    pages::hold(PAGE, &text);
}

#[test]
fn the_variables_that_the_page_names_are_the_services_own() {
    for service in ["gateway", "vision", "language"] {
        let main = pages::read(&format!("services/{service}/src/main.rs"));
        assert!(main.contains(&format!("\"TESSERA_{}\"", service.to_uppercase())), "{service}");
    }
}

#[test]
fn a_key_without_a_meaning_is_found() {
    #[derive(Serialize)]
    struct Group {
        size: u8,
    }
    #[derive(Serialize)]
    struct Sample {
        a: Option<u8>,
        group: Group,
        more: u8,
    }
    let text = "/// B.\n#[serde(rename_all = \"snake_case\")]\npub enum Kind {\n    /// As it is.\n    #[default]\n    AsIs,\n    \
                /// GPU.\n    Gpu,\n}\npub struct Settings {\n    /// One | two\n    /// and three.\n    pub a: Option<Kind>,\n    \
                /// Of these.\n    pub group: GroupSettings,\n}\n/// Of these, and more.\n#[serde(default)]\npub struct GroupSettings {\n    pub size: usize,\n}\n";
    let types = Types::read(&[Source::new("shared/a/src/b.rs", text)]);
    let mut writer = Writer { types: &types, text: String::new(), problems: Vec::new() };
    let sample = Sample { a: None, group: Group { size: 3 }, more: 1 };
    writer.service("A", "About.", "shared/a/src/b.rs", &sample);
    let table = "\n| key | type | default | meaning |\n|---|---|---|---|\n";
    let expected = format!(
        "\n## A\n\nAbout.\n{table}| `a` | `as_is`, `gpu` | not set | One \\| two and three. `as_is`: As it is. `gpu`: GPU. |\n\
         \n### group\n\nOf these, and more.\n{table}| `group.size` | number | `3` |  |\n"
    );
    assert_eq!(writer.text, expected);
    let problems: BTreeSet<_> = writer.problems.iter().map(String::as_str).collect();
    let expected = ["`group.size` has no meaning: write a comment above the field", "A: `more` is in no struct"]
        .into_iter()
        .collect();
    assert_eq!(problems, expected);
}
