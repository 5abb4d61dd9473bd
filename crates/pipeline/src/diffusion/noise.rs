//! Where the noise of a run comes from.

use distorch_allocation::DeviceInfo;
use distorch_runtime::tensor::{DType, cpu};
use distorch_runtime::{Tensor, devices};
pub use distorch_sampling::noise::NoiseDevice;
use distorch_sampling::noise::{batch_noise, latent_noise};

use crate::latent::Latent;

/// Where the noise of a run comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseSource {
    /// The seed, also of what noise a sampler puts in.
    pub seed: u64,
    /// Whether the run starts with noise; else the latent has its noise already.
    pub add: bool,
}

impl NoiseSource {
    /// The noise of a seed.
    pub const fn seed(seed: u64) -> Self {
        Self { seed, add: true }
    }

    /// Noise of the latent's shape, on the CPU.
    pub fn noise(self, latent: &Latent) -> Tensor<4> {
        let shape = latent.samples.dims();
        match &latent.batch_index {
            _ if !self.add => Tensor::zeros(shape, (&cpu(), DType::F32)),
            None => latent_noise(shape, self.seed, &cpu()),
            Some(index) => batch_noise(shape, self.seed, index, &cpu()),
        }
    }
}

/// Whose generator makes the noise that samplers add between steps.
///
/// ComfyUI draws it on the device that computes: from PyTorch's CPU generator there, and from the
/// GPU's else. With either the noise that a run starts from is the CPU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseChoice {
    /// As ComfyUI on the device that computes: CUDA's generator on an accelerator of any kind, the
    /// CPU's on the host. A simulated device computes on the host, so that a run that it takes part in
    /// has the picture of one without.
    #[default]
    ByDevice,
    /// Always this one.
    Always(NoiseDevice),
}

impl NoiseChoice {
    /// The generator for a run on this device.
    pub fn on(self, device: &DeviceInfo) -> NoiseDevice {
        match self {
            NoiseChoice::Always(noise) => noise,
            NoiseChoice::ByDevice if device.id.is_cpu() || device.simulated => NoiseDevice::Cpu,
            NoiseChoice::ByDevice => NoiseDevice::Cuda {
                blocks: devices::thread_blocks(device.id).unwrap_or(NoiseDevice::BLOCKS),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use distorch_allocation::DeviceId;

    use super::*;

    #[test]
    fn accelerators_have_cudas_noise_and_the_host_its_own() {
        let info = |name: &str| {
            DeviceInfo::new(name.parse::<DeviceId>().expect("a device's name"), "x", 1 << 30)
        };
        let cuda = NoiseDevice::Cuda { blocks: NoiseDevice::BLOCKS };
        let by_device = NoiseChoice::ByDevice;
        assert_eq!(by_device.on(&info("cpu")), NoiseDevice::Cpu);
        // No machine has the hundredth.
        for name in ["cuda:99", "rocm:99", "vulkan:99", "metal"] {
            assert_eq!(by_device.on(&info(name)), cuda, "{name}");
            let simulated = DeviceInfo { simulated: true, ..info(name) };
            assert_eq!(by_device.on(&simulated), NoiseDevice::Cpu, "{name}");
        }
        for noise in [NoiseDevice::Cpu, NoiseDevice::Cuda { blocks: 7 }] {
            for name in ["cpu", "cuda:99"] {
                assert_eq!(NoiseChoice::Always(noise).on(&info(name)), noise);
            }
        }
    }
}
