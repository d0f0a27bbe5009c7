//! What the device does at its best, by candle's own copy and by cuBLAS: what the model's times are held against.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use tessera_tensor::Devices;

use super::Task;
use super::report::Report;

/// The names under which the table looks for them.
pub(crate) const COPY: &str = "device copy, bytes read and written";
pub(crate) const PRODUCT: &str = "bf16 matrix product";

/// Calls between two looks at the clock: the device works behind them without a pause.
const CALLS: usize = 20;

pub(crate) fn run(task: &Task, report: &mut Report) -> Result<()> {
    let (device, dtype) = match &task.device {
        Devices::Cuda(gpus) => (Device::new_cuda(gpus[0])?, DType::BF16),
        Devices::Auto | Devices::Cpu => (Device::Cpu, DType::F32),
    };
    let size = task.size;
    // Random numbers: some devices multiply zeros faster.
    let side = size.multiplied;
    let [left, right] = [0, 1].map(|_| Tensor::randn(0f32, 1f32, (side, side), &device)?.to_dtype(dtype));
    let (left, right) = (left?, right?);
    let source = Tensor::zeros(size.copied, dtype, &device)?;
    source.slice_set(&left.flatten_all()?, 0, 0)?;

    let copies = rates(size.runs, &device, || source.copy())?;
    let bytes = 2.0 * (size.copied * dtype.size_in_bytes()) as f64;
    report.figure(COPY, "TB/s", copies.iter().map(|rate| rate * bytes / 1e12).collect());
    let products = rates(size.runs, &device, || left.matmul(&right))?;
    let operations = 2.0 * (side as f64).powi(3);
    report.figure(PRODUCT, "TFLOP/s", products.iter().map(|rate| rate * operations / 1e12).collect());
    Ok(())
}

/// Calls a second, of each of so many runs.
fn rates(runs: usize, device: &Device, mut call: impl FnMut() -> Result<Tensor>) -> Result<Vec<f64>> {
    let mut timed = || {
        device.synchronize()?;
        let begun = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        device.synchronize()?;
        Ok(CALLS as f64 / begun.elapsed().as_secs_f64())
    };
    timed()?;
    (0..runs).map(|_| timed()).collect()
}
