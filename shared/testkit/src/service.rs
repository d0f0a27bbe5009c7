//! What every service must do as a program; each service's tests call these for its own executable.

use std::process::{Command, Output};

use crate::{Program, family_dir};

fn run(executable: &str, arguments: &[&str]) -> Output {
    Command::new(executable).args(arguments).output().expect("the program can be started")
}

/// Asserts that SIGTERM ends a service that has nothing left to do.
///
/// # Panics
/// When it does not.
pub fn ends_at_sigterm(executable: &str) {
    let model = family_dir("mistral");
    let model = model.to_str().expect("the path is text");
    let (program, _) = Program::start(executable, &["--model", model, "--listen", "127.0.0.1:0"], "serving");
    assert!(program.terminate().success());
}

/// Asserts that everything wrong with a configuration is said at once, a misspelled key with the one that was meant.
///
/// # Panics
/// When something is not said.
pub fn says_everything_wrong_at_once(executable: &str) {
    let checked = run(executable, &["--check-config", "--listen", "nowhere", "--set", "server.drian=3s"]);
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(!checked.status.success(), "{said}");
    assert!(said.starts_with("error: ") && !said.contains("backtrace"), "{said}");
    for expected in ["listen", "nowhere", "server.drian", "server.drain", "model"] {
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
    }
}

/// Asserts that the settings in force can be printed and read back from a file.
///
/// # Panics
/// When they cannot.
pub fn prints_settings_that_it_reads_back(executable: &str) {
    let printed = run(executable, &["--print-config", "--model", "/models/a"]);
    assert!(printed.status.success());
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, &printed.stdout).expect("a file can be written");
    let checked = run(executable, &["--check-config", "--config", file.to_str().expect("the path is text")]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// Asserts that a checkpoint that is not there is named.
///
/// # Panics
/// When it is not.
pub fn names_a_missing_checkpoint(executable: &str) {
    let failed = run(executable, &["--model", "/nowhere/llava", "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("/nowhere/llava"), "{said}");
}

/// Asserts that a GPU that is not there ends the start and is named, and so does a type that the device does not compute in,
/// with those that it does.
///
/// # Panics
/// When it does not.
pub fn names_what_the_machine_cannot_do(executable: &str) {
    let model = family_dir("mistral");
    let model = model.to_str().expect("the path is text");
    for (settings, expected) in [("device=cuda:63", "cuda:63"), ("compute=bf16", "choose f32 or f16")] {
        let arguments = ["--model", model, "--listen", "127.0.0.1:0", "--set", "device=cpu", "--set", settings];
        let failed = run(executable, &arguments);
        let said = String::from_utf8_lossy(&failed.stderr);
        assert!(!failed.status.success() && said.contains(expected), "{settings}: {said}");
        let checked = run(executable, &[&arguments[..], &["--check-config"]].concat());
        assert!(checked.status.success(), "what a machine has is not the configuration's to know");
    }
}
