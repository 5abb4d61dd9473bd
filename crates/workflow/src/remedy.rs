//! Settings of components and what helps against a lack of memory, by the names of the loaders' inputs.

use distorch_allocation::{InputError, Setting};
use distorch_pipeline::error::{PipelineError, chain};
use distorch_pipeline::models::CannotFit;
use distorch_runtime::machine::Remedy;

/// The input of `CheckpointLoaderAdvancedDisTorch2MultiGPU` for a setting of a component.
pub fn input_name(component: &str, setting: Setting) -> String {
    match setting {
        Setting::ComputeDevice if component == "vae" => "vae_device".to_owned(),
        Setting::ComputeDevice => format!("{component}_compute_device"),
        Setting::VirtualVram => format!("{component}_virtual_vram_gb"),
        Setting::Donors => format!("{component}_donor_device"),
        Setting::Allocation => format!("{component}_expert_mode_allocations"),
    }
}

/// A setting that cannot be, by the name of its input.
pub fn input_error(error: &InputError) -> String {
    error.named(&input_name(error.component, error.setting))
}

/// The input with the value that fits, such as `unet_virtual_vram_gb 0.1`; `None` where no input helps.
pub fn setting(remedy: &Remedy) -> Option<String> {
    match remedy {
        Remedy::VirtualVram { component, gigabytes, .. } => {
            let input = input_name(component, Setting::VirtualVram);
            Some(format!("{input} {:.1}", gigabytes.to_f64()))
        }
        Remedy::Allocation { component, allocation } => {
            let input = input_name(component, Setting::Allocation);
            Some(format!("{input} \"{allocation}\""))
        }
        _ => None,
    }
}

/// What to do.
pub fn in_words(remedy: &Remedy) -> String {
    match remedy {
        Remedy::VirtualVram { component, replaces_allocation: true, .. } => {
            let setting = setting(remedy).unwrap_or_default();
            format!("{setting} would fit without {component}_expert_mode_allocations")
        }
        Remedy::Tiles => "convert it in tiles (VAEDecodeTiled, VAEEncodeTiled), make a smaller picture, \
                          compute the VAE on another device (vae_device), or leave it to --auto-retry"
            .to_owned(),
        Remedy::OtherDevice { component } => format!(
            "compute the text encoders on another device ({component}_compute_device), or take smaller ones"
        ),
        _ => match setting(remedy) {
            Some(setting) => format!("{setting} would fit"),
            None => remedy.to_string(),
        },
    }
}

/// A failure for lack of memory with what to do; `None` for other failures.
pub fn told(error: &PipelineError) -> Option<String> {
    let remedy = error.remedy()?;
    let (what, mut words) = (chain(error), in_words(&remedy));
    if let PipelineError::Failed(inner) = error
        && let Some(short) = inner.downcast_ref::<CannotFit>()
    {
        if setting(&remedy).is_some() {
            words.push_str(" (an input of CheckpointLoaderAdvancedDisTorch2MultiGPU); or make a smaller picture");
        }
        if let Some(limit) = short.limit {
            words = format!("{words}, or raise {limit}");
        }
    }
    Some(format!("{what}; {words}"))
}

#[cfg(test)]
mod tests {
    use distorch_allocation::{Allocation, DeviceId, DeviceInfo, LoaderInputs, Number, Topology};

    use super::*;

    #[test]
    fn settings_that_cannot_be_are_named_by_their_input() {
        let machine = Topology::new(vec![DeviceInfo::new(DeviceId::CPU, "host", 1 << 30)]).unwrap();
        let mut inputs = LoaderInputs::default();
        inputs.clip.allocation = "cpu,50%;cuda:3,50%".to_owned();
        assert_eq!(
            input_error(&inputs.settings(&machine).unwrap_err()),
            "`clip_expert_mode_allocations`, entry 2, character 9: no device `cuda:3`; present: cpu"
        );
        let inputs = LoaderInputs { vae_device: Some("cuda:7".to_owned()), ..Default::default() };
        assert_eq!(
            input_error(&inputs.settings(&machine).unwrap_err()),
            "`vae_device`: no device `cuda:7`; present: cpu"
        );
    }

    #[test]
    fn remedies_name_the_inputs_that_help() {
        let component = || "unet".to_owned();
        let gigabytes = Number::from_tenths(15);
        let more = |replaces_allocation| Remedy::VirtualVram {
            component: component(),
            gigabytes,
            replaces_allocation,
        };
        assert_eq!(in_words(&more(false)), "unet_virtual_vram_gb 1.5 would fit");
        assert_eq!(
            in_words(&more(true)),
            "unet_virtual_vram_gb 1.5 would fit without unet_expert_mode_allocations"
        );
        let device: DeviceId = "cuda:0".parse().unwrap();
        let allocation = Allocation::ceiling_beside_cpu(device, 3 << 20).unwrap();
        assert_eq!(
            in_words(&Remedy::Allocation { component: component(), allocation }),
            "unet_expert_mode_allocations \"cuda:0,3mb;cpu,*\" would fit"
        );
        assert!(in_words(&Remedy::Donor { device }).starts_with("give cuda:0 less"));
        assert!(in_words(&Remedy::Tiles).contains("vae_device"));
        assert_eq!(setting(&Remedy::LessWork), None);
    }
}
