//! Programs that are run as their users run them.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A service waits no longer than this for its first word; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that runs until it is told to end. Killed when it is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Program {
    /// Starts a program and reads its standard error until a line contains `word`; returns that line too.
    ///
    /// # Panics
    /// When the program cannot be started or ends without saying the word: the test fails with what it said.
    pub fn start(executable: &str, arguments: &[&str], word: &str) -> (Self, String) {
        let mut command = Command::new(executable);
        command.args(arguments);
        Self::run(command, word)
    }

    /// The same, for a command that needs more than arguments.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn run(mut command: Command, word: &str) -> (Self, String) {
        let executable = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program can be started");
        let stderr = BufReader::new(child.stderr.take().expect("standard error is piped"));
        let mut program = Self { child, stderr };
        let (mut said, started) = (String::new(), Instant::now());
        loop {
            let start = said.len();
            let read = program.stderr.read_line(&mut said).expect("standard error is text");
            assert!(read > 0 && started.elapsed() < PATIENCE, "{executable} did not say {word:?} but: {said}");
            if said[start..].contains(word) {
                let line = said.split_off(start);
                return (program, line);
            }
        }
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it cannot be signalled or does not end in time.
    pub fn terminate(mut self) -> ExitStatus {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "the program can be signalled");
        // It closes standard error when it ends: reading to the end of that waits without a clock.
        let ended = std::io::copy(&mut self.stderr, &mut std::io::sink());
        ended.expect("standard error can be read");
        self.child.wait().expect("the program can be waited for")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
