//! The inputs of the node `CheckpointLoaderAdvancedDisTorch2MultiGPU` that say where a checkpoint's
//! three components go, as users write them.

use std::fmt::Display;

use thiserror::Error;

use crate::device::DeviceId;
use crate::language::Allocation;
use crate::layout_choice::LayoutChoice;
use crate::planner::ComponentSettings;
use crate::topology::{Topology, UnknownDevice};
use crate::virtual_vram::{Donors, VirtualVram};

/// The node's inputs. [`Default`] has its defaults.
///
/// A device that is `None` is the first accelerator, else `cpu`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the node's
pub struct LoaderInputs {
    pub unet_compute_device: Option<String>,
    pub unet_virtual_vram_gb: String,
    pub unet_donor_device: String,
    pub clip_compute_device: Option<String>,
    pub clip_virtual_vram_gb: String,
    pub clip_donor_device: String,
    pub vae_device: Option<String>,
    pub unet_expert_mode_allocations: String,
    pub clip_expert_mode_allocations: String,
    /// How blocks are chosen, for the diffusion model and the text encoders.
    pub layout: LayoutChoice,
}

impl Default for LoaderInputs {
    fn default() -> Self {
        LoaderInputs {
            unet_compute_device: None,
            unet_virtual_vram_gb: "4.0".to_owned(),
            unet_donor_device: "cpu".to_owned(),
            clip_compute_device: Some("cpu".to_owned()),
            clip_virtual_vram_gb: "2.0".to_owned(),
            clip_donor_device: "cpu".to_owned(),
            vae_device: None,
            unet_expert_mode_allocations: String::new(),
            clip_expert_mode_allocations: String::new(),
            layout: LayoutChoice::default(),
        }
    }
}

/// What the inputs mean on a machine, component by component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderSettings {
    /// The diffusion model.
    pub unet: ComponentSettings,
    /// The text encoders.
    pub clip: ComponentSettings,
    /// The VAE, which is all on its device.
    pub vae: ComponentSettings,
}

/// An input that cannot be, by name. Prints as `` `vae_device`: no device `cuda:3`; … ``.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{input}`{separator}{problem}")]
pub struct InputError {
    /// The input's name.
    pub input: &'static str,
    /// What is wrong with it, with the place in it where there is one.
    pub problem: String,
    /// The device that the machine does not have, where that is the problem.
    pub unknown_device: Option<UnknownDevice>,
    separator: &'static str,
}

impl InputError {
    fn new(input: &'static str, problem: impl Display) -> Self {
        InputError { input, problem: problem.to_string(), unknown_device: None, separator: ": " }
    }

    /// A problem that starts with its place: `, entry 2, character 12: …`.
    fn at_place(input: &'static str, problem: impl Display) -> Self {
        InputError { separator: ", ", ..InputError::new(input, problem) }
    }

    fn unknown(input: &'static str, device: UnknownDevice) -> Self {
        InputError { unknown_device: Some(device.clone()), ..InputError::new(input, device) }
    }
}

impl LoaderInputs {
    /// What the inputs mean on this machine. Everything that is wrong with them is found here,
    /// before a file is opened.
    ///
    /// # Errors
    /// The first input that cannot be.
    pub fn settings(&self, topology: &Topology) -> Result<LoaderSettings, InputError> {
        let unet = Component {
            compute_device: ("unet_compute_device", self.unet_compute_device.as_deref()),
            virtual_vram: ("unet_virtual_vram_gb", &self.unet_virtual_vram_gb),
            donors: ("unet_donor_device", &self.unet_donor_device),
            expert: ("unet_expert_mode_allocations", &self.unet_expert_mode_allocations),
        };
        let clip = Component {
            compute_device: ("clip_compute_device", self.clip_compute_device.as_deref()),
            virtual_vram: ("clip_virtual_vram_gb", &self.clip_virtual_vram_gb),
            donors: ("clip_donor_device", &self.clip_donor_device),
            expert: ("clip_expert_mode_allocations", &self.clip_expert_mode_allocations),
        };
        let vae_device = ("vae_device", self.vae_device.as_deref());
        Ok(LoaderSettings {
            unet: unet.settings(topology, self.layout)?,
            clip: clip.settings(topology, self.layout)?,
            vae: ComponentSettings::new(compute_device(vae_device, topology)?),
        })
    }
}

/// The inputs of one component, each with its name.
struct Component<'a> {
    compute_device: (&'static str, Option<&'a str>),
    virtual_vram: (&'static str, &'a str),
    donors: (&'static str, &'a str),
    expert: (&'static str, &'a str),
}

impl Component<'_> {
    fn settings(
        &self,
        topology: &Topology,
        layout: LayoutChoice,
    ) -> Result<ComponentSettings, InputError> {
        let (input, text) = self.virtual_vram;
        let virtual_vram: VirtualVram =
            text.parse().map_err(|error| InputError::new(input, error))?;
        Ok(ComponentSettings {
            compute_device: compute_device(self.compute_device, topology)?,
            virtual_vram,
            donors: self.donors(topology)?,
            expert: self.expert(topology)?,
            layout,
            most_window: None,
        })
    }

    fn donors(&self, topology: &Topology) -> Result<Donors, InputError> {
        let (input, text) = self.donors;
        let donors: Donors = text.parse().map_err(|error| InputError::new(input, error))?;
        for &device in &donors.devices {
            topology.get(device).map_err(|device| InputError::unknown(input, device))?;
        }
        Ok(donors)
    }

    fn expert(&self, topology: &Topology) -> Result<Option<Allocation>, InputError> {
        let (input, text) = self.expert;
        let wrong = |error| InputError::at_place(input, error);
        let allocation = Allocation::parse(text).map_err(wrong)?;
        if let Some(allocation) = &allocation {
            allocation.check(topology).map_err(|error| {
                let unknown_device = match &error.problem {
                    crate::language::AllocationProblem::Unknown(device) => Some(device.clone()),
                    _ => None,
                };
                InputError { unknown_device, ..wrong(error) }
            })?;
        }
        Ok(allocation)
    }
}

fn compute_device(
    (input, text): (&'static str, Option<&str>),
    topology: &Topology,
) -> Result<DeviceId, InputError> {
    let Some(text) = text else { return Ok(topology.default_compute()) };
    let device: DeviceId = text.parse().map_err(|error| InputError::new(input, error))?;
    let known = topology.get(device).map_err(|device| InputError::unknown(input, device))?;
    Ok(known.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::DeviceInfo;

    fn machine() -> Topology {
        Topology::new(vec![DeviceInfo::new(DeviceId::CPU, "host", 64 << 30)])
            .unwrap()
            .simulate("cuda:0=24GiB,cuda:1=8GiB")
            .unwrap()
    }

    #[test]
    fn the_defaults_are_the_nodes() {
        let settings = LoaderInputs::default().settings(&machine()).unwrap();
        assert_eq!(settings.unet.compute_device.to_string(), "cuda:0");
        assert_eq!(settings.unet.virtual_vram, VirtualVram::gigabytes(4.0).unwrap());
        assert_eq!(settings.unet.donors, Donors::one(DeviceId::CPU));
        assert_eq!(settings.clip.compute_device, DeviceId::CPU);
        assert_eq!(settings.clip.virtual_vram, VirtualVram::gigabytes(2.0).unwrap());
        assert_eq!(settings.vae.compute_device.to_string(), "cuda:0");
        assert_eq!(settings.vae.virtual_vram, VirtualVram::ZERO);
        assert_eq!((settings.unet.expert, settings.clip.expert), (None, None));
    }

    #[test]
    fn an_error_names_the_input_and_the_place() {
        let inputs = |change: fn(&mut LoaderInputs)| {
            let mut inputs = LoaderInputs::default();
            change(&mut inputs);
            inputs.settings(&machine()).unwrap_err()
        };
        let error = inputs(|i| i.unet_expert_mode_allocations = "cuda:0,50%;cuda:3,50%".into());
        assert_eq!(
            error.to_string(),
            "`unet_expert_mode_allocations`, entry 2, character 12: no device `cuda:3`; \
             present: cuda:0, cuda:1, cpu"
        );
        assert!(error.unknown_device.is_some());
        let error = inputs(|i| i.vae_device = Some("cuda:7".into()));
        assert_eq!(
            error.to_string(),
            "`vae_device`: no device `cuda:7`; present: cuda:0, cuda:1, cpu"
        );
        let error = inputs(|i| i.clip_virtual_vram_gb = "129".into());
        assert!(error.to_string().starts_with("`clip_virtual_vram_gb`: "), "{error}");
        assert!(error.to_string().contains("128.0"), "{error}");
        let error = inputs(|i| i.clip_donor_device = "cpu,tpu:0".into());
        assert!(error.to_string().starts_with("`clip_donor_device`: "), "{error}");
    }
}
