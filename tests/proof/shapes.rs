//! Real widths and heads, few layers: the device against the CPU, and its ways to attend against one another. A whole prompt is
//! attended to by one kernel, rows one at a time by another.

use std::path::Path;

use tessera_checkpoint::Checkpoint;
use tessera_model::{BLOCK_POSITIONS, Chunk, Input, LanguageModel, LoadOptions, Logits, ModelError, VisionModel};
use tessera_tensor::{DType, Devices};

use super::agreement::pixels;
use super::report::Report;
use super::weights::{self, Random};
use super::{Task, choice, options};

/// Positions of the prompt: several blocks and splits, and no multiple of either.
const PROMPT: usize = 301;
/// The last of them that are also computed one at a time.
const ALONE: usize = 45;

pub(crate) fn run(task: &Task, report: &mut Report) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    weights::make(task.size.shallow, folder.path())?;
    let of = |device: &Devices, compute: DType| {
        outputs(folder.path(), &options(device, compute)).map_err(|error| error.to_string())
    };
    let cpu = outputs(folder.path(), &LoadOptions::default()).map_err(|error| error.to_string())?;
    for compute in DType::ALL {
        let found = of(&task.device, compute)?;
        let mut compare = |what: &str, ours: &[f32], theirs: &[f32]| {
            let apart = relative(ours, theirs);
            let found = format!("{apart:.1e} of their length apart, {:.1e} passes", tolerance(compute));
            report.check(&format!("{what}, {compute}"), apart <= tolerance(compute), found);
        };
        compare("features of tiles: the device and the CPU", &found.features, &cpu.features);
        compare("scores of a prompt: the device and the CPU", &found.whole, &cpu.whole);
        compare("scores: the prompt whole and its last rows one at a time", &found.alone, &found.whole);
        compare("scores: the prompt whole and in two chunks", &found.chunked, &found.whole);
        compare("scores: alone and beside other sequences", &found.beside, &found.alone);
        report.check(
            &format!("features and scores again, {compute}"),
            of(&task.device, compute)? == found,
            "to the bit".into(),
        );
        let holds = choice::holds(folder.path(), &options(&task.device, compute)).map_err(|error| error.to_string())?;
        let what = format!("likeliest, largest and drawn of the device and of the host, {compute}");
        report.check(&what, holds, "to the bit".into());
    }
    Ok(())
}

/// How far apart two results may be, to their length (root of the sum of squares). In f32 only the order of sums differs. In 16
/// bits each of some tens of roundings in a row adds its half unit, 2^-12 or 2^-9, as the root of their number.
fn tolerance(compute: DType) -> f32 {
    match compute {
        DType::F32 => 1e-4,
        DType::F16 => 3e-3,
        DType::BF16 => 2.4e-2,
    }
}

/// The length of the difference, to that of `theirs`. Infinite where something is not a number.
fn relative(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len(), "different numbers of numbers");
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let apart = squares(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
    let ratio = (apart / squares(&mut theirs.iter().copied())).sqrt() as f32;
    if ratio.is_nan() { f32::INFINITY } else { ratio }
}

/// What a device makes of two tiles and of a prompt: the scores of the prompt's last [`ALONE`] rows, computed in four ways.
#[derive(PartialEq)]
struct Outputs {
    features: Vec<f32>,
    whole: Vec<f32>,
    chunked: Vec<f32>,
    alone: Vec<f32>,
    beside: Vec<f32>,
}

fn outputs(folder: &Path, options: &LoadOptions<'_>) -> Result<Outputs, ModelError> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let vision = VisionModel::load(&checkpoint, options)?;
    let features = vision.encode(&pixels(2, checkpoint.geometry().tile() as usize)?)?.to_f32();
    let model = LanguageModel::load(&checkpoint, options)?;
    let mut random = Random::seeded("prompt");
    let ids: Vec<u32> = (0..PROMPT).map(|_| (random.bits() % model.config().vocab_size as u64) as u32).collect();
    let one_at_a_time = || (PROMPT - ALONE..PROMPT).map(|row| row..row + 1);
    Ok(Outputs {
        features,
        whole: last_rows(&model, &ids, std::iter::once(0..PROMPT), 1)?,
        chunked: last_rows(&model, &ids, [0..190, 190..PROMPT].into_iter(), 1)?,
        alone: last_rows(&model, &ids, std::iter::once(0..PROMPT - ALONE).chain(one_at_a_time()), 1)?,
        beside: last_rows(&model, &ids, std::iter::once(0..PROMPT - ALONE).chain(one_at_a_time()), 5)?,
    })
}

/// The scores of the last [`ALONE`] rows of the first of some sequences, which are computed in these chunks. The others hold the
/// same prompt without its first tokens.
fn last_rows(
    model: &LanguageModel,
    ids: &[u32],
    chunks: impl Iterator<Item = std::ops::Range<usize>>,
    sequences: usize,
) -> Result<Vec<f32>, ModelError> {
    let blocks = ids.len().div_ceil(BLOCK_POSITIONS);
    let mut pool = model.new_pool(sequences * blocks)?;
    let table = |sequence: usize| (0..blocks).map(|block| (block * sequences + sequence) as u32).collect();
    let tables: Vec<Vec<u32>> = (0..sequences).map(table).collect();
    let mut scores = Vec::new();
    for rows in chunks {
        let mut batch = Vec::new();
        for (sequence, blocks) in tables.iter().enumerate() {
            // Another sequence is as many positions shorter as it has tokens less.
            let rows = rows.start.max(sequence) - sequence..rows.end - sequence;
            let inputs = vec![Input::Tokens(&ids[rows.start + sequence..rows.end + sequence])];
            batch.push(Chunk { blocks, start: rows.start, inputs, logits: Logits::All });
        }
        let step = model.forward(&mut pool, &batch)?;
        scores.extend_from_slice(step.of(0));
    }
    Ok(scores.split_off(scores.len() - ALONE * model.config().vocab_size))
}
