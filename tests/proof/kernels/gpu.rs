//! A GPU that runs kernels by the driver alone: no candle between.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::{
    driver::{
        CudaContext, CudaModule, CudaSlice, CudaStream, DevicePtr as _, DriverError, LaunchConfig, PushKernelArg as _,
    },
    nvrtc::Ptx,
};

use super::{Argument, Case, Runner};

/// Bytes in front of memory and behind it that no kernel may change.
const GUARD: usize = 256;
const UNTOUCHED: u8 = 0xa5;

pub(super) struct Gpu {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
}

/// A parameter of a kernel.
enum Parameter {
    Address(u64),
    Number(u32),
}

/// Memory of the device, with guards around what the case put there.
struct Guarded {
    memory: CudaSlice<u8>,
    start: usize,
    length: usize,
}

impl Gpu {
    pub(super) fn new(number: usize) -> Result<Self, String> {
        let kernels = tessera_kernels::fatbin().ok_or("this program was built with a stand-in for nvcc")?;
        let load = || {
            let context = CudaContext::new(number)?;
            let module = context.load_module(Ptx::from_binary(kernels.to_vec()))?;
            Ok::<_, DriverError>(Self { stream: context.default_stream(), module })
        };
        load().map_err(|error| format!("cuda:{number}: {error}"))
    }

    fn launched(&self, case: &Case) -> Result<Vec<Option<Guarded>>, DriverError> {
        let function = self.module.load_function(&case.function)?;
        let mut addresses: Vec<u64> = Vec::new();
        let (mut memories, mut parameters) = (Vec::new(), Vec::new());
        for argument in &case.arguments {
            let memory = match argument {
                Argument::Null | Argument::Number(_) => None,
                Argument::Memory { bytes, misalignment } => Some(self.guarded(bytes, *misalignment as usize)?),
                Argument::Elsewhere(bytes) => Some(self.guarded(bytes, 0)?),
                Argument::Addresses(places) => {
                    let address = |(argument, offset): &(u32, u64)| addresses[*argument as usize] + offset;
                    let bytes: Vec<u8> = places.iter().flat_map(|place| address(place).to_le_bytes()).collect();
                    Some(self.guarded(&bytes, 0)?)
                }
            };
            let address = memory.as_ref().map_or(0, |memory| {
                let (base, _end) = memory.memory.device_ptr(&self.stream);
                base + memory.start as u64
            });
            match argument {
                Argument::Elsewhere(_) => {}
                Argument::Number(bits) => parameters.push(Parameter::Number(*bits)),
                _ => parameters.push(Parameter::Address(address)),
            }
            addresses.push(address);
            memories.push(memory);
        }
        let [grid, block] = [case.grid, case.block].map(|[x, y, z]| (x, y, z));
        self.launch(
            &function,
            &parameters,
            LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: case.shared_bytes },
        )?;
        Ok(memories)
    }

    #[expect(unsafe_code, reason = "what a kernel does with its parameters is nothing that the compiler can see")]
    fn launch(
        &self,
        function: &candle_core::cuda_backend::cudarc::driver::CudaFunction,
        parameters: &[Parameter],
        config: LaunchConfig,
    ) -> Result<(), DriverError> {
        let mut launch = self.stream.launch_builder(function);
        for parameter in parameters {
            match parameter {
                Parameter::Address(address) => launch.arg(address),
                Parameter::Number(bits) => launch.arg(bits),
            };
        }
        // SAFETY: the parameters are in number and width those of the kernel, and their memory is as large as the test that wrote
        // the case says; the tests have been run on the CPU with every access watched.
        unsafe { launch.launch(config) }?;
        self.stream.synchronize()
    }

    fn guarded(&self, bytes: &[u8], misalignment: usize) -> Result<Guarded, DriverError> {
        let start = GUARD + misalignment;
        let mut around = vec![UNTOUCHED; start + bytes.len() + GUARD];
        around[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(Guarded { memory: self.stream.clone_htod(&around)?, start, length: bytes.len() })
    }
}

impl Runner for Gpu {
    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, String> {
        let failed = |error: DriverError| format!("{}: {error}", case.function);
        let memories = self.launched(case).map_err(failed)?;
        let mut results = Vec::new();
        for (argument, memory) in case.arguments.iter().zip(&memories) {
            let (Argument::Memory { .. }, Some(Guarded { memory, start, length })) = (argument, memory) else {
                continue;
            };
            let found = self.stream.clone_dtoh(memory).map_err(failed)?;
            let (front, rest) = found.split_at(*start);
            let (bytes, behind) = rest.split_at(*length);
            if front.iter().chain(behind).any(|byte| *byte != UNTOUCHED) {
                return Err(format!("{}: writes beside its memory", case.function));
            }
            results.push(bytes.to_vec());
        }
        Ok(results)
    }
}
