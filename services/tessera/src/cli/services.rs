//! The flags that say who is asked.

use std::path::PathBuf;

use clap::Args;

use super::{AccessFlags, MachineFlags};
use crate::place::{Place, PlaceFlags};

/// Who is asked: a gateway that runs elsewhere, or services that are started for this.
#[derive(Debug, Args)]
pub(crate) struct ServiceFlags {
    /// Folder of a llava-v1.6 checkpoint in the Hugging Face layout; a small embedded one by default
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    /// Keep encoded images in a folder, at redis://… or at s3://BUCKET/PREFIX, beside memory
    #[arg(long, value_name = "STORE", conflicts_with = "server")]
    pub(crate) store: Option<Place>,
    /// Ask a gateway that runs elsewhere instead of starting the services here
    #[arg(long, value_name = "URL", conflicts_with_all = ["device", "compute"])]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) access: AccessFlags,
    #[command(flatten)]
    pub(crate) place: PlaceFlags,
}
