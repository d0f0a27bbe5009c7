//! The commands of `tessera store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tessera_embedding::ImageKey;

use super::AccessFlags;

/// What to do with a store.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum StoreCommand {
    /// Say of handles whether they are stored, and what is stored
    Stat(Stat),
    /// List what a folder holds
    Ls(List),
    /// Remove encoded images, leased or not
    Rm(Remove),
    /// Read everything that a folder holds, and remove what is broken
    Verify(Verify),
}

const EXAMPLES: &str = "\
Examples:
  tessera store stat --server http://127.0.0.1:50051 HANDLE
  tessera store ls --store ./features";

/// Which store.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Where {
    /// The store of a gateway
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// A folder that no service has open
    #[arg(long, value_name = "FOLDER")]
    pub(crate) store: Option<PathBuf>,
}

/// Say of handles whether they are stored, and what is stored.
#[derive(Debug, Args)]
#[command(after_help = STAT)]
pub(crate) struct Stat {
    /// Handles of encoded images
    #[arg(required = true, value_name = "HANDLE")]
    pub(crate) handles: Vec<ImageKey>,
    #[command(flatten)]
    pub(crate) place: Where,
    #[command(flatten)]
    pub(crate) access: AccessFlags,
    /// Print a JSON object for every handle, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

const STAT: &str = "\
Exit code: 0 when all are stored, 1 otherwise.

Examples:
  tessera store stat --server http://127.0.0.1:50051 HANDLE
  tessera store stat --store ./features --json HANDLE HANDLE";

/// List what a folder holds.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tessera store ls --store ./features\n  tessera store ls --store ./features --json"
)]
pub(crate) struct List {
    /// A folder that no service has open
    #[arg(long, value_name = "FOLDER")]
    pub(crate) store: PathBuf,
    /// Print a JSON object for every handle, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Remove encoded images, leased or not.
#[derive(Debug, Args)]
#[command(after_help = REMOVE)]
pub(crate) struct Remove {
    /// Handles of encoded images
    #[arg(value_name = "HANDLE", required_unless_present_any = ["image", "everything"])]
    pub(crate) handles: Vec<ImageKey>,
    /// Image file: whatever a gateway has of it; may be repeated
    #[arg(long, short, value_name = "PATH", conflicts_with_all = ["everything", "store"])]
    pub(crate) image: Vec<PathBuf>,
    /// All that is yours, or all that is in the folder
    #[arg(long, requires = "yes", conflicts_with = "handles")]
    pub(crate) everything: bool,
    /// Yes, everything
    #[arg(long, requires = "everything")]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) place: Where,
    #[command(flatten)]
    pub(crate) access: AccessFlags,
}

const REMOVE: &str = "\
Examples:
  tessera store rm --server http://127.0.0.1:50051 HANDLE
  tessera store rm --server http://127.0.0.1:50051 --image photo.jpg
  tessera store rm --store ./features --everything --yes";

/// Read everything that a folder holds, and remove what is broken.
#[derive(Debug, Args)]
#[command(after_help = VERIFY)]
pub(crate) struct Verify {
    /// A folder that no service has open
    #[arg(long, value_name = "FOLDER")]
    pub(crate) store: PathBuf,
}

const VERIFY: &str = "\
Exit code: 0 when nothing was broken, 1 otherwise.

Examples:
  tessera store verify --store ./features";
