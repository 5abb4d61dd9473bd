//! Where the components of a checkpoint live and compute, as a program says it.

use distorch_allocation::{
    Allocation, AllocationError, ComponentSettings, DeviceId, Donors, LayoutChoice, LoaderSettings,
    Topology, UnknownDevice, VirtualVram,
};
use thiserror::Error;

/// Where the components of a checkpoint live and compute. By default each is whole on the default device.
///
/// ```
/// use distorch_allocation::{Allocation, VirtualVram};
/// use distorch_pipeline::request::{ComponentPlacement, Placement};
///
/// // Text encoders on the CPU, the diffusion model on two GPUs.
/// let placement = Placement {
///     diffusion_model: ComponentPlacement {
///         expert: Allocation::parse("cuda:0,70%;cuda:1,30%")?,
///         ..ComponentPlacement::on("cuda:0".parse()?)
///     },
///     text_encoders: ComponentPlacement::on("cpu".parse()?),
///     vae: Some("cuda:0".parse()?),
/// };
/// // Or: 4 GB of the diffusion model in RAM, from where they come when they are needed.
/// let mut offloaded = Placement::on("cuda:0".parse()?);
/// offloaded.diffusion_model.virtual_vram = VirtualVram::gigabytes(4.0)?;
/// # assert_ne!(placement, offloaded);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The diffusion model.
    pub diffusion_model: ComponentPlacement,
    /// The text encoders.
    pub text_encoders: ComponentPlacement,
    /// The device of the autoencoder, which is whole on one; `None` is the default device.
    pub vae: Option<DeviceId>,
}

/// Where a component lives and computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentPlacement {
    /// The device that computes; `None` is the default device: the first accelerator, else `cpu`.
    pub device: Option<DeviceId>,
    /// How much of the weights leaves that device, unless `expert` says where they go.
    pub virtual_vram: VirtualVram,
    /// Who takes what leaves.
    pub donors: Donors,
    /// Who holds how much. Replaces virtual VRAM.
    pub expert: Option<Allocation>,
}

impl Default for ComponentPlacement {
    fn default() -> Self {
        let (donors, expert) = (Donors::default(), None);
        Self { device: None, virtual_vram: VirtualVram::ZERO, donors, expert }
    }
}

/// A placement that this machine cannot have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{component}, {problem}")]
pub struct PlacementError {
    /// The component, in words.
    pub component: &'static str,
    /// What is wrong with it, and which devices there are.
    pub problem: PlacementProblem,
}

/// What is wrong with the placement of a component.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlacementProblem {
    /// The device that is to compute is not there.
    #[error("compute device: {0}")]
    Device(UnknownDevice),
    /// A donor is not there.
    #[error("donor: {0}")]
    Donor(UnknownDevice),
    /// The allocation asks for what the machine does not have.
    #[error("expert allocation, {0}")]
    Allocation(AllocationError),
}

impl Placement {
    /// Every component whole on a device.
    pub fn on(device: DeviceId) -> Self {
        let component = ComponentPlacement::on(device);
        Self { diffusion_model: component.clone(), text_encoders: component, vae: Some(device) }
    }

    /// What the placement means on a machine.
    ///
    /// # Errors
    /// A device that is not there, and an allocation beyond what a device has.
    pub fn settings(
        &self,
        topology: &Topology,
        layout: LayoutChoice,
    ) -> Result<LoaderSettings, PlacementError> {
        let of = |component, placement: &ComponentPlacement| {
            let settings = placement.settings(topology, layout);
            settings.map_err(|problem| PlacementError { component, problem })
        };
        let vae = ComponentPlacement { device: self.vae, ..ComponentPlacement::default() };
        let vae = ComponentSettings { layout: LayoutChoice::default(), ..of("autoencoder", &vae)? };
        Ok(LoaderSettings {
            unet: of("diffusion model", &self.diffusion_model)?,
            clip: of("text encoders", &self.text_encoders)?,
            vae,
        })
    }
}

impl ComponentPlacement {
    /// All of the component on a device.
    pub fn on(device: DeviceId) -> Self {
        Self { device: Some(device), ..Self::default() }
    }

    fn settings(
        &self,
        topology: &Topology,
        layout: LayoutChoice,
    ) -> Result<ComponentSettings, PlacementProblem> {
        let device = self.device.unwrap_or_else(|| topology.default_compute());
        topology.get(device).map_err(PlacementProblem::Device)?;
        for donor in &self.donors.devices {
            topology.get(*donor).map_err(PlacementProblem::Donor)?;
        }
        if let Some(expert) = &self.expert {
            expert.check(topology).map_err(PlacementProblem::Allocation)?;
        }
        Ok(ComponentSettings {
            virtual_vram: self.virtual_vram,
            donors: self.donors.clone(),
            expert: self.expert.clone(),
            layout,
            ..ComponentSettings::new(device)
        })
    }
}

impl From<ComponentSettings> for ComponentPlacement {
    fn from(settings: ComponentSettings) -> Self {
        let ComponentSettings { compute_device, virtual_vram, donors, expert, .. } = settings;
        Self { device: Some(compute_device), virtual_vram, donors, expert }
    }
}

#[cfg(test)]
mod tests {
    use distorch_allocation::DeviceInfo;

    use super::*;

    fn machine() -> Topology {
        let host = DeviceInfo::new(DeviceId::CPU, "host", 64 << 30);
        Topology::new(vec![host]).unwrap().simulate("cuda:0=8GiB").unwrap()
    }

    #[test]
    fn by_default_all_is_whole_on_the_first_accelerator() {
        let settings = Placement::default().settings(&machine(), LayoutChoice::default()).unwrap();
        let cuda = ComponentSettings::new("cuda:0".parse().unwrap());
        assert_eq!((&settings.unet, &settings.clip, &settings.vae), (&cuda, &cuda, &cuda));
        let named = Placement::on("cuda:0".parse().unwrap());
        assert_eq!(named.settings(&machine(), LayoutChoice::default()).unwrap(), settings);
        assert_eq!(ComponentPlacement::from(cuda), named.diffusion_model);
    }

    #[test]
    fn what_is_not_there_is_named_with_its_component() {
        let error = |change: fn(&mut Placement)| {
            let mut placement = Placement::default();
            change(&mut placement);
            placement.settings(&machine(), LayoutChoice::default()).unwrap_err().to_string()
        };
        let text = error(|place| place.vae = Some("cuda:3".parse().unwrap()));
        assert_eq!(text, "autoencoder, compute device: no device `cuda:3`; present: cuda:0, cpu");
        let text =
            error(|place| place.text_encoders.donors = Donors::one("cuda:3".parse().unwrap()));
        assert!(text.starts_with("text encoders, donor: no device `cuda:3`"), "{text}");
        let text = error(|place| {
            place.diffusion_model.expert = Allocation::parse("cuda:0,50%;cuda:3,50%").unwrap();
        });
        assert!(text.starts_with("diffusion model, expert allocation, entry 2"), "{text}");
        assert!(text.contains("cuda:3"), "{text}");
    }
}
