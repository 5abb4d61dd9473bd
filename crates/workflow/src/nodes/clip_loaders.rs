//! The loaders of text encoders that come without a diffusion model: one to four files, in any order.

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::family::Family;
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::source::{ModelFiles, Reading};
use distorch_pipeline::models::{Clip, ClipType, ModelFile};

use super::checkpoint::{DONOR, EXPERT, VIRTUAL_VRAM};
use super::file_state::file_state;
use super::forms::{DISTORCH2, MULTI_GPU, Place, check, on_device, spread, spread_out, whole};
use super::loading::{Files, ahead_of, compute_devices, devices_cpu_first, lacks, models, place};
use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// The text encoders that are there.
pub(super) fn text_encoders(environment: &Environment) -> Vec<String> {
    models(environment, ModelKind::TextEncoders)
}

pub(super) const CLIP_NAME: Input =
    Input::found("clip_name", text_encoders).tooltip("The name of the text encoder.");
pub(super) const FIRST: Input = Input::found("clip_name1", text_encoders);
pub(super) const SECOND: Input = Input::found("clip_name2", text_encoders);
pub(super) const THIRD: Input = Input::found("clip_name3", text_encoders);
pub(super) const FOURTH: Input = Input::found("clip_name4", text_encoders);

const TYPE_IN_WORDS: &str =
    "What the text encoder is for, where the same one serves several models.";

/// ComfyUI's types of single text encoders.
pub(super) const TYPE: Input = Input::choice(
    "type",
    &[
        "stable_diffusion",
        "stable_cascade",
        "sd3",
        "stable_audio",
        "mochi",
        "ltxv",
        "pixart",
        "cosmos",
        "lumina2",
        "wan",
        "hidream",
        "chroma",
        "ace",
        "omnigen2",
        "qwen_image",
        "hunyuan_image",
        "flux2",
        "ovis",
        "longcat_image",
        "cogvideox",
        "lens",
        "pixeldit",
        "ideogram4",
        "boogu",
        "krea2",
        "joyimage",
        "mage",
        "minimax",
        "yue2",
        "flux3",
        "moss_image",
        "fibo2",
    ],
)
.tooltip(TYPE_IN_WORDS);

/// ComfyUI's types of pairs.
pub(super) const TYPE_OF_TWO: Input = Input::choice(
    "type",
    &[
        "sdxl",
        "sd3",
        "flux",
        "hunyuan_video",
        "hidream",
        "hunyuan_image",
        "hunyuan_video_15",
        "kandinsky5",
        "kandinsky5_image",
        "ltxv",
        "newbie",
        "ace",
    ],
)
.tooltip(TYPE_IN_WORDS);

const DEVICE: Input = Input::choice("device", &["default", "cpu"])
    .optional()
    .advanced()
    .tooltip("The device that computes.");

const OUTPUT: &[Output] =
    &[Output::new(Type::Clip).tooltip("The text encoders used for encoding prompts.")];

/// How a loader differs from the others: its files, and the type where no input says it.
struct Loader {
    files: Files,
    kind: &'static str,
}

const ONE: Loader = Loader { files: files(&["clip_name"]), kind: "stable_diffusion" };
const TWO: Loader = Loader { files: files(&["clip_name1", "clip_name2"]), kind: "sdxl" };
const THREE: Loader =
    Loader { files: files(&["clip_name1", "clip_name2", "clip_name3"]), kind: "sd3" };
const FOUR: Loader = Loader {
    files: files(&["clip_name1", "clip_name2", "clip_name3", "clip_name4"]),
    kind: "hidream",
};

const fn files(inputs: &'static [&'static str]) -> Files {
    Files { inputs, find, components: &[ComponentKind::TextEncoders] }
}

/// The inputs that name files, of whichever loader.
const NAMES: [&str; 5] = ["clip_name", "clip_name1", "clip_name2", "clip_name3", "clip_name4"];

fn find(environment: &Environment, inputs: &Inputs) -> Result<(String, ModelFiles), NodeError> {
    let (mut names, mut paths) = (Vec::new(), Vec::new());
    for input in NAMES.into_iter().filter(|input| inputs.has(input)) {
        let name = inputs.text(input)?;
        let path = environment.session.folders.resolve(ModelKind::TextEncoders, name);
        paths.push(path.map_err(|error| NodeError::input(input, error))?);
        names.push(name);
    }
    Ok((names.join(" + "), ModelFiles { paths, reading: Reading::TextEncoders }))
}

fn state(environment: &Environment, inputs: &Inputs) -> String {
    let names = NAMES.into_iter().filter_map(|input| inputs.text(input).ok());
    names.map(|name| file_state(environment, ModelKind::TextEncoders, name)).collect()
}

impl Loader {
    /// The family that the encoders are for.
    fn family(&self, inputs: &Inputs, file: &ModelFile) -> Result<Family, NodeError> {
        let input = self.files.inputs.first().copied().unwrap_or_default();
        if file.model.text_encoders.is_empty() {
            return Err(NodeError::input(input, lacks(file, ComponentKind::TextEncoders)));
        }
        let (input, kind) = match inputs.text("type") {
            Ok(kind) => ("type", kind),
            Err(_) => (input, self.kind),
        };
        let family = ClipType(kind).family(&file.model.text_encoders);
        family.map_err(|error| NodeError::input(input, error))
    }

    fn run(
        &self,
        context: &mut Context<'_>,
        inputs: &Inputs,
        to: Place,
    ) -> Result<Vec<Value>, NodeError> {
        let settings = to(context.environment(), inputs)?;
        let parts = place(context, inputs, &self.files, settings, false)?;
        let family = self.family(inputs, &parts.file)?;
        let part = parts
            .get(ComponentKind::TextEncoders)
            .cloned()
            .ok_or_else(|| NodeError::failed(lacks(&parts.file, ComponentKind::TextEncoders)))?;
        Ok(vec![Value::Clip(Clip::of_family(part, family))])
    }

    fn ahead(&self, ahead: &Ahead<'_>, to: Place) -> Result<Vec<Known>, NodeError> {
        let settings = to(ahead.environment(), ahead.inputs())?;
        let Some((file, known)) = ahead_of(ahead, &self.files, settings, false)? else {
            return Ok(Vec::new());
        };
        if self.kind_is_known(ahead.inputs()) {
            self.family(ahead.inputs(), &file)?;
        }
        Ok(known)
    }

    /// Whether the type is not something that another node gives in the run.
    fn kind_is_known(&self, inputs: &Inputs) -> bool {
        inputs.has("type") || self.files.inputs.len() > 2
    }
}

/// A loader's three forms.
macro_rules! forms {
    ($loader:ident, $core:ident $class:literal $title:literal $about:literal, $on_device:ident $class2:literal,
     $spread:ident $class3:literal, [$($own:expr),*]; $($input:expr),*) => {
        #[doc = $about]
        pub const $core: Node = Node {
            class: $class,
            title: $title,
            category: "model/loaders",
            about: $about,
            inputs: &[$($input,)* $($own),*],
            outputs: OUTPUT,
            fingerprint: Some(state),
            forecast: Some(|ahead| $loader.ahead(ahead, whole)),
            run: |context, inputs| $loader.run(context, inputs, whole),
            ..Node::EMPTY
        };

        #[doc = concat!($about, " On a device.")]
        pub const $on_device: Node = Node {
            class: $class2,
            title: $class2,
            category: MULTI_GPU,
            inputs: on_device![$($input),*],
            ..$core
        };

        #[doc = concat!($about, " Spread over devices.")]
        pub const $spread: Node = Node {
            class: $class3,
            title: $class3,
            category: DISTORCH2,
            inputs: spread!["device", false; $($input),*],
            check: Some(check),
            forecast: Some(|ahead| $loader.ahead(ahead, spread_out)),
            run: |context, inputs| $loader.run(context, inputs, spread_out),
            ..$core
        };
    };
}

forms!(
    ONE,
    CLIP_LOADER "CLIPLoader" "Load CLIP" "Loads a text encoder from a file of its own.",
    CLIP_LOADER_MULTI_GPU "CLIPLoaderMultiGPU",
    CLIP_LOADER_DISTORCH2 "CLIPLoaderDisTorch2MultiGPU",
    [DEVICE]; CLIP_NAME, TYPE
);
forms!(
    TWO,
    DUAL_CLIP_LOADER "DualCLIPLoader" "DualCLIPLoader"
        "Loads text encoders from two files, in any order.",
    DUAL_CLIP_LOADER_MULTI_GPU "DualCLIPLoaderMultiGPU",
    DUAL_CLIP_LOADER_DISTORCH2 "DualCLIPLoaderDisTorch2MultiGPU",
    [DEVICE]; FIRST, SECOND, TYPE_OF_TWO
);
forms!(
    THREE,
    TRIPLE_CLIP_LOADER "TripleCLIPLoader" "TripleCLIPLoader"
        "Loads SD3's text encoders from three files, in any order.",
    TRIPLE_CLIP_LOADER_MULTI_GPU "TripleCLIPLoaderMultiGPU",
    TRIPLE_CLIP_LOADER_DISTORCH2 "TripleCLIPLoaderDisTorch2MultiGPU",
    []; FIRST, SECOND, THIRD
);
forms!(
    FOUR,
    QUADRUPLE_CLIP_LOADER "QuadrupleCLIPLoader" "QuadrupleCLIPLoader"
        "Loads text encoders from four files, in any order.",
    QUADRUPLE_CLIP_LOADER_MULTI_GPU "QuadrupleCLIPLoaderMultiGPU",
    QUADRUPLE_CLIP_LOADER_DISTORCH2 "QuadrupleCLIPLoaderDisTorch2MultiGPU",
    []; FIRST, SECOND, THIRD, FOURTH
);
