//! The forms of ComfyUI-MultiGPU's loaders: the inputs that each adds to those of ComfyUI's node.

use distorch_allocation::{ComponentInputs, LoaderInputs, LoaderSettings, Setting, VirtualVram};

use super::loading::{component_settings, gigabytes};
use crate::environment::Environment;
use crate::inputs::{Inputs, NodeError};

/// Where nodes whose model is whole on one device are listed.
pub(super) const MULTI_GPU: &str = "multigpu";
/// Where nodes that spread a model are listed.
pub(super) const DISTORCH2: &str = "multigpu/distorch_2";
/// Where the older forms are listed that spread a model.
pub(super) const LEGACY: &str = "multigpu/legacy";

pub(super) const GIGABYTES: f64 = LoaderInputs::UNET_GIGABYTES.to_f64();

/// The inputs of a node with a device more.
macro_rules! on_device {
    ($($input:expr),*) => {
        &[
            $($input,)*
            Input::found("device", compute_devices).optional().tooltip("The device."),
        ]
    };
}

/// The inputs of a node with those that spread a model; `$device` names the device that computes.
macro_rules! spread {
    ($device:literal, $ejects:literal; $($input:expr),*) => {
        &[
            $($input,)*
            Input::found($device, compute_devices)
                .optional()
                .tooltip("The device that computes the model."),
            Input::float("virtual_vram_gb", $crate::nodes::forms::GIGABYTES, 0.0, 128.0, 0.1)
                .optional()
                .tooltip(VIRTUAL_VRAM),
            Input::found("donor_device", devices_cpu_first).optional().tooltip(DONOR),
            Input::string("expert_mode_allocations", "").optional().tooltip(EXPERT),
            Input::boolean("eject_models", $ejects)
                .optional()
                .tooltip("Unload all other models from the devices first."),
        ]
    };
}

pub(super) use {on_device, spread};

/// Where a loader's inputs put a component.
pub(super) type Place = fn(&Environment, &Inputs) -> Result<LoaderSettings, NodeError>;

/// Whole on the default device.
pub(super) fn by_default(
    environment: &Environment,
    _: &Inputs,
) -> Result<LoaderSettings, NodeError> {
    placed(environment, ComponentInputs::whole_on(None))
}

/// Whole on the device of the input `device`; `default` of ComfyUI's text encoders is the default device.
pub(super) fn whole(
    environment: &Environment,
    inputs: &Inputs,
) -> Result<LoaderSettings, NodeError> {
    let device = inputs.text("device").ok().filter(|device| *device != "default");
    placed(environment, ComponentInputs::whole_on(device.map(str::to_owned)))
}

/// Spread as the inputs say; a text encoder's device is its `device`.
pub(super) fn spread_out(
    environment: &Environment,
    inputs: &Inputs,
) -> Result<LoaderSettings, NodeError> {
    let device = inputs.text("compute_device").or_else(|_| inputs.text("device"));
    let text = |name: &str, default: &str| inputs.text(name).unwrap_or(default).to_owned();
    let default = VirtualVram::Gigabytes(LoaderInputs::UNET_GIGABYTES);
    let component = ComponentInputs {
        compute_device: device.ok().map(str::to_owned),
        virtual_vram: gigabytes(inputs, "virtual_vram_gb", default)?,
        donors: text("donor_device", "cpu"),
        allocation: text("expert_mode_allocations", ""),
    };
    placed(environment, component)
}

fn placed(
    environment: &Environment,
    component: ComponentInputs,
) -> Result<LoaderSettings, NodeError> {
    component_settings(environment, component, input_name).map_err(NodeError::failed)
}

/// What the inputs of these forms are called.
pub(super) fn input_name(_: &str, setting: Setting) -> String {
    let name = match setting {
        Setting::ComputeDevice => "compute_device",
        Setting::VirtualVram => "virtual_vram_gb",
        Setting::Donors => "donor_device",
        Setting::Allocation => "expert_mode_allocations",
    };
    name.to_owned()
}

/// Whether the inputs can be on this machine.
pub(super) fn check(environment: &Environment, inputs: &Inputs) -> Result<(), String> {
    spread_out(environment, inputs).map(drop).map_err(|error| error.to_string())
}
