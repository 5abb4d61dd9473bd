//! The choice of a device for loaders.

use super::forms::MULTI_GPU;
use super::loading::devices_cpu_first;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// Returns the name of a device, for the device inputs of loaders.
pub const DEVICE_SELECTOR: Node = Node {
    class: "DeviceSelectorMultiGPU",
    title: "Device Selector (MultiGPU)",
    category: MULTI_GPU,
    about: "Returns the name of a device, for the device inputs of loaders.",
    inputs: &[Input::found("device", devices_cpu_first)],
    outputs: &[Output::new(Type::Device).named("device")],
    forecast: Some(|ahead| {
        let device = ahead.inputs().get("device").cloned();
        Ok(vec![
            device.map(|value| crate::forecast::Known::Value(Box::new(value))).unwrap_or_default(),
        ])
    }),
    run: |_, inputs| Ok(vec![Value::String(inputs.text("device")?.into())]),
    ..Node::EMPTY
};
