//! A process that is started, hurt and started again.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Between two looks whether a process has ended.
const LOOK: Duration = Duration::from_millis(10);
/// Whoever is told to end and has not by then hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process, or the place of one that is dead. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    label: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// The place of a process that writes its standard error to a file.
    pub(crate) fn new(label: impl Into<String>, log: PathBuf) -> Self {
        Self { label: label.into(), log, child: None }
    }

    /// Starts it. It ends by itself when this program does: then its standard input closes.
    pub(crate) fn start(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{} runs already", self.label);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log: File = log.unwrap_or_else(|error| panic!("{}: {error}", self.log.display()));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.label)));
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL: it ends in the middle of everything.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // It may have ended by itself, which whoever starts it again sees in its log.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let Some(id) = self.id() else { return };
        let sent = Command::new("kill").args([&format!("-{signal}"), &id.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} cannot be sent SIG{signal}", self.label);
    }

    /// SIGTERM; waits for the end, and says how it was.
    pub(crate) async fn end(&mut self) -> Result<(), String> {
        self.signal("TERM");
        let Some(mut child) = self.child.take() else { return Err(format!("{} was dead", self.label)) };
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().ok().flatten() {
                return ended_well(&self.label, status);
            }
            tokio::time::sleep(LOOK).await;
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("{} did not end within {PATIENCE:?} of SIGTERM", self.label))
    }

    /// Says whether it ended although nobody told it to.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// All that it has logged.
    pub(crate) fn said(&self) -> String {
        std::fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ended_well(label: &str, status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("{label} ended with {status}")) }
}
