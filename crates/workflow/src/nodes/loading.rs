//! What loaders share: the files that they read, where components go, and what comes out.

use std::sync::Arc;

use distorch_allocation::{
    ComponentInputs, LayoutChoice, LoaderInputs, LoaderSettings, Setting, VirtualVram,
};
use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::source::{ModelFiles, SourceError};
use distorch_pipeline::models::{Clip, Model, ModelFile, Parts, Vae};

use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::{Ahead, Known, Load};
use crate::inputs::{Inputs, NodeError};
use crate::observe::Event;
use crate::value::Value;

/// All components of a checkpoint.
pub(super) const ALL: &[ComponentKind] =
    &[ComponentKind::DiffusionModel, ComponentKind::TextEncoders, ComponentKind::Vae];

/// The checkpoints that are there.
pub(super) fn checkpoints(environment: &Environment) -> Vec<String> {
    models(environment, ModelKind::Checkpoints)
}

/// The models of a kind that are there.
pub(super) fn models(environment: &Environment, kind: ModelKind) -> Vec<String> {
    let listing = environment.session.folders.list(kind).unwrap_or_default();
    listing.entries.into_iter().map(|entry| entry.name).collect()
}

/// The devices, the default compute device first.
pub(super) fn compute_devices(environment: &Environment) -> Vec<String> {
    let first = environment.session.topology().default_compute();
    let mut ids = environment.session.topology().ids();
    ids.sort_by_key(|id| (*id != first, *id));
    ids.iter().map(ToString::to_string).collect()
}

/// The devices, `cpu` first.
pub(super) fn devices_cpu_first(environment: &Environment) -> Vec<String> {
    let mut ids = environment.session.topology().ids();
    ids.sort_by_key(|id| (!id.is_cpu(), *id));
    ids.iter().map(ToString::to_string).collect()
}

/// Reads gigabytes of virtual VRAM; the default where they are not given.
pub(super) fn gigabytes(
    inputs: &Inputs,
    name: &str,
    default: VirtualVram,
) -> Result<VirtualVram, NodeError> {
    let Ok(given) = inputs.float(name) else { return Ok(default) };
    VirtualVram::gigabytes(given).map_err(|error| NodeError::input(name, error))
}

/// Each component whole on its device; without one, on the default device.
pub(super) fn resident(
    unet: Option<String>,
    clip: Option<String>,
    vae: Option<String>,
) -> LoaderInputs {
    LoaderInputs {
        unet: ComponentInputs::whole_on(unet),
        clip: ComponentInputs::whole_on(clip),
        vae_device: vae,
        layout: LayoutChoice::default(),
    }
}

/// What an input is called that sets something of a component.
pub(super) type NameOf = fn(&str, Setting) -> String;

/// What the inputs of a loader mean on this machine.
///
/// # Errors
/// What cannot be, by the name that `name_of` gives its input.
pub(super) fn settings(
    environment: &Environment,
    inputs: LoaderInputs,
    name_of: NameOf,
) -> Result<LoaderSettings, String> {
    let inputs = LoaderInputs { layout: environment.session.layout, ..inputs };
    let settings = inputs.settings(environment.session.topology());
    settings.map_err(|error| error.named(&name_of(error.component, error.setting)))
}

/// The files that inputs name, and their name for people.
type FindFiles = fn(&Environment, &Inputs) -> Result<(String, ModelFiles), NodeError>;

/// What a loader node loads from.
pub(super) struct Files {
    /// The inputs that name files.
    pub(super) inputs: &'static [&'static str],
    /// The files, and their name for people.
    pub(super) find: FindFiles,
    /// The components that are wanted.
    pub(super) components: &'static [ComponentKind],
}

impl Files {
    /// A file that cannot be used is a matter of the input that names it.
    fn blame(&self, error: NodeError) -> NodeError {
        match error {
            NodeError::Failed(error) if error.is::<SourceError>() => {
                NodeError::input(self.inputs.first().copied().unwrap_or_default(), error)
            }
            other => other,
        }
    }
}

/// The one file that an input names.
pub(super) fn one_file(
    environment: &Environment,
    inputs: &Inputs,
    folder: ModelKind,
    input: &str,
) -> Result<(String, ModelFiles), NodeError> {
    let name = inputs.text(input)?;
    let path = environment.session.folders.resolve(folder, name);
    let path = path.map_err(|error| NodeError::input(input, error))?;
    Ok((name.to_owned(), path.into()))
}

/// Plans the components of files and tells how. `ejects` is whether other models leave where `eject_models` is not
/// given.
pub(super) fn place(
    context: &Context<'_>,
    inputs: &Inputs,
    files: &Files,
    settings: LoaderSettings,
    ejects: bool,
) -> Result<Parts, NodeError> {
    let load = load_of(context.environment(), inputs, files, settings, ejects)?;
    let tasks = context.tasks();
    let placed = context.run().place(&load.loader(tasks));
    let parts = placed.map_err(|error| files.blame(error.into()))?;
    let (node, plans) = (context.node(), parts.plans());
    context.tell(Event::Planned { node, model: &load.name, tasks: &tasks, plans: &plans });
    Ok(parts)
}

/// What a loader node loads, and how.
fn load_of(
    environment: &Environment,
    inputs: &Inputs,
    wanted: &Files,
    settings: LoaderSettings,
    ejects: bool,
) -> Result<Load, NodeError> {
    let (name, files) = (wanted.find)(environment, inputs)?;
    Ok(Load {
        name,
        files,
        settings,
        kinds: wanted.components,
        high_precision_loras: inputs.boolean("high_precision_loras").unwrap_or(true),
        eject_models: inputs.boolean("eject_models").unwrap_or(ejects),
    })
}

/// Files that a node will load, and what will come out of the node.
pub(super) type FilesAhead = (Arc<ModelFile>, Vec<Known>);

/// The files that a node will load and what will come out, component by component; `None` where it is not known which
/// files.
pub(super) fn ahead_of(
    ahead: &Ahead<'_>,
    files: &Files,
    settings: LoaderSettings,
    ejects: bool,
) -> Result<Option<FilesAhead>, NodeError> {
    if files.inputs.iter().any(|input| !ahead.inputs().has(input)) {
        return Ok(None);
    }
    let load = load_of(ahead.environment(), ahead.inputs(), files, settings, ejects)?;
    let opened = ahead.environment().session.models.open(&load.name, &load.files);
    let opened = opened.map_err(|error| files.blame(error.into()))?;
    let source = ahead.loads(load, &opened);
    let known = |kind: &ComponentKind| {
        let source = source.clone();
        match kind {
            _ if opened.model.component(*kind).is_none() => {
                Known::Absent(lacks(&opened, *kind).into())
            }
            ComponentKind::DiffusionModel => Known::Model(source),
            ComponentKind::TextEncoders => Known::Clip(source),
            ComponentKind::Vae => Known::Vae(source),
            ComponentKind::Upscaler => Known::Upscaler(source),
        }
    };
    let known = files.components.iter().map(known).collect();
    Ok(Some((opened, known)))
}

/// As [`ahead_of`], of a loader whose first component must be there.
pub(super) fn all_ahead(
    ahead: &Ahead<'_>,
    files: &Files,
    settings: LoaderSettings,
    ejects: bool,
) -> Result<Vec<Known>, NodeError> {
    let Some((_, known)) = ahead_of(ahead, files, settings, ejects)? else {
        return Ok(Vec::new());
    };
    if let Some(Known::Absent(problem)) = known.first() {
        return Err(NodeError::input(files.inputs.first().copied().unwrap_or_default(), problem));
    }
    Ok(known)
}

/// A checkpoint without text encoders or VAE gives the rest, as ComfyUI does; one without a diffusion
/// model is none. `input` names the file.
pub(super) fn outputs(
    context: &Context<'_>,
    parts: &Parts,
    input: &str,
) -> Result<Vec<Value>, NodeError> {
    let part =
        |kind: ComponentKind| parts.get(kind).cloned().ok_or_else(|| lacks(&parts.file, kind));
    let model =
        part(ComponentKind::DiffusionModel).map_err(|problem| NodeError::input(input, problem))?;
    let absent = |problem: String| {
        context.warn(&problem);
        Value::Absent(problem.into())
    };
    let clip = match part(ComponentKind::TextEncoders) {
        Ok(part) => Value::Clip(Clip::new(part)?),
        Err(problem) => absent(problem),
    };
    let vae = match part(ComponentKind::Vae) {
        Ok(part) => Value::Vae(Vae::new(part)?),
        Err(problem) => absent(problem),
    };
    Ok(vec![Value::Model(Model::new(model)?), clip, vae])
}

/// What a file lacks, and the way out.
pub(super) fn lacks(file: &ModelFile, kind: ComponentKind) -> String {
    let way_out = match kind {
        ComponentKind::Vae => "; load one with VAELoader",
        _ => "",
    };
    let (name, label) = (&file.name, file.model.label());
    format!("`{name}` has no {}; it is {label}{way_out}", distorch_pipeline::models::in_words(kind))
}

/// The settings of a loader of one component, whichever it is.
pub(super) fn component_settings(
    environment: &Environment,
    component: ComponentInputs,
    name_of: NameOf,
) -> Result<LoaderSettings, String> {
    let inputs = LoaderInputs { unet: component, ..resident(None, None, None) };
    let settings = settings(environment, inputs, name_of)?;
    Ok(LoaderSettings { clip: settings.unet.clone(), vae: settings.unet.clone(), ..settings })
}
