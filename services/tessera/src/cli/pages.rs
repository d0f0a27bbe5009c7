//! The flags of `tessera completions` and `tessera man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Print a script by which a shell completes this program's commands and flags.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub(crate) struct Completions {
    /// Whose
    pub(crate) shell: Shell,
}

const COMPLETIONS: &str = "\
Examples:
  tessera completions bash > ~/.local/share/bash-completion/completions/tessera
  tessera completions zsh > ~/.zfunc/_tessera
  tessera completions fish > ~/.config/fish/completions/tessera.fish";

/// Write manual pages: the program's to standard output, or all of them into a folder.
#[derive(Debug, Args)]
#[command(after_help = MAN)]
pub(crate) struct Man {
    /// Folder for a page of every command; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

const MAN: &str = "\
Examples:
  tessera man | man -l -
  tessera man ~/.local/share/man/man1 && man tessera-ask";
