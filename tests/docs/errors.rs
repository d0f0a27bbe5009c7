//! The page of errors: every kind with its codes, every reason that the source can give with its kind.

use std::collections::{BTreeMap, BTreeSet};

use tessera_api::{Error, ErrorKind, http_status};
use tonic::{Code, Status};

use crate::files::{self, Source};
use crate::pages::{self, rows};

const PAGE: &str = "deploy/docs/errors.md";

const KINDS: [ErrorKind; 12] = [
    ErrorKind::Invalid,
    ErrorKind::Unauthenticated,
    ErrorKind::Denied,
    ErrorKind::NotFound,
    ErrorKind::Precondition,
    ErrorKind::Exhausted,
    ErrorKind::Unavailable,
    ErrorKind::Deadline,
    ErrorKind::Cancelled,
    ErrorKind::Corrupt,
    ErrorKind::Unsupported,
    ErrorKind::Internal,
];

/// Sections of the page that list reasons.
const SECTIONS: [&str; 8] = [
    "The request",
    "OpenAI's API",
    "The Open Inference Protocol",
    "Who asks, and how much",
    "Stored images",
    "The pools, and the time",
    "Between the parts, and bugs",
    "Of the Rust client",
];
/// The section of reasons without a kind: of what a program writes down.
const PROGRAM: &str = "Of tessera encode";

/// How names begin that are written like reasons and are none: of the environment.
const OTHERS: [&str; 5] = ["AWS_", "CARGO_", "CUDA_", "OUT_", "TESSERA_"];

/// What makes an error: its beginning, and the kind where that is certain.
const MAKERS: [(&str, Option<&str>); 4] = [
    ("Error::new(", None),
    ("Self::new(ErrorKind::", None),
    ("Error::field(", Some("Invalid")),
    ("::exhausted(", Some("Exhausted")),
];

/// Reasons by name, each with the kinds that are certain.
type Reasons = BTreeMap<String, BTreeSet<String>>;

/// What the product's code may give as a reason.
fn reasons(sources: &[Source]) -> Reasons {
    let mut found = Reasons::new();
    for source in sources.iter().filter(|source| source.path.contains("/src/") && !source.is_test) {
        let lines = source.product_code().map(|(line, _)| source.lines[line - 1].as_str());
        let code: String =
            lines.filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
        for name in literals(&code).filter(|name| name.contains('_') && is_reason(name)) {
            found.entry(name.to_owned()).or_default();
        }
        for (maker, kind) in MAKERS {
            for (at, _) in code.match_indices(maker) {
                let Some((reason, kind)) = made(&code, at, maker, kind) else { continue };
                found.entry(reason.to_owned()).or_default().insert(kind.to_owned());
            }
        }
    }
    found
}

/// The reason and the kind of an error that is made at a place, where the code there names both.
fn made<'a>(code: &'a str, at: usize, maker: &str, kind: Option<&'static str>) -> Option<(&'a str, &'a str)> {
    let call = &code[at + maker.len()..];
    let (before, rest) = call.split_once('"').filter(|(before, _)| !before.contains(';'))?;
    let reason = rest.split('"').next().filter(|reason| is_reason(reason))?;
    // Some give the error another kind, at once or in the next statement.
    let next = call.match_indices(';').nth(1).map_or(call, |(end, _)| &call[..end]);
    let other = |code: &'a str| {
        let (_, named) = code.rsplit_once("Error { kind: ErrorKind::")?;
        named.split_once(", ..").map(|(kind, _)| kind).filter(|kind| is_kind(kind))
    };
    let named = before.rsplit_once("ErrorKind::").map_or(before, |(_, named)| named);
    let named = named.trim_end_matches(|c: char| c == ',' || c.is_whitespace());
    let kind = kind.filter(|_| before.trim().is_empty()).or_else(|| is_kind(named).then_some(named))?;
    let line = code[..at].rfind('\n').map_or(0, |start| start + 1);
    Some((reason, other(&code[line..at]).or_else(|| other(next)).unwrap_or(kind)))
}

fn is_kind(name: &str) -> bool {
    KINDS.iter().any(|kind| format!("{kind:?}") == name)
}

/// Every literal, comments aside. One that holds a quotation mark is cut, which no name of a reason is.
fn literals(code: &str) -> impl Iterator<Item = &str> {
    let starts = code.match_indices('"').map(|(at, _)| &code[at + 1..]);
    starts.filter_map(|rest| rest.split_once('"').map(|(literal, _)| literal))
}

fn is_reason(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.len() > 3 && name.chars().all(is_part) && !OTHERS.iter().any(|other| name.starts_with(other))
}

/// What the page says wrong of the reasons, or does not say.
fn problems(page: &str, mut missing: Reasons, sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let program = rows::<3>(page, PROGRAM);
    let program = program.into_iter().map(|[reason, happened, advice]| [reason, String::new(), happened, advice]);
    let mut seen = BTreeSet::new();
    for [reason, kinds, happened, advice] in SECTIONS.iter().flat_map(|section| rows(page, section)).chain(program) {
        let said: BTreeSet<_> = kinds.split(", ").filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
        if !seen.insert(reason.clone()) {
            wrong.push(format!("{reason} stands there twice"));
        }
        wrong.extend(said.iter().filter(|kind| !is_kind(kind)).map(|kind| format!("{reason}: {kind} is no kind")));
        if happened.trim().is_empty() || advice.trim().is_empty() {
            wrong.push(format!("{reason}: what happened, and what to do?"));
        }
        match missing.remove(&reason) {
            Some(kinds) => {
                let unsaid: Vec<_> = kinds.difference(&said).cloned().collect();
                if !unsaid.is_empty() {
                    wrong.push(format!("{reason} is also {}", unsaid.join(", ")));
                }
            }
            None if sources
                .iter()
                .any(|source| source.lines.iter().any(|line| line.contains(&format!("\"{reason}\"")))) => {}
            None => wrong.push(format!("{reason} is not in the source")),
        }
    }
    wrong
        .extend(missing.keys().map(|reason| format!("{reason} is missing: add a row to the section where it belongs")));
    wrong
}

#[test]
fn every_reason_is_on_the_page_with_its_kind() {
    let (page, sources) = (pages::read(PAGE), files::sources());
    let reasons = reasons(&sources);
    assert!(reasons.len() > 80, "the sources give more reasons than {}", reasons.len());
    let wrong = problems(&page, reasons, &sources);
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}

#[test]
fn every_kind_is_on_the_page_with_its_codes() {
    let kinds = rows::<5>(&pages::read(PAGE), "Kinds");
    assert_eq!(kinds.len(), KINDS.len());
    let failure = pages::read("services/gateway/src/http/failure.rs");
    for ([name, grpc, http, class, meaning], kind) in kinds.into_iter().zip(KINDS) {
        assert_eq!(name, format!("{kind:?}"));
        assert_eq!(grpc, screaming(Status::from(Error::new(kind, "A_REASON", "a message")).code()), "{name}");
        assert_eq!(http, http_status(kind).to_string(), "{name}");
        let classes = failure.lines().filter_map(|line| line.trim().strip_suffix("\",")?.split_once(" => \""));
        let of_kind = |kinds: &str| kinds.split(" | ").any(|other| other == format!("ErrorKind::{name}"));
        let theirs: Vec<_> = classes.filter(|(kinds, _)| of_kind(kinds)).map(|(_, class)| class).collect();
        assert_eq!(theirs, [class.as_str()], "{name}");
        assert!(!meaning.trim().is_empty(), "{name}");
    }
}

/// A code as gRPC's own documents write it.
fn screaming(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[test]
fn a_reason_that_the_page_lacks_is_found() {
    let code = "fn a() {\n    // Error::field(\"COMMENTED_OUT\", a, b)\n    Error::field(\"A_FIELD\", a, b);\n    \
                Error::new(\n        ErrorKind::Corrupt,\n        \"A_CORRUPT\",\n        c);\n    \
                Error::exhausted(\"FULL\", d, e);\n    let f = \"AWS_REGION\";\n    \"A_NAME\"\n}\n\
                fn g() {\n    let h = Error::field(\"GONE_AWAY\", i, j);\n    \
                Err(Error { kind: ErrorKind::NotFound, ..h })\n}\n\
                #[cfg(test)]\nmod tests {\n    const G: &str = \"IN_TESTS\";\n}\n";
    let sources = [Source::new("shared/a/src/b.rs", code)];
    let found = reasons(&sources);
    let named: Vec<_> =
        found.iter().map(|(name, kinds)| (name.as_str(), kinds.iter().next().map(String::as_str))).collect();
    let expected = [
        ("A_CORRUPT", Some("Corrupt")),
        ("A_FIELD", Some("Invalid")),
        ("A_NAME", None),
        ("FULL", Some("Exhausted")),
        ("GONE_AWAY", Some("NotFound")),
    ];
    assert_eq!(named, expected);

    let table = "\n\n| reason | kind | what happened | what to do |\n|---|---|---|---|\n";
    let page: String = [PROGRAM].iter().chain(&SECTIONS).map(|section| format!("\n## {section}{table}")).collect();
    let good = "| `A_CORRUPT` | Corrupt | x | y |\n| `A_FIELD` | Invalid, Denied | x | y |\n| `A_NAME` | Internal | x | y |\n\
                | `FULL` | Exhausted | x | y |\n| `GONE_AWAY` | NotFound | x | y |\n";
    let good = format!("{page}{good}");
    assert_eq!(problems(&good, found.clone(), &sources), [""; 0]);
    for (from, to, expected) in [
        ("| Corrupt |", "| Invalid |", "A_CORRUPT is also Corrupt"),
        ("| `A_NAME` | Internal | x | y |\n", "", "A_NAME is missing"),
        ("`A_NAME`", "`A_NAMES`", "A_NAMES is not in the source"),
        ("Internal", "Odd", "A_NAME: Odd is no kind"),
        ("Exhausted | x", "Exhausted | ", "FULL: what happened"),
    ] {
        let found = problems(&good.replace(from, to), found.clone(), &sources);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:?}");
    }
}
