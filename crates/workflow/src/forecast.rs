//! What is known of a run before anything of it has run: the files that it loads, the size of its
//! latents and pictures, and with that what each model has to do.
//!
//! Nodes that load files or change sizes have a [`Rule`], which says what comes out of them. Models, text
//! encoders and autoencoders go through every other node as they are; all else that comes out of one
//! without a rule is not known. What a rule finds wrong would go wrong in the run.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use distorch_allocation::LoaderSettings;
use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::source::ModelFiles;
use distorch_models::estimate::Workload;
use distorch_models::family;
use indexmap::IndexMap;

use crate::environment::Environment;
use crate::inputs::{Inputs, NodeError};
use crate::value::Value;
use distorch_pipeline::Latent;
use distorch_pipeline::models::{Loader, ModelFile, Task, Tasks, size_in_words};

/// The size of a batch, of latents in their own pixels or of pictures or masks in theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Of empty latents, the pixels to one of them, where samplers bring them to their model's.
    pub downscale: Option<usize>,
}

impl Extent {
    /// A batch of this number and size.
    pub fn new(batch: usize, [height, width]: [usize; 2]) -> Self {
        Self { batch, height, width, downscale: None }
    }

    /// Rows and columns.
    pub fn size(self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The same number in another size.
    pub fn sized(self, size: [usize; 2]) -> Self {
        Self::new(self.batch, size)
    }
}

/// A component of a file, and the node that loads it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The node's id.
    pub node: Arc<str>,
    /// The file.
    pub file: Arc<ModelFile>,
    /// Whether a negative prediction may be asked for, too; not where a guider is known to do without.
    pub is_guided: bool,
}

/// What is known of a value.
#[derive(Clone, Debug, Default)]
pub enum Known {
    /// Nothing.
    #[default]
    Nothing,
    /// All: a number, a text or a switch.
    Value(Box<Value>),
    /// The size of latents.
    Latent(Extent),
    /// The size of pictures.
    Image(Extent),
    /// The size of masks.
    Mask(Extent),
    /// Where a diffusion model comes from, guided or not.
    Model(Source),
    /// Where text encoders come from.
    Clip(Source),
    /// Where an autoencoder comes from.
    Vae(Source),
    /// Where a model comes from that enlarges pictures.
    Upscaler(Source),
    /// It will not be there, and why.
    Absent(Arc<str>),
}

impl Known {
    /// Latents of a size that is known, or not.
    pub fn latent(extent: Option<Extent>) -> Self {
        extent.map_or(Known::Nothing, Known::Latent)
    }

    /// Pictures of a size that is known, or not.
    pub fn image(extent: Option<Extent>) -> Self {
        extent.map_or(Known::Nothing, Known::Image)
    }

    /// Masks of a size that is known, or not.
    pub fn mask(extent: Option<Extent>) -> Self {
        extent.map_or(Known::Nothing, Known::Mask)
    }
}

/// Says what comes out of a node, slot by slot; slots that are left out are not known.
pub type Rule = fn(&Ahead<'_>) -> Result<Vec<Known>, NodeError>;

/// A file that a node will load from.
#[derive(Clone, Debug)]
pub struct Load {
    /// The name that the user gave.
    pub name: String,
    /// The file, or several that make one model.
    pub files: ModelFiles,
    /// Where each component goes.
    pub settings: LoaderSettings,
    /// The components that are wanted.
    pub kinds: &'static [ComponentKind],
    /// Keep layers that a LoRA changes in the compute dtype, instead of the checkpoint's.
    pub high_precision_loras: bool,
    /// Whether all other models leave first.
    pub eject_models: bool,
}

impl Load {
    /// The same for the store of models, with what the components are to do.
    pub fn loader(&self, tasks: Tasks) -> Loader<'_> {
        Loader {
            name: &self.name,
            files: &self.files,
            settings: &self.settings,
            kinds: self.kinds,
            high_precision_loras: self.high_precision_loras,
            eject_models: self.eject_models,
            tasks,
        }
    }
}

/// A node that will load from a file, and what for.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it loads.
    pub load: Load,
    /// The open file, kept open until the node has run.
    pub file: Arc<ModelFile>,
    /// What the components are to do.
    pub tasks: Tasks,
    /// The nodes that use a component, in the order of the run.
    pub used_by: Vec<String>,
}

impl Planned {
    /// What is planned for in place of a size that is not known before the run, in words.
    pub(crate) fn unknown_size(&self) -> Option<String> {
        let model = &self.file.model;
        let parts = [
            (ComponentKind::DiffusionModel, "sampled"),
            (ComponentKind::Vae, "converted"),
            (ComponentKind::Upscaler, "enlarged"),
        ];
        let (kind, done) = parts.into_iter().find(|(kind, _)| self.tasks.of(*kind).unknown)?;
        let size = size_in_words(self.tasks.workload(kind, model));
        let name = &self.load.name;
        Some(format!(
            "the size of a picture that is {done} with `{name}` is not known before the run: the plan \
             is for {size}"
        ))
    }
}

/// What is known of a run.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// The nodes that will load from files, by id.
    pub loads: IndexMap<String, Planned>,
    /// Which of their lazy inputs nodes ask for, by id, where that is known.
    pub(crate) chosen: HashMap<String, Vec<&'static str>>,
}

impl Forecast {
    /// What a node that loads a file loads it for.
    pub fn tasks(&self, node: &str) -> Tasks {
        self.loads.get(node).map(|planned| planned.tasks).unwrap_or_default()
    }
}

/// What a node sees of a run that is ahead.
pub struct Ahead<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) node: &'a str,
    /// Whether it will run, and not only give a result that is there already.
    pub(crate) runs: bool,
    /// Inputs whose values are known.
    pub(crate) inputs: Inputs,
    /// Inputs that are linked.
    pub(crate) links: HashMap<&'static str, Known>,
    pub(crate) forecast: &'a RefCell<Forecast>,
}

impl<'a> Ahead<'a> {
    /// What the run is given.
    pub fn environment(&self) -> &'a Environment {
        self.environment
    }

    /// The inputs whose values are known: those that are written in the prompt, and those that are linked
    /// to such values.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Whether an input will be given, known or not.
    pub fn has(&self, input: &str) -> bool {
        self.inputs.has(input) || self.links.contains_key(input)
    }

    /// What is known of a linked input.
    pub fn linked(&self, input: &str) -> Known {
        self.links.get(input).cloned().unwrap_or_default()
    }

    /// Whether something is linked whose value is not known yet.
    pub fn is_linked_to_unknown(&self) -> bool {
        !self.links.is_empty()
    }

    /// The size of latents, pictures or masks, where it is known.
    pub fn extent(&self, input: &str) -> Option<Extent> {
        match self.links.get(input)? {
            Known::Latent(extent) | Known::Image(extent) | Known::Mask(extent) => Some(*extent),
            _ => None,
        }
    }

    /// Where a model, text encoders or an autoencoder come from, where that is known.
    pub fn source(&self, input: &str) -> Option<Source> {
        match self.links.get(input)? {
            Known::Model(source)
            | Known::Clip(source)
            | Known::Vae(source)
            | Known::Upscaler(source) => Some(source.clone()),
            _ => None,
        }
    }

    /// The node will load from a file: returns where its components come from.
    pub fn loads(&self, load: Load, file: &Arc<ModelFile>) -> Source {
        let planned =
            Planned { load, file: Arc::clone(file), tasks: Tasks::default(), used_by: Vec::new() };
        self.forecast.borrow_mut().loads.insert(self.node.to_owned(), planned);
        Source { node: self.node.into(), file: Arc::clone(file), is_guided: true }
    }

    /// A component will be used.
    fn uses(&self, source: Option<&Source>, kind: ComponentKind, task: Task) {
        let Some(source) = source.filter(|_| self.runs) else { return };
        if let Some(planned) = self.forecast.borrow_mut().loads.get_mut(&*source.node) {
            planned.tasks.add(kind, task);
            if planned.used_by.last().is_none_or(|last| last != self.node) {
                planned.used_by.push(self.node.to_owned());
            }
        }
    }

    /// Whether the strength of the guidance is known to be 1, at which a sampler leaves the negative prediction out.
    fn is_unguided(&self) -> bool {
        matches!(self.inputs.float("cfg"), Ok(1.0))
    }

    /// What comes out of a guider of the input `model`.
    pub fn guided(&self, has_negative: bool) -> Known {
        match self.linked("model") {
            Known::Model(source) => {
                let is_guided = source.is_guided && has_negative && !self.is_unguided();
                Known::Model(Source { is_guided, ..source })
            }
            other => other,
        }
    }

    /// The model of an input will sample the latents of another, which come out in this size.
    pub fn samples(&self, model: &str, latents: &str) -> Option<Extent> {
        /// Pixels of a picture to one of a latent, where the model is not known.
        const DOWNSCALE: usize = 8;
        let source = self.source(model);
        let is_guided = source.as_ref().is_none_or(|source| source.is_guided);
        let cfg_batch = if is_guided && !self.is_unguided() { 2 } else { 1 };
        let diffusion = source.as_ref().and_then(|source| source.file.model.diffusion.as_ref());
        let downscale = diffusion.map_or(DOWNSCALE, |diffusion| {
            family::of(diffusion.family).latent_format(diffusion).downscale
        });
        let latent = self.extent(latents).map(|latent| match latent.downscale {
            Some(from) if diffusion.is_some() => {
                let size = latent.size().map(|side| Latent::rescaled(side, from, downscale));
                Extent { downscale: None, ..latent.sized(size) }
            }
            _ => latent,
        });
        let picture = latent.map(|latent| Workload {
            width: number(latent.width.saturating_mul(downscale)),
            height: number(latent.height.saturating_mul(downscale)),
            batch: number(latent.batch),
            cfg_batch,
        });
        self.uses(source.as_ref(), ComponentKind::DiffusionModel, Task::of(picture));
        latent
    }

    /// The text encoders of an input will encode a prompt without pictures.
    pub fn encodes_text(&self, clip: &str) {
        self.encodes_prompt(clip, Some(Workload::WORDS));
    }

    /// The text encoders of an input will encode a prompt with pictures, of sizes that are known or not.
    pub fn encodes_prompt(&self, clip: &str, prompt: Option<Workload>) {
        let source = self.source(clip);
        self.uses(source.as_ref(), ComponentKind::TextEncoders, Task::of(prompt));
    }

    /// The autoencoder of an input will convert pictures of this size in pixels, one after the other, tile
    /// by tile where there are tiles.
    pub fn converts(&self, vae: &str, size: Option<[usize; 2]>, tile: Option<usize>) {
        let most = tile.unwrap_or(usize::MAX);
        // A tile is no larger than it says, whatever the picture is.
        let size = size.or(tile.map(|tile| [tile; 2]));
        let picture = size.map(|[height, width]| Workload {
            width: number(width.min(most)),
            height: number(height.min(most)),
            batch: 1,
            cfg_batch: 1,
        });
        let source = self.source(vae);
        self.uses(source.as_ref(), ComponentKind::Vae, Task::of(picture));
    }

    /// The upscale model of an input will enlarge pictures, a piece of this size at a time.
    pub fn enlarges(&self, model: &str, piece: Option<Workload>) {
        let source = self.source(model);
        self.uses(source.as_ref(), ComponentKind::Upscaler, Task::of(piece));
    }

    /// Pixels to one of the latents of the autoencoder of an input, where it is known.
    pub fn downscale(&self, vae: &str) -> Option<usize> {
        let source = self.source(vae)?;
        let model = &source.file.model;
        let tiny = model.tiny_vae.as_ref().map(|_| distorch_models::tiny_vae::DOWNSCALE);
        tiny.or_else(|| model.vae.as_ref().map(distorch_checkpoint::config::VaeConfig::downscale))
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// What comes out is in number and size as what goes in at `input`.
pub(crate) fn same(ahead: &Ahead<'_>, input: &str) -> Vec<Known> {
    vec![ahead.linked(input)]
}
