//! The command line.

mod access;
mod encode;
mod machine;
mod pictures;
mod store;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::place::{Place, PlaceFlags};
use crate::settings::SettingFlags;

pub(crate) use access::AccessFlags;
pub(crate) use encode::Encode;
pub(crate) use machine::MachineFlags;
pub(crate) use pictures::{Picture, Pictures};
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
  tessera ask --model ./llava-v1.6-mistral-7b-hf --image a.png --image b.png \"What differs?\"
  tessera up --model ./llava-v1.6-mistral-7b-hf
  tessera ask --server http://127.0.0.1:50051 --json --image photo.jpg \"How many people?\"
  tessera ask --image photo.jpg --choice yes --choice no \"Is anybody smiling?\"
  tessera encode --server http://127.0.0.1:50051 --manifest photos.jsonl photos/
  tessera ask --server http://127.0.0.1:50051 --embedding HANDLE \"How many people?\"
  tessera store stat --server http://127.0.0.1:50051 HANDLE
  tessera inspect --json photo.jpg";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask about images; the answer is streamed
    Ask(Box<Ask>),
    /// Encode images ahead of time, so that they can be asked about later without their bytes
    Encode(Encode),
    /// Run all three services in this process until interrupted
    Up(Up),
    /// Look at encoded images that are stored, and remove them
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show how images are cut into tiles, without a model's weights
    Inspect(Inspect),
}

/// Ask about images; the answer is streamed.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// The question
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) pictures: Pictures,
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
    /// Instructions in front of the question
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Print one JSON object at the end instead of streaming text, or an array of them for several samples
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
    #[command(flatten)]
    pub(crate) place: PlaceFlags,
}

/// Run all three services in this process until interrupted.
#[derive(Debug, Args)]
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

/// Show how images are cut into tiles, without a model's weights.
#[derive(Debug, Args)]
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
