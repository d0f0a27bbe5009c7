//! The flags of `tessera encode`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{AccessFlags, MachineFlags};
use crate::place::{Place, PlaceFlags};

/// Encode images ahead of time, so that they can be asked about later without their bytes.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Encode {
    /// Image files, folders, patterns such as 'photos/**/*.jpg', or -: paths of files and folders from standard input,
    /// one a line
    #[arg(required = true, value_name = "PATH")]
    pub(crate) images: Vec<PathBuf>,
    /// Write what becomes of every image to this file, and leave out what it says is done
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) manifest: Option<PathBuf>,
    /// Keep encoded images in a folder, at redis://… or at s3://BUCKET/PREFIX
    #[arg(long, value_name = "STORE", conflicts_with = "server")]
    pub(crate) store: Option<Place>,
    /// Have them encoded and kept by a gateway that runs elsewhere instead of starting the services here
    #[arg(long, value_name = "URL", conflicts_with_all = ["device", "compute"])]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) access: AccessFlags,
    /// Folder of a llava-v1.6 checkpoint in the Hugging Face layout; a small embedded one by default
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    /// Promise to keep every image for so long, such as 12h or '30 days'
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    pub(crate) lease: Option<Duration>,
    /// Print a JSON object for every image, one a line, as the manifest has it
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: PlaceFlags,
}

const AFTER_HELP: &str = "\
For every image that is stored, a line HANDLE<TAB>PATH goes to standard output. A handle stands for its image in
`tessera ask --embedding HANDLE`, for as long as the image is stored.

A folder is searched for images in the order of names, its folders too: by extension (jpg, jpeg, png, webp, gif, bmp, tif,
tiff), else by content; hidden files are left out. A pattern takes the images among the files that match it, too.

The manifest has one JSON object a line, for every image as it is done: path, handle, width, height, grid (pixels), tiles,
image_tokens, size and modified time of the file, stored_before, durable; or path, error, reason. Paths are written as
they were given, a relative one as relative to the current folder: run it again from there to go on where it stopped.
What is in the manifest with a handle is skipped while size and modified time stay; what failed is tried again. The first
that would be skipped is sent all the same, to find out whether model and store are still those of the manifest.

Exit code: 0 when all images are stored, 1 when some failed, 130 when interrupted.

Examples:
  tessera encode --server http://127.0.0.1:50051 --manifest photos.jsonl photos/
  tessera encode --store ./features --lease '30 days' 'photos/**/*.jpg'
  find photos -name '*.png' | tessera encode --server http://127.0.0.1:50051 --json -";

/// Promises have whole seconds.
fn lease(text: &str) -> Result<Duration, String> {
    let period = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if period < Duration::from_secs(1) {
        return Err("a promise lasts at least 1 s".into());
    }
    Ok(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_written_as_people_write_times() {
        assert_eq!(lease("12h"), Ok(Duration::from_secs(12 * 3600)));
        assert_eq!(lease("30 days"), Ok(Duration::from_secs(30 * 24 * 3600)));
        for wrong in ["", "12", "0s", "200ms", "soon"] {
            assert!(lease(wrong).is_err(), "{wrong}");
        }
    }
}
