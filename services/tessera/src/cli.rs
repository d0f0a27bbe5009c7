//! The command line.

mod access;
mod ask;
mod encode;
mod machine;
mod pages;
mod pictures;
mod services;
mod store;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::place::{Place, PlaceFlags};

pub(crate) use access::AccessFlags;
pub(crate) use ask::{Ask, Chat};
pub(crate) use encode::Encode;
pub(crate) use machine::MachineFlags;
pub(crate) use pages::{Completions, Man};
pub(crate) use pictures::{Picture, Pictures, file_or_url};
pub(crate) use services::ServiceFlags;
pub(crate) use store::{List, Remove, Stat, StoreCommand, Verify, Where};

/// Asks LLaVA-NeXT vision-language models about pictures: a gateway, a vision and a language worker over gRPC.
#[derive(Debug, Parser)]
#[command(name = "tessera", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What is logged to the standard error stream: a level, or levels by module
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  tessera ask --image chart.png \"Which bar is the tallest?\"
  tessera chat --image chart.png
  tessera up --model ./llava-v1.6-mistral-7b-hf
  tessera ask --server http://127.0.0.1:50051 --json --image photo.jpg \"How many people?\"
  tessera encode --server http://127.0.0.1:50051 --manifest photos.jsonl photos/
  tessera ask --server http://127.0.0.1:50051 --embedding HANDLE \"How many people?\"
  tessera store stat --server http://127.0.0.1:50051 HANDLE
  tessera inspect --json photo.jpg";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask about images; the answer is streamed
    Ask(Box<Ask>),
    /// Talk about images, line by line
    Chat(Box<Chat>),
    /// Encode images ahead of time, so that they can be asked about later without their bytes
    Encode(Encode),
    /// Run all three services in this process until interrupted
    Up(Up),
    /// Look at encoded images that are stored, and remove them
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show how images are cut into tiles, without a model's weights
    Inspect(Inspect),
    /// Print a script by which a shell completes this program's commands and flags
    Completions(Completions),
    /// Write manual pages: the program's to standard output, or all of them into a folder
    Man(Man),
}

/// Run all three services in this process until interrupted.
#[derive(Debug, Args)]
#[command(after_help = UP)]
pub(crate) struct Up {
    /// Folder of a llava-v1.6 checkpoint in the Hugging Face layout; a small embedded one by default
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    /// Keep encoded images in a folder, at redis://… or at s3://BUCKET/PREFIX, beside memory
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Option<Place>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) host: IpAddr,
    /// Port of the gateway; the vision and the language worker take the next two
    #[arg(long, default_value_t = 50051, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65533))]
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) place: PlaceFlags,
}

const UP: &str = "\
Examples:
  tessera up
  tessera up --model ./llava-v1.6-mistral-7b-hf --device cuda:0 --store ./features
  tessera up --host 0.0.0.0 --port 8000";

/// Show how images are cut into tiles, without a model's weights.
#[derive(Debug, Args)]
#[command(after_help = INSPECT)]
pub(crate) struct Inspect {
    /// Image files
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
    /// Folder of a llava-v1.6 checkpoint in the Hugging Face layout; a small embedded one by default
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Print one JSON array
    #[arg(long)]
    pub(crate) json: bool,
    /// Write `pixel_values` and `image_sizes`, as the reference's processor returns them
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) pixels: Option<PathBuf>,
}

const INSPECT: &str = "\
Examples:
  tessera inspect photo.jpg chart.png
  tessera inspect --json --model ./llava-v1.6-mistral-7b-hf photo.jpg
  tessera inspect --pixels pixels.safetensors photo.jpg";
