//! Pictures that nobody has seen before, and how long one core takes to cut a large one.

use mozjpeg::{ColorSpace, Compress};
use tessera_checkpoint::Checkpoint;
use tessera_image::{DecodeOptions, Preprocessor, Resizer};

use super::Task;
use super::report::{Report, milliseconds};
use super::weights::Random;

/// The name under which the table looks for it.
pub(crate) const CUT: &str = "decoding and cutting a large JPEG on one core";

pub(crate) fn run(task: &Task, report: &mut Report) -> Result<(), String> {
    let checkpoint = Checkpoint::open(&task.model).map_err(|error| error.to_string())?;
    let preprocessor = Preprocessor::new(&checkpoint.processor.image, checkpoint.geometry(), Resizer::default());
    let [width, height] = task.size.large_picture;
    let picture = jpeg(width, height, "large").map_err(|error| error.to_string())?;
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|error| error.to_string())?;
    let times = one_core.install(|| {
        milliseconds(1, task.size.runs, || {
            let decoded = tessera_image::decode(&picture, &DecodeOptions::default()).unwrap();
            drop(preprocessor.run(&decoded).unwrap());
        })
    });
    report.figure(CUT, "ms", times);
    Ok(())
}

/// A picture of soft shades under noise, as a JPEG of quality 90: like a photograph, it is neither empty nor all noise.
pub(crate) fn jpeg(width: u32, height: u32, seed: &str) -> std::io::Result<Vec<u8>> {
    let mut random = Random::seeded(seed);
    let waves: [f32; 6] = std::array::from_fn(|_| 2.0 + random.number().abs());
    let mut pixels = Vec::with_capacity((3 * width * height) as usize);
    for y in 0..height {
        for x in 0..width {
            let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
            let noise = random.number() * 6.0;
            for channel in 0..3 {
                let shade = (x * waves[channel] * 4.0).sin() + (y * waves[channel + 3] * 4.0).cos();
                pixels.push((128.0 + 50.0 * shade + noise) as u8);
            }
        }
    }
    let mut compress = Compress::new(ColorSpace::JCS_RGB);
    compress.set_size(width as usize, height as usize);
    // As cameras write: in one pass.
    compress.set_fastest_defaults();
    compress.set_quality(90.0);
    let mut started = compress.start_compress(Vec::new())?;
    started.write_scanlines(&pixels)?;
    started.finish()
}
