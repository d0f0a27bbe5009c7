//! All that the program shows: the answer on standard output, everything else on standard error.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nothing that ends sooner shows its progress.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes to standard output at once. A reader that closed the pipe is an error, which ends the program.
pub(crate) fn text(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Tells whether a program ended because nobody reads its output any more, as in `tessera ask … | head`.
pub(crate) fn reader_left(error: &anyhow::Error) -> bool {
    let pipe = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(pipe)
}

/// Writes a remark to standard error.
pub(crate) fn note(text: &str) {
    prefixed("note", "36", text);
}

/// Writes why the program failed, in one line.
pub(crate) fn error(error: &anyhow::Error) {
    complaint(&format!("{error:#}"));
}

/// Writes what is wrong with one of many to standard error.
pub(crate) fn complaint(text: &str) {
    prefixed("error", "31", text);
}

/// Writes a line to standard error.
pub(crate) fn plain(text: &str) {
    // There is nobody left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{}", text.replace('\n', " "));
}

fn prefixed(prefix: &str, colour: &str, text: &str) {
    let mut out = std::io::stderr().lock();
    let line = text.replace('\n', " ");
    // There is nobody left to tell when standard error is closed.
    let _ = if out.is_terminal() {
        writeln!(out, "\x1b[1;{colour}m{prefix}\x1b[0m: {line}")
    } else {
        writeln!(out, "{prefix}: {line}")
    };
}

/// A bar on a terminal, once something takes over a second.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    hidden_since: Mutex<Option<Instant>>,
}

impl Progress {
    /// Makes a bar of bytes that is not shown yet.
    pub(crate) fn of_bytes(what: &str) -> Self {
        Self::new("{msg} {bar:30} {bytes}/{total_bytes} {eta}", what)
    }

    /// Makes a bar of images that is not shown yet, with words beside it.
    pub(crate) fn of_images() -> Self {
        Self::new("{bar:30} {msg}", "")
    }

    fn new(template: &str, message: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(message.to_owned());
        Self { bar, hidden_since: Mutex::new(Some(Instant::now())) }
    }

    /// Sets the words beside the bar, where they are seen.
    pub(crate) fn say(&self, words: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(words());
        }
    }

    /// Writes something while the bar is out of the way.
    pub(crate) fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Moves the bar.
    pub(crate) fn set(&self, done: u64, total: u64) {
        if let Ok(mut hidden) = self.hidden_since.lock()
            && hidden.is_some_and(|since| since.elapsed() > PATIENCE)
        {
            *hidden = None;
            // Hidden by itself where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

/// A spinner with the time that has passed, on a terminal, while the first word is awaited for over a second.
#[derive(Debug)]
pub(crate) struct Waiting {
    bar: ProgressBar,
    since: Instant,
}

impl Waiting {
    /// Makes a spinner that is not shown yet.
    pub(crate) fn new(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(what.to_owned());
        Self { bar, since: Instant::now() }
    }

    /// Waits for something while the spinner turns.
    pub(crate) async fn during<T>(&self, future: impl Future<Output = T>) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                () = self.turn() => {}
            }
        }
    }

    /// Waits for a moment and turns the spinner.
    async fn turn(&self) {
        tokio::time::sleep(PATIENCE / 5).await;
        if self.bar.is_finished() {
            return;
        }
        if self.bar.is_hidden() && self.since.elapsed() > PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.tick();
    }

    /// Takes the spinner away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
