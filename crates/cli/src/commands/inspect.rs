//! `distorch inspect`.

use std::collections::BTreeMap;

use distorch_allocation::ByteSize;
use distorch_checkpoint::family::{self, Ignored, Model, trained_resolution};
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::{Checkpoint, Component, ComponentKind, Dtype};
use indexmap::IndexMap;
use serde::Serialize;

use super::{Table, print_json, print_text, recognise};
use crate::args::{InspectArgs, Shared};
use crate::error::CliError;
use crate::machine;
use crate::model_file;

/// Prints what a checkpoint is and what is in it.
pub fn run(shared: &Shared, args: &InspectArgs) -> Result<(), CliError> {
    let folders = machine::folders(shared)?;
    let path = model_file::path(&folders, ModelKind::Checkpoints, &args.checkpoint)?;
    let (checkpoint, model) = recognise(&path)?;
    let report = Report::new(&checkpoint, &model);
    if args.json {
        return print_json(&report.for_json(args.layers)?);
    }
    let mut text = report.text();
    if args.layers {
        text += &layers(&model.components);
    }
    print_text(&text)
}

/// What `inspect` prints.
#[derive(Serialize)]
struct Report<'a> {
    path: String,
    format: &'static str,
    file_bytes: u64,
    tensors: usize,
    label: String,
    family: Option<family::Family>,
    parameters: u64,
    /// Width and height of the pictures that it was trained on, where its metadata say so.
    trained_resolution: Option<[u32; 2]>,
    dtypes: BTreeMap<Dtype, Count>,
    sizes: Vec<Size>,
    missing: Vec<ComponentKind>,
    model: &'a Model,
    metadata: &'a IndexMap<String, String>,
}

/// Tensors and bytes in one dtype.
#[derive(Default, Serialize)]
struct Count {
    tensors: u64,
    bytes: u64,
}

/// How large a component is.
#[derive(Serialize)]
struct Size {
    component: ComponentKind,
    layers: usize,
    parameters: u64,
    bytes: u64,
    dtypes: BTreeMap<Dtype, Count>,
}

impl<'a> Report<'a> {
    fn new(checkpoint: &'a Checkpoint, model: &'a Model) -> Self {
        let sizes: Vec<Size> = model.components.iter().map(Size::new).collect();
        let mut dtypes = BTreeMap::<Dtype, Count>::new();
        for (_, tensor) in checkpoint.tensors() {
            dtypes.entry(tensor.dtype).or_default().add(tensor.bytes());
        }
        Self {
            path: checkpoint.path().display().to_string(),
            format: checkpoint.format().name(),
            file_bytes: checkpoint.file_len(),
            tensors: checkpoint.len(),
            label: model.label(),
            family: model.family(),
            parameters: sizes.iter().map(|size| size.parameters).sum(),
            trained_resolution: trained_resolution(checkpoint.metadata()),
            dtypes,
            sizes,
            missing: model.missing(),
            model,
            metadata: checkpoint.metadata(),
        }
    }

    /// The layers are most of the JSON and seldom wanted: only `--layers` prints them.
    fn for_json(&self, layers: bool) -> Result<serde_json::Value, CliError> {
        let mut json = serde_json::to_value(self).map_err(CliError::internal)?;
        if !layers && let Some(model) = json.get_mut("model").and_then(|m| m.as_object_mut()) {
            model.remove("components");
        }
        Ok(json)
    }

    fn text(&self) -> String {
        let made_for = |[width, height]: [u32; 2]| format!("  made for {width}×{height} pixels\n");
        let resolution = self.trained_resolution.map(made_for);
        let mut text = format!(
            "{}\n  {}\n  {}, {}, {} tensors, {} parameters\n{}\n",
            self.label,
            self.path,
            self.format,
            ByteSize(self.file_bytes),
            self.tensors,
            with_commas(self.parameters),
            resolution.unwrap_or_default(),
        );
        let header = ["Component", "Layers", "Parameters", "Bytes", "Dtypes"];
        let mut rows = Table::new(header, &[1, 2, 3]).optional(&[1, 2]);
        for size in &self.sizes {
            rows.add_row([
                component_name(size.component, self.model),
                size.layers.to_string(),
                with_commas(size.parameters),
                ByteSize(size.bytes).to_string(),
                dtype_names(&size.dtypes),
            ]);
        }
        text += &format!("{rows}\n");
        for kind in &self.missing {
            text += &format!("not in this file: {}\n", kind.title());
        }
        for (reason, count) in reasons(&self.model.ignored) {
            text += &format!("ignored: {count} tensors ({reason})\n");
        }
        for note in &self.model.notes {
            text += &format!("note: {note}\n");
        }
        if !self.model.unknown.is_empty() {
            text += &format!("unknown: {} tensors\n", self.model.unknown.len());
            for key in &self.model.unknown {
                text += &format!("  {key}\n");
            }
        }
        text
    }
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.tensors += 1;
        self.bytes += bytes;
    }
}

impl Size {
    fn new(component: &Component) -> Self {
        let mut dtypes = BTreeMap::<Dtype, Count>::new();
        for param in component.layers.iter().flat_map(|layer| &layer.params) {
            dtypes.entry(param.dtype).or_default().add(param.bytes());
        }
        Self {
            component: component.kind,
            layers: component.layers.len(),
            parameters: component.parameters(),
            bytes: component.bytes(),
            dtypes,
        }
    }
}

/// The dtypes, the one with most bytes first.
fn dtype_names(dtypes: &BTreeMap<Dtype, Count>) -> String {
    let mut sorted: Vec<_> = dtypes.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(count.bytes));
    sorted.iter().map(|(dtype, _)| dtype.name()).collect::<Vec<_>>().join(" ")
}

fn component_name(kind: ComponentKind, model: &Model) -> String {
    match kind {
        ComponentKind::TextEncoders => {
            let names: Vec<_> = model.text_encoders.iter().map(|encoder| encoder.name).collect();
            format!("{} ({})", kind.title(), names.join(", "))
        }
        _ => kind.title().to_owned(),
    }
}

/// How many tensors are ignored for each reason.
fn reasons(ignored: &[Ignored]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for tensor in ignored {
        *counts.entry(tensor.reason).or_insert(0) += 1;
    }
    counts
}

/// The layers of every component in definition order.
fn layers(components: &[Component]) -> String {
    let mut text = String::new();
    for component in components {
        let header = ["#", "Used", "Layer", "Kind", "Shape", "Dtype", "Bytes"];
        let mut rows = Table::new(header, &[0, 1, 6]).optional(&[1, 0, 5, 4, 3]);
        for (index, layer) in component.layers.iter().enumerate() {
            let first = layer.params.first();
            rows.add_row([
                index.to_string(),
                layer.use_index.to_string(),
                layer.name.clone(),
                if layer.head { format!("{} (head)", layer.kind) } else { layer.kind.to_string() },
                first.map_or_else(String::new, |param| format!("{:?}", param.shape)),
                first.map_or_else(String::new, |param| param.dtype.to_string()),
                layer.bytes().to_string(),
            ]);
        }
        text += &format!("\n{}\n{rows}\n", component.kind.title());
    }
    text
}

/// A number with commas between its thousands.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let head = digits.len() % 3;
    let (first, rest) = digits.split_at(head);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let first = (!first.is_empty()).then(|| first.to_owned());
    first.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::with_commas;

    #[test]
    fn thousands() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (859_520_964, "859,520,964")];
        for (number, text) in cases {
            assert_eq!(with_commas(number), text);
        }
    }
}
