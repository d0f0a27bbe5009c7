//! The proof on a GPU as a program: `deploy/cuda/build.sh --proof` builds it and `deploy/cuda/prove.sh` runs it.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a part ends at the first error and prints its figures")]

#[path = "../proof/program.rs"]
mod program;

use std::process::ExitCode;

fn main() -> ExitCode {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    program::main(&arguments)
}
