//! The flags that say on what the model runs.

use clap::Args;
use tessera_tensor::{Compute, Devices};

/// What the model runs on, and in which type it computes there.
#[derive(Clone, Debug, Args)]
pub(crate) struct MachineFlags {
    /// Where the model runs: cpu, cuda:0, several GPUs as cuda:0,cuda:1 (the vision tower is on the first), or auto: the
    /// first GPU if there is one
    #[arg(long, default_value_t, value_name = "DEVICE")]
    pub(crate) device: Devices,
    /// Type that the model computes in: f32, f16 for half the memory, bf16 (GPUs only), or auto: bf16 on GPUs, else f32
    #[arg(long, default_value_t, value_name = "TYPE")]
    pub(crate) compute: Compute,
}

impl MachineFlags {
    /// Where the vision tower runs, which takes one device.
    pub(crate) fn first_device(&self) -> Devices {
        match &self.device {
            Devices::Cuda(gpus) => Devices::Cuda(gpus.iter().copied().take(1).collect()),
            one => one.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        machine: MachineFlags,
    }

    fn machine(flags: &[&str]) -> MachineFlags {
        Flags::parse_from([&["up"], flags].concat()).machine
    }

    #[test]
    fn the_vision_tower_is_on_the_first_of_several_gpus() {
        let flags = machine(&["--device", "cuda:1,cuda:0", "--compute", "f16"]);
        assert_eq!((flags.first_device(), flags.device), (Devices::Cuda(vec![1]), Devices::Cuda(vec![1, 0])));
        assert_eq!(machine(&["--device", "cpu"]).first_device(), Devices::Cpu);
        let auto = machine(&[]);
        assert_eq!((auto.first_device(), auto.device, auto.compute), (Devices::Auto, Devices::Auto, Compute::Auto));
    }

    #[test]
    fn what_is_no_device_is_refused_with_what_to_write() {
        for (flags, advice) in [(["--device", "gpu"], "cuda:0"), (["--compute", "int8"], "bf16")] {
            let error = Flags::try_parse_from([&["up"], &flags[..]].concat()).unwrap_err().to_string();
            assert!(error.contains(flags[1]) && error.contains(advice), "{error}");
        }
    }
}
