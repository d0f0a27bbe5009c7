//! The proof: what has to hold on a GPU and how fast it is, part by part. `deploy/cuda/prove.sh` runs the parts.

mod agreement;
mod ceilings;
mod choice;
mod decoder;
#[path = "../system/first_token.rs"]
mod first_token;
mod kernels;
mod model;
mod parity;
mod phases;
mod pictures;
mod profile;
#[path = "../system/reference.rs"]
mod reference;
mod report;
#[path = "../system/running.rs"]
mod running;
mod services;
mod shapes;
mod table;
mod weights;

use std::path::PathBuf;
use std::process::ExitCode;

use tessera_checkpoint::Checkpoint;
use tessera_model::{LoadOptions, OnCpu, VisionModel};
use tessera_tensor::{Compute, DType, Devices};
use tessera_testkit::family_dir;

use report::Report;
use weights::Shape;

const USAGE: &str = "usage: PROGRAM PART --results DIR [--device cuda:0] [--model DIR] [--size real|small]
PART  what it does; each writes DIR/PART.json
  device      loads something on the device, or says why it cannot
  kernels     runs the cases of shared/kernels' tests: these say whether the results are right
  parity      the tiny checkpoints against the reference, in f32, f16 and bf16
  shapes      a decoder and a tower of real widths against the CPU's, whole against row by row, what is found in scores
  ceilings    what the device copies and multiplies at best
  checkpoint  makes the checkpoint --model, of random weights and real shape
  model       how long the models of --model take
  services    first tokens through the three services in this process
  pictures    decoding and cutting a picture on one core
  profile-PHASE  one phase (decode-one, decode-many, prefill, tower) for a profiler; writes nothing
  table       writes DIR/RESULTS.md from what the parts found; fails if something did not hold
It runs in the repository's root, or beside a copy of its tests/fixtures.";

/// What a part is asked to do.
struct Task {
    device: Devices,
    /// In which the large models compute.
    compute: DType,
    model: PathBuf,
    results: PathBuf,
    size: Size,
}

/// How large everything is.
#[derive(Clone, Copy)]
struct Size {
    shape: Shape,
    /// The one that a CPU computes too.
    shallow: Shape,
    /// Positions that a lone sequence decodes behind.
    context: usize,
    /// Sequences that decode together, and the positions that each decodes behind.
    batch: usize,
    batch_context: usize,
    /// Sides of the picture that is asked about, and of the one that is only cut.
    picture: u32,
    large_picture: [u32; 2],
    tiles: [usize; 2],
    /// Numbers of the copy, and side of the matrices, that give the ceilings.
    copied: usize,
    multiplied: usize,
    runs: usize,
}

/// What the bars are for.
const REAL: Size = Size {
    shape: Shape::MISTRAL_7B,
    shallow: Shape::TWO_LAYERS,
    context: 3000,
    batch: 64,
    batch_context: 1024,
    picture: 672,
    large_picture: [4000, 3000],
    tiles: [5, 64],
    copied: 1 << 31,
    multiplied: 8192,
    runs: 20,
};

/// What a test of the proof itself runs on a CPU.
const SMALL: Size = Size {
    shape: Shape::SMALL,
    shallow: Shape::SMALL,
    context: 70,
    batch: 3,
    batch_context: 40,
    picture: 112,
    large_picture: [400, 300],
    tiles: [2, 3],
    copied: 1 << 12,
    multiplied: 64,
    runs: 3,
};

/// Runs a part. The exit code says whether all that it checked holds.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let (part, task) = match read(arguments) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("error: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&part, &task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {part}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(arguments: &[String]) -> Result<(String, Task), String> {
    let (part, rest) = arguments.split_first().ok_or("no part is named")?;
    let (mut device, mut model, mut results, mut size) = (Devices::Cuda(vec![0]), PathBuf::new(), PathBuf::new(), REAL);
    for pair in rest.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} has no value", pair[0])) };
        match (name.as_str(), value.as_str()) {
            ("--device", names) => device = names.parse::<Devices>().map_err(|error| format!("--device: {error}"))?,
            ("--model", folder) => model = folder.into(),
            ("--results", folder) => results = folder.into(),
            ("--size", "real") => size = REAL,
            ("--size", "small") => size = SMALL,
            _ => return Err(format!("unknown argument {name} {value}")),
        }
    }
    if !results.is_dir() {
        return Err("--results must name a folder that is there".into());
    }
    let compute = Compute::Auto.on(&device);
    Ok((part.clone(), Task { device, compute, model, results, size }))
}

fn run(part: &str, task: &Task) -> Result<bool, String> {
    let mut report = Report::default();
    match part {
        "device" => device(task, &mut report)?,
        "kernels" => return kernels::serve(&task.device).map(|()| true),
        "parity" => parity::run(task, &mut report),
        "shapes" => shapes::run(task, &mut report)?,
        "ceilings" => ceilings::run(task, &mut report).map_err(|error| error.to_string())?,
        "checkpoint" => weights::make(task.size.shape, &task.model)?,
        "model" => model::run(task, &mut report)?,
        "services" => services::run(task, &mut report)?,
        "pictures" => pictures::run(task, &mut report)?,
        "table" => return table::write(task),
        part if part.starts_with("profile-") => {
            return profile::run(task, part.trim_start_matches("profile-")).map(|()| true);
        }
        _ => return Err(format!("there is no such part\n{USAGE}")),
    }
    report.write(&task.results.join(format!("{part}.json")))?;
    Ok(report.holds())
}

/// How every model is loaded. On the CPU, where the proof is tried, it computes by the same program as on a GPU.
fn options(device: &Devices, compute: DType) -> LoadOptions<'_> {
    LoadOptions { device, compute, on_cpu: OnCpu::Dense { devices: 1 }, ..LoadOptions::default() }
}

/// Loads the smallest thing there is: a build without CUDA, or a machine without a GPU, says so here.
fn device(task: &Task, report: &mut Report) -> Result<(), String> {
    let checkpoint = Checkpoint::open(&family_dir("mistral")).map_err(|error| error.to_string())?;
    VisionModel::load(&checkpoint, &options(&task.device, DType::F32)).map_err(|error| error.to_string())?;
    report.check("a model loads", true, format!("on {}", task.device));
    Ok(())
}
