//! Lines, from a terminal or from a file or pipe, read on a thread of their own: whoever types may never end.

use std::io::{self, BufRead, IsTerminal, Read};

use anyhow::{Context, bail, ensure};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Editor, Helper};
use tokio::sync::mpsc;

use super::command;

/// In front of a line that is typed.
const PROMPT: &str = "> ";
/// Longest line of a file or pipe; no question is so long.
const MAX_LINE: u64 = 1 << 20;

/// A line, or what came in place of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// Ctrl-C: the line that was being typed does not count.
    Broken,
    /// Ctrl-D, or the end of a file.
    End,
}

/// Where lines come from.
#[derive(Debug)]
pub(super) struct Input {
    /// Lets the thread read one more.
    wanted: mpsc::Sender<()>,
    lines: mpsc::Receiver<anyhow::Result<Line>>,
    is_terminal: bool,
}

impl Input {
    /// Starts the thread. It ends with the program.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start() -> io::Result<Self> {
        let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let ((wanted, mut wishes), (tell, lines)) = (mpsc::channel(1), mpsc::channel(1));
        let read = move || {
            let mut editor = is_terminal.then(editor);
            while wishes.blocking_recv().is_some() {
                let line = match &mut editor {
                    Some(Ok(editor)) => typed(editor),
                    Some(Err(error)) => Err(anyhow::anyhow!("this terminal cannot be read: {error}")),
                    None => plain(&mut io::stdin().lock()),
                };
                if tell.blocking_send(line).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("input".into()).spawn(read)?;
        Ok(Self { wanted, lines, is_terminal })
    }

    /// Whether somebody types.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Reads a line.
    ///
    /// # Errors
    /// When it is no text, or too long.
    pub(super) async fn next(&mut self) -> anyhow::Result<Line> {
        let ended = "the thread that reads lines has ended";
        self.wanted.send(()).await.context(ended)?;
        self.lines.recv().await.context(ended)?
    }
}

type Typing = Editor<Completing, MemHistory>;

fn editor() -> rustyline::Result<Typing> {
    let config = Config::builder().auto_add_history(true).build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(Completing(FilenameCompleter::new())));
    Ok(editor)
}

fn typed(editor: &mut Typing) -> anyhow::Result<Line> {
    match editor.readline(PROMPT) {
        Ok(line) => Ok(Line::Text(line)),
        Err(ReadlineError::Eof) => Ok(Line::End),
        Err(ReadlineError::Interrupted) => Ok(Line::Broken),
        Err(error) => Err(error).context("the terminal cannot be read"),
    }
}

fn plain(input: &mut impl BufRead) -> anyhow::Result<Line> {
    let mut line = Vec::new();
    let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).context("cannot read standard input")?;
    if read == 0 {
        return Ok(Line::End);
    }
    if read as u64 == MAX_LINE && line.last() != Some(&b'\n') {
        // The rest of it is no line of its own.
        while !matches!(input.fill_buf()?, []) {
            let rest = input.fill_buf()?;
            let (end, used) =
                rest.iter().position(|&byte| byte == b'\n').map_or((false, rest.len()), |at| (true, at + 1));
            input.consume(used);
            if end {
                break;
            }
        }
        bail!("a line has more than {MAX_LINE} bytes");
    }
    let text = String::from_utf8(line).ok();
    ensure!(text.is_some(), "a line is no UTF-8 text");
    Ok(Line::Text(text.unwrap_or_default()))
}

/// Completes commands, and the paths that they take.
struct Completing(FilenameCompleter);

impl Completer for Completing {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = line.get(..position).unwrap_or(line);
        if typed.starts_with("/image ") || typed.starts_with("/save ") {
            return self.0.complete_path(line, position);
        }
        let names = command::names().filter(|name| typed.starts_with('/') && name.starts_with(typed));
        Ok((0, names.map(|name| Pair { display: name.clone(), replacement: name + " " }).collect()))
    }
}

impl Hinter for Completing {
    type Hint = String;
}

impl Highlighter for Completing {}
impl Validator for Completing {}
impl Helper for Completing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_pipe_end_with_it() {
        let mut input = io::Cursor::new("one\ntwo");
        assert_eq!(plain(&mut input).unwrap(), Line::Text("one\n".into()));
        assert_eq!(plain(&mut input).unwrap(), Line::Text("two".into()));
        assert_eq!(plain(&mut input).unwrap(), Line::End);
    }

    #[test]
    fn a_line_that_is_too_long_or_no_text_is_left_out() {
        let long = "x".repeat(MAX_LINE as usize + 9);
        let mut input = io::Cursor::new([long.as_bytes(), b"\n\xff\nlast\n"].concat());
        for word in ["more than", "no UTF-8"] {
            assert!(plain(&mut input).unwrap_err().to_string().contains(word));
        }
        assert_eq!(plain(&mut input).unwrap(), Line::Text("last\n".into()));
        let mut unfinished = io::Cursor::new(long);
        assert!(plain(&mut unfinished).is_err());
        assert_eq!(plain(&mut unfinished).unwrap(), Line::End);
    }
}
