//! How long the models take by themselves: decode steps, a prompt with a picture, the tower. Each time is that of a call of the
//! public interface, so the copies to the device and back are in it.

use tessera_anyres::ImageSize;
use tessera_checkpoint::Checkpoint;
use tessera_model::{
    BLOCK_POSITIONS, Chunk, Input, KvPool, LanguageModel, LoadOptions, Logits, ModelError, VisionModel,
};
use tessera_tensor::HostTensor;

use super::decoder::Decoder;
use super::report::{Report, milliseconds};
use super::weights::Random;
use super::{Task, agreement, options, phases};

/// The names under which the table looks for them.
pub(crate) const DECODE_ONE: &str = "decode, 1 sequence";
pub(crate) const DECODE_ONE_SHORT: &str = "decode, 1 sequence, nothing behind it";
pub(crate) const DECODE_ONE_HEADLESS: &str = "decode, 1 sequence, no scores";
pub(crate) const DECODE_MANY: &str = "decode, many sequences";
pub(crate) const DECODE_MANY_SHORT: &str = "decode, many sequences, nothing behind them";
pub(crate) const DECODE_MANY_DRAWN: &str = "decode, many sequences, drawn";
pub(crate) const DECODE_MANY_TOP: &str = "decode, many sequences, drawn by the largest scores";
pub(crate) const DECODE_MANY_SCORES: &str = "decode, many sequences, all scores";
pub(crate) const PREFILL: &str = "prefill of a picture and its question";
pub(crate) const PREFILL_HALF: &str = "prefill of half as many rows";
pub(crate) const PROJECT: &str = "projector and newlines of the picture";
pub(crate) const TOWER_FEW: &str = "tower, tiles of one picture";
pub(crate) const TOWER_MANY: &str = "tower, many tiles";
/// Rows of the question behind the picture.
pub(crate) const QUESTION: usize = 64;

/// What a sequence wants of its scores that draws from all tokens, or with a top-p.
const DRAWN: Logits = Logits::Draw { temperature: 1.0, number: 0.5 };
const TOP: Logits = Logits::Top { temperature: Some(1.0) };

/// Decode steps that are measured in a row.
pub(crate) const STEPS: usize = 100;

pub(crate) fn run(task: &Task, report: &mut Report) -> Result<(), String> {
    let checkpoint = Checkpoint::open(&task.model).map_err(|error| error.to_string())?;
    let options = options(&task.device, task.compute);
    let measured =
        language(task, &checkpoint, &options, report).and_then(|()| vision(task, &checkpoint, &options, report));
    measured.map_err(|error| error.to_string())
}

fn language(
    task: &Task,
    checkpoint: &Checkpoint,
    options: &LoadOptions<'_>,
    report: &mut Report,
) -> Result<(), ModelError> {
    let size = task.size;
    let mut model = None;
    let loading = milliseconds(0, 1, || model = Some(LanguageModel::load(checkpoint, options)));
    let model = model.expect("it was loaded once")?;
    report.figure("loading the language model", "s", loading.iter().map(|time| time / 1e3).collect());
    agreement::write(task, &model)?;
    prefill(task, checkpoint, &model, report)?;

    let room = size.context + 4 * size.runs + 2 * STEPS;
    decode(&model, 1, room, size.context, [DECODE_ONE_SHORT, DECODE_ONE], report)?;
    let mut decoder = Decoder::new(&model, 1, room)?;
    decoder.fill(size.context)?;
    // Without scores nothing comes back, so a step is only handed to the device: many, and one that comes back.
    let times = milliseconds(1, size.runs, || {
        for _ in 0..STEPS - 1 {
            decoder.step(Logits::None).unwrap();
            decoder.back();
        }
        decoder.step(Logits::Likeliest).unwrap();
        decoder.back();
    });
    report.figure(DECODE_ONE_HEADLESS, "ms", times.iter().map(|time| time / STEPS as f64).collect());
    drop(decoder);
    let room = size.batch_context + 2 * STEPS;
    let mut decoder = decode(&model, size.batch, room, size.batch_context, [DECODE_MANY_SHORT, DECODE_MANY], report)?;
    // At the same place as those that only want the likeliest, so that they differ in nothing else.
    for (name, logits) in [(DECODE_MANY_DRAWN, DRAWN), (DECODE_MANY_TOP, TOP), (DECODE_MANY_SCORES, Logits::Last)] {
        decoder.back_to(size.batch_context);
        let times = milliseconds(STEPS / 10, STEPS, || decoder.step(logits).unwrap());
        report.figure(name, "ms", times);
    }
    Ok(())
}

/// Steps that decode greedily, each behind the token that the last one chose: first behind one block, then behind `context`
/// positions.
fn decode<'a>(
    model: &'a LanguageModel,
    sequences: usize,
    room: usize,
    context: usize,
    [short, long]: [&str; 2],
    report: &mut Report,
) -> Result<Decoder<'a>, ModelError> {
    let mut decoder = Decoder::new(model, sequences, room)?;
    for (name, length) in [(short, BLOCK_POSITIONS), (long, context)] {
        decoder.fill(length)?;
        let times = milliseconds(STEPS / 10, STEPS, || decoder.step(Logits::Likeliest).unwrap());
        report.figure(name, "ms", times);
    }
    phases::report(long, report, || {
        let times = decoder.timed_step(Logits::Likeliest)?;
        decoder.back();
        Ok(times)
    })?;
    Ok(decoder)
}

/// The rows of one picture and a question in one step, to the first token.
fn prefill(task: &Task, checkpoint: &Checkpoint, model: &LanguageModel, report: &mut Report) -> Result<(), ModelError> {
    let size = task.size;
    let plan = checkpoint.geometry().plan(ImageSize::new(size.picture, size.picture));
    let mut random = Random::seeded("features");
    let (rows, channels) = (plan.feature_rows(), checkpoint.model.feature_channels());
    let values = (0..rows * channels).map(|_| random.number()).collect();
    let features = HostTensor::from_f32(vec![rows, channels], values)?.to_dtype(task.compute);
    let times = milliseconds(2, size.runs, || drop(model.image_embedding(&features, &plan).unwrap()));
    report.figure(PROJECT, "ms", times);

    let embedding = model.image_embedding(&features, &plan)?;
    let question: Vec<u32> = (3..).take(QUESTION).collect();
    for (name, rows) in [(PREFILL, embedding.rows()), (PREFILL_HALF, embedding.rows() / 2)] {
        let blocks = (rows + QUESTION).div_ceil(BLOCK_POSITIONS);
        let mut pool = model.new_pool(blocks)?;
        let table: Vec<u32> = (0..).take(blocks).collect();
        let step = |pool: &mut KvPool| {
            let inputs = vec![Input::Image { embedding: &embedding, rows: 0..rows }, Input::Tokens(&question)];
            let chunk = Chunk { blocks: &table, start: 0, inputs, logits: Logits::Likeliest };
            model.forward(pool, &[chunk])
        };
        let times = milliseconds(3, size.runs, || drop(step(&mut pool).unwrap()));
        report.figure(name, "ms", times);
        if name == PREFILL {
            phases::report(name, report, || Ok(pool.time_phases(step)?.1))?;
        }
    }
    Ok(())
}

fn vision(
    task: &Task,
    checkpoint: &Checkpoint,
    options: &LoadOptions<'_>,
    report: &mut Report,
) -> Result<(), ModelError> {
    let model = VisionModel::load(checkpoint, options)?;
    let side = checkpoint.geometry().tile() as usize;
    for (name, tiles) in [TOWER_FEW, TOWER_MANY].into_iter().zip(task.size.tiles) {
        let pixels = agreement::pixels(tiles, side)?;
        let times = milliseconds(3, task.size.runs, || drop(model.encode(&pixels).unwrap()));
        report.figure(name, "ms", times);
    }
    agreement::write_features(task, &model, side)
}
