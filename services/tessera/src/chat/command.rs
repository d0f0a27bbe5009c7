//! What a line means: a question, or a command.

use std::path::PathBuf;

use anyhow::{anyhow, ensure};

use crate::cli::{Picture, file_or_url};

/// Begins commands. Twice, it begins a question that begins with it.
const STROKE: char = '/';

/// Names, what they take, and what they do.
const COMMANDS: [(&str, &str, &str); 11] = [
    ("image", "PATH|URL", "show a picture with the next question; may be repeated"),
    ("embedding", "HANDLE", "the same, by the handle of one that was encoded before"),
    ("stats", "", "what the last answer used, where its time went, which images were stored before"),
    ("system", "[TEXT]", "instructions in front of the conversation; without TEXT there are none"),
    ("set", "[NAME [VALUE]]", "how answers are made, by the flags of `tessera ask`; without VALUE as at the beginning"),
    ("undo", "", "take back the picture that waits for a question, or the last question with its answer and pictures"),
    ("retry", "", "ask the last question again"),
    ("save", "FILE", "write the conversation to a file, as Markdown"),
    ("clear", "", "forget all that was said and shown"),
    ("help", "", "list the commands"),
    ("quit", "", "leave, as Ctrl-D does"),
];

/// A line that asks for something.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Ask(String),
    Show(Picture),
    Stats,
    System(Option<String>),
    /// Nothing shows what is set; without a value it is what it was.
    Set(Option<(String, Option<String>)>),
    Undo,
    Retry,
    Save(PathBuf),
    Clear,
    Help,
    Quit,
}

impl Command {
    /// Reads a line; an empty one means nothing.
    ///
    /// # Errors
    /// Names the commands that there are, or what one takes.
    pub(super) fn read(line: &str) -> anyhow::Result<Option<Self>> {
        let line = line.trim();
        let Some(rest) = line.strip_prefix(STROKE) else {
            return Ok((!line.is_empty()).then(|| Self::Ask(line.to_owned())));
        };
        if rest.starts_with(STROKE) {
            return Ok(Some(Self::Ask(rest.to_owned())));
        }
        let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let argument = argument.trim();
        let Some((name, takes, _)) = COMMANDS.iter().find(|(known, ..)| *known == name) else {
            return Err(anyhow!("there is no command /{name}; there are: {}", names().collect::<Vec<_>>().join(", ")));
        };
        ensure!(takes.is_empty() || takes.starts_with('[') || !argument.is_empty(), "/{name} takes {takes}");
        ensure!(!takes.is_empty() || argument.is_empty(), "/{name} takes nothing");
        let given = (!argument.is_empty()).then(|| argument.to_owned());
        Ok(Some(match *name {
            "image" => Self::Show(file_or_url(unquoted(argument).into())?),
            "embedding" => Self::Show(Picture::Stored(argument.parse()?)),
            "stats" => Self::Stats,
            "system" => Self::System(given),
            "set" => Self::Set(given.map(|given| match given.split_once(char::is_whitespace) {
                Some((name, value)) => (flag(name), Some(value.trim_start().to_owned())),
                None => (flag(&given), None),
            })),
            "undo" => Self::Undo,
            "retry" => Self::Retry,
            "save" => Self::Save(unquoted(argument).into()),
            "clear" => Self::Clear,
            "help" => Self::Help,
            _ => Self::Quit,
        }))
    }
}

/// Names of commands, with their stroke.
pub(super) fn names() -> impl Iterator<Item = String> {
    COMMANDS.iter().map(|(name, ..)| format!("{STROKE}{name}"))
}

/// All commands, a line each.
pub(super) fn help() -> String {
    let line = |(name, takes, does): &(&str, &str, &str)| format!("{:<22} {does}\n", format!("/{name} {takes}"));
    let all: String = COMMANDS.iter().map(line).collect();
    format!("{all}Everything else is a question; // begins one that begins with /.\n")
}

/// A path as terminals paste it: between quotes.
fn unquoted(path: &str) -> &str {
    let inside = |quote| path.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    inside('\'').or_else(|| inside('"')).unwrap_or(path)
}

/// The name of a setting, however it is spelled.
fn flag(name: &str) -> String {
    name.trim_start_matches("--").replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Command {
        Command::read(line).unwrap().unwrap()
    }

    #[test]
    fn lines_are_questions_or_commands() {
        assert_eq!(Command::read(" \t").unwrap(), None);
        assert_eq!(read("  Which bar? "), Command::Ask("Which bar?".into()));
        assert_eq!(read("//etc is what?"), Command::Ask("/etc is what?".into()));
        let file = |path: &str| Command::Show(Picture::File(path.into()));
        assert_eq!(read("/image  a b.png "), file("a b.png"));
        assert_eq!(read("/image 'it''s.png'"), file("it''s.png"));
        assert_eq!(read("/image https://a.test/b"), Command::Show(Picture::Url("https://a.test/b".parse().unwrap())));
        let handle = "1".repeat(64);
        assert_eq!(read(&format!("/embedding {handle}")), Command::Show(Picture::Stored(handle.parse().unwrap())));
        assert_eq!(read("/system"), Command::System(None));
        assert_eq!(read("/system Be brief."), Command::System(Some("Be brief.".into())));
        assert_eq!(read("/set"), Command::Set(None));
        assert_eq!(read("/set --max_tokens"), Command::Set(Some(("max-tokens".into(), None))));
        assert_eq!(read("/set stop  a b"), Command::Set(Some(("stop".into(), Some("a b".into())))));
        assert_eq!(read("/save \"a b.md\""), Command::Save("a b.md".into()));
    }

    #[test]
    fn every_command_is_understood_and_in_the_help() {
        for (name, takes, _) in COMMANDS {
            let argument = match takes {
                "" => String::new(),
                "HANDLE" => "2".repeat(64),
                _ => "x".into(),
            };
            let command = read(&format!("/{name} {argument}"));
            assert_eq!(command == Command::Quit, name == "quit", "{name}");
            assert!(help().contains(&format!("/{name} ")));
        }
    }

    #[test]
    fn what_is_wrong_with_a_command_is_said() {
        for (line, words) in [
            ("/imgae a.png", ["no command /imgae", "/image, /embedding"]),
            ("/image", ["/image takes", "PATH|URL"]),
            ("/embedding abc", ["64 hexadecimal digits", "3 characters"]),
            ("/image https://user:secret@a.test/", ["password of a user", ""]),
            ("/undo it", ["/undo takes", "nothing"]),
        ] {
            let error = Command::read(line).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{line}: {error}");
        }
    }
}
