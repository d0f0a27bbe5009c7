//! Servers that a test starts and kills, and what it stores on them.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tessera_embedding::ImageKey;

/// A server waits no longer than this for its first word; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server program. Killed when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program and waits until a line that it says contains `word`; returns the line. If it ends before that,
    /// returns what it said.
    ///
    /// # Panics
    /// When there is no such program: a test cannot pass without it.
    pub(crate) fn start(command: &mut Command, word: &str, install: &str) -> Result<(Self, String), String> {
        let name = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match child {
            Err(error) if error.kind() == ErrorKind::NotFound => panic!("there is no {name:?} on PATH: {install}"),
            child => child.expect("the server can be started"),
        };
        let (said, lines) = channel();
        drain(child.stdout.take().expect("it is piped"), said.clone());
        drain(child.stderr.take().expect("it is piped"), said);
        let (process, mut all) = (Self(child), String::new());
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(word) => return Ok((process, line)),
                Ok(line) => all.extend([&line, "\n"]),
                Err(_) => return Err(all),
            }
        }
    }

    /// Ends it as a crash would: SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it can be waited for");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(sent.expect("there is a kill command").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads all that a program says, so that it never waits for a reader.
fn drain(output: impl Read + Send + 'static, said: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Nobody listens once it has said its word.
            let _ = said.send(line);
        }
    });
}

/// Certificate and key for `localhost`, signed by itself, as PEM.
pub(crate) fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

pub(crate) fn key(number: u8) -> ImageKey {
    ImageKey::try_from(&[number; 32][..]).expect("a key has 32 bytes")
}

/// Bytes that differ from those of another number everywhere.
pub(crate) fn artifact(number: u8, bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8 ^ number).collect()
}
