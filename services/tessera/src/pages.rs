//! What is written about the program: scripts for shells, manual pages.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

const NAME: &str = "tessera";

/// Prints the script of a shell.
///
/// # Errors
/// When nothing can be written.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    Ok(output::text(&String::from_utf8(script)?)?)
}

/// Prints the program's page, or writes a page of every command into a folder.
///
/// # Errors
/// When nothing can be written.
pub(crate) fn man(dir: Option<&Path>) -> anyhow::Result<()> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return Ok(output::text(&String::from_utf8(page)?)?);
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.with_context(|| format!("cannot write to {}", dir.display()))
}
