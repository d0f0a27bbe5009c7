//! The flags of `tessera ask` and `tessera chat`.

use clap::Args;

use super::{Pictures, ServiceFlags};
use crate::settings::SettingFlags;

/// Ask about images; the answer is streamed.
#[derive(Debug, Args)]
#[command(after_help = ASK)]
pub(crate) struct Ask {
    /// The question
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) pictures: Pictures,
    /// Instructions in front of the question
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Print one JSON object at the end instead of streaming text, or an array of them for several samples
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) services: ServiceFlags,
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
}

const ASK: &str = "\
Examples:
  tessera ask --image chart.png \"Which bar is the tallest?\"
  tessera ask --model ./llava-v1.6-mistral-7b-hf --image a.png --image b.png \"What differs?\"
  tessera ask --server http://127.0.0.1:50051 --json --image photo.jpg \"How many people?\"
  tessera ask --server http://127.0.0.1:50051 --embedding HANDLE \"How many people?\"
  tessera ask --image photo.jpg --choice yes --choice no \"Is anybody smiling?\"";

/// Talk about images, line by line.
#[derive(Debug, Args)]
#[command(after_help = CHAT)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) pictures: Pictures,
    /// Instructions in front of the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) services: ServiceFlags,
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
}

const CHAT: &str = "\
Every line is a question; it is asked together with the pictures that were shown since the last one, and with all that was
said before. Lines that begin with / are commands: /help lists them. Ctrl-C stops an answer, Ctrl-D leaves. Where standard
input is no terminal, its lines are taken one after the other, and the exit code is 1 when one of them failed.

Examples:
  tessera chat --image chart.png
  tessera chat --server http://127.0.0.1:50051 --system \"Answer in one sentence.\"
  printf '/image chart.png\\nWhich bar is the tallest?\\n/stats\\n' | tessera chat";
