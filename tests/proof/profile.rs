//! One phase at a time for a profiler to look at, with the widths of the real model and few of its layers: two of the decoder, two of
//! the tower. `prove.sh` runs it under nsys or ncu, which watch from where this says.

use tessera_checkpoint::Checkpoint;
use tessera_model::{LanguageModel, Logits, VisionModel};

use super::agreement::pixels;
use super::decoder::Decoder;
use super::weights;
use super::{Task, options};

/// Decode steps that are watched.
const STEPS: usize = 5;

pub(crate) fn run(task: &Task, phase: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    weights::make(task.size.shallow, folder.path())?;
    let checkpoint = Checkpoint::open(folder.path()).map_err(|error| error.to_string())?;
    let options = options(&task.device, task.compute);
    let size = task.size;
    let decoding = |sequences: usize, context: usize| {
        let model = LanguageModel::load(&checkpoint, &options).map_err(|error| error.to_string())?;
        let mut decoder = Decoder::new(&model, sequences, context + 3 * STEPS).unwrap();
        decoder.fill(context).unwrap();
        (0..STEPS).for_each(|_| decoder.step(Logits::Likeliest).unwrap());
        watched(|| (0..STEPS).for_each(|_| decoder.step(Logits::Likeliest).unwrap()))
    };
    match phase {
        "decode-one" => decoding(1, size.context),
        "decode-many" => decoding(size.batch, size.batch_context),
        "prefill" => {
            let model = LanguageModel::load(&checkpoint, &options).map_err(|error| error.to_string())?;
            let prefill = || {
                let mut decoder = Decoder::new(&model, 1, size.context + 1).unwrap();
                decoder.fill(size.context).unwrap();
                decoder.step(Logits::Likeliest).unwrap();
            };
            prefill();
            watched(prefill)
        }
        "tower" => {
            let model = VisionModel::load(&checkpoint, &options).map_err(|error| error.to_string())?;
            let pixels = pixels(size.tiles[1], size.shallow.tile).map_err(|error| error.to_string())?;
            let encode = || drop(model.encode(&pixels).unwrap());
            encode();
            watched(encode)
        }
        _ => Err("the phases are decode-one, decode-many, prefill and tower".into()),
    }
}

/// Does some work while the profiler looks, if there is one.
#[cfg(feature = "cuda")]
fn watched(work: impl FnOnce()) -> Result<(), String> {
    let profiler = candle_core::cuda_backend::cudarc::driver::Profiler::new();
    let _looking = profiler.map_err(|error| error.to_string())?;
    work();
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn watched(work: impl FnOnce()) -> Result<(), String> {
    work();
    Ok(())
}
