//! What a node is: a class name, typed inputs and outputs, and a function.
//!
//! A signature is declared once, in the file of its node. Validation, the description for web
//! clients and the list of nodes are all read off it.

use serde_json::Value as Json;

use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::Rule;
use crate::inputs::{Inputs, NodeError};
use crate::preflight::PreflightCheck;
use crate::value::{Type, Value};

/// The largest width or height of a picture, in pixels.
pub const MAX_SIDE: i128 = 16384;

/// The largest seed: that of an unsigned 64-bit number.
pub const MAX_SEED: i128 = u64::MAX as i128;

/// A class of nodes.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// ComfyUI's class name: `class_type` in a prompt.
    pub class: &'static str,
    /// The name that a user sees.
    pub title: &'static str,
    /// Where a menu lists it: `sampling/custom_sampling`.
    pub category: &'static str,
    /// What it does, in a sentence or two.
    pub about: &'static str,
    /// The inputs, in the order of ComfyUI's widgets.
    pub inputs: &'static [Input],
    /// The outputs, by slot.
    pub outputs: &'static [Output],
    /// Whether a prompt may end here: what such nodes need is what runs.
    pub is_output: bool,
    /// What ComfyUI's node is given by the server, by name: here, part of the run's context.
    pub hidden: &'static [(&'static str, &'static str)],
    /// Whether ComfyUI has another node in its place.
    pub is_deprecated: bool,
    /// Whether ComfyUI calls it an experiment.
    pub is_experimental: bool,
    /// The work.
    pub run: fn(&mut Context<'_>, &Inputs) -> Result<Vec<Value>, NodeError>,
    /// What the result depends on besides the inputs: the state of a file. Part of the cache's key.
    pub fingerprint: Option<fn(&Environment, &Inputs) -> String>,
    /// What is known before a run of what comes out, and what is loaded and used for it. Nodes that load
    /// files, use models or change the size of what goes through them say so.
    pub forecast: Option<Rule>,
    /// A rule that no single input can tell: what is wrong, in words. Sees literal inputs only.
    pub check: Option<Check>,
    /// What is looked at before the first node of a run is run, where the prompt is sound so far.
    pub preflight: Option<PreflightCheck>,
    /// Which of the lazy inputs are asked for, by what is known of the others; `None` where that does not tell yet.
    pub lazy: Option<LazyInputs>,
    /// Whether it takes lists as they are. Any other node runs once for each value of a list.
    pub takes_lists: bool,
}

impl Node {
    /// A node with nothing in it, to be filled with `..Node::EMPTY`.
    pub const EMPTY: Node = Node {
        class: "",
        title: "",
        category: "",
        about: "",
        inputs: &[],
        outputs: &[],
        is_output: false,
        hidden: &[],
        is_deprecated: false,
        is_experimental: false,
        run: |_, _| Ok(Vec::new()),
        fingerprint: None,
        forecast: None,
        check: None,
        preflight: None,
        lazy: None,
        takes_lists: false,
    };

    /// The input of this name.
    pub fn input(&self, name: &str) -> Option<&'static Input> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// Whether models come out that do not come in.
    pub fn loads_models(&self) -> bool {
        let comes_in = |kind| self.inputs.iter().any(|input| input.kind.value_type() == kind);
        let models = [Type::Model, Type::Clip, Type::Vae, Type::UpscaleModel];
        self.outputs.iter().any(|out| models.contains(&out.kind) && !comes_in(out.kind))
    }
}

/// What ComfyUI gives a node that saves the workflow with its result.
pub const METADATA: &[(&str, &str)] = &[("prompt", "PROMPT"), ("extra_pnginfo", "EXTRA_PNGINFO")];

/// Says what is wrong with inputs, in words.
pub type Check = fn(&Environment, &Inputs) -> Result<(), String>;

/// The lazy inputs that are asked for, by what is known of the others.
pub type LazyInputs = fn(&Inputs) -> Option<Vec<&'static str>>;

/// One output slot of a node.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// What comes out.
    pub kind: Type,
    /// The slot's name.
    pub name: &'static str,
    /// What it is, for people.
    pub tooltip: &'static str,
    /// Whether a list comes out.
    pub is_list: bool,
}

impl Output {
    /// A slot named as its type.
    pub const fn new(kind: Type) -> Self {
        Self { kind, name: kind.name(), tooltip: "", is_list: false }
    }

    /// The same slot, out of which lists come.
    pub const fn list(self) -> Self {
        Self { is_list: true, ..self }
    }

    /// The same slot under another name.
    pub const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// The same slot with a word for people.
    pub const fn tooltip(self, tooltip: &'static str) -> Self {
        Self { tooltip, ..self }
    }
}

/// One input of a node.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// The name in a prompt.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether it may be left out.
    pub optional: bool,
    /// What it is for, for people.
    pub tooltip: &'static str,
    /// Whether ComfyUI's node once was without it, so that older files lack it.
    pub added_later: bool,
    /// Whether a client shows it among those that few need.
    pub advanced: bool,
    /// Whether what is linked to it runs only where the node asks for it.
    pub lazy: bool,
    /// The growing list of inputs that it is one of.
    pub growing: Option<&'static Growing>,
    /// The choice, and those of its values, that this input belongs to: it is not there for others.
    pub when: Option<(&'static str, &'static [&'static str])>,
    /// The name of a type that several inputs and outputs of a node share, whatever it is.
    pub shared_type: Option<&'static str>,
}

/// Inputs of one kind of which a client adds another as one is used: `values.a`, `values.b`, …
#[derive(Clone, Copy, Debug)]
pub struct Growing {
    /// The name before the dot.
    pub name: &'static str,
    /// What a client calls one of them.
    pub one: &'static str,
    /// Whether the names behind the dot are a list of their own, and not `one` with a number from 0.
    pub named: bool,
    /// How many there are at least.
    pub least: usize,
    /// Whether one of them may be left out.
    pub optional: bool,
}

/// What an input takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number.
    Int {
        /// The default.
        default: i128,
        /// The least.
        min: i128,
        /// The largest.
        max: i128,
        /// What a widget steps by. No rule.
        step: i128,
        /// Whether a client offers to change it after each run: seeds.
        control_after_generate: bool,
    },
    /// A number.
    Float {
        /// The default.
        default: f64,
        /// The least.
        min: f64,
        /// The largest.
        max: f64,
        /// What a widget steps by. No rule.
        step: f64,
        /// What a widget rounds to, where that is not its step; 0 is not at all.
        round: Option<f64>,
    },
    /// Text.
    String {
        /// The default.
        default: &'static str,
        /// Whether its widget has several lines.
        multiline: bool,
        /// Whether a client replaces `{a|b}` in it by one of both.
        dynamic_prompts: bool,
    },
    /// Yes or no.
    Boolean {
        /// The default.
        default: bool,
        /// What a widget calls yes and no, where it has names for them.
        labels: Option<(&'static str, &'static str)>,
    },
    /// One of a list.
    Choice {
        /// The list.
        options: Options,
        /// The default; without one, the first.
        default: Option<&'static str>,
    },
    /// Records that a client's editor makes, as JSON; none by default.
    Data(Type),
    /// What another node gives.
    Link(Type),
}

/// Where the list of a [`Kind::Choice`] comes from.
#[derive(Clone, Copy, Debug)]
pub enum Options {
    /// It is always the same.
    Fixed(&'static [&'static str]),
    /// It depends on the machine and its files: what is there now. Fixed names may be added after.
    Found(fn(&Environment) -> Vec<String>),
    /// Files that a prompt names: those on the list, and others that the node's check knows to
    /// find, such as ones in other folders.
    Files {
        /// Those that a client offers.
        list: fn(&Environment) -> Vec<String>,
        /// Whether a client may upload another picture.
        image_upload: bool,
    },
}

impl Options {
    /// The list as it is now.
    pub fn list(self, environment: &Environment) -> Vec<String> {
        match self {
            Options::Fixed(names) => names.iter().map(|&name| name.to_owned()).collect(),
            Options::Found(find) | Options::Files { list: find, .. } => find(environment),
        }
    }
}

impl Input {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            optional: false,
            tooltip: "",
            added_later: false,
            advanced: false,
            lazy: false,
            growing: None,
            when: None,
            shared_type: None,
        }
    }

    /// A whole number.
    pub const fn int(name: &'static str, default: i128, min: i128, max: i128) -> Self {
        let kind = Kind::Int { default, min, max, step: 1, control_after_generate: false };
        Self::new(name, kind)
    }

    /// The seed of noise.
    pub const fn seed(name: &'static str) -> Self {
        let (default, min, max) = (0, 0, MAX_SEED);
        let kind = Kind::Int { default, min, max, step: 1, control_after_generate: true };
        Self::new(name, kind)
    }

    /// A width or height in pixels, in steps of 8.
    pub const fn side(name: &'static str, default: i128, min: i128) -> Self {
        let (max, step) = (MAX_SIDE, 8);
        Self::new(name, Kind::Int { default, min, max, step, control_after_generate: false })
    }

    /// A number.
    pub const fn float(name: &'static str, default: f64, min: f64, max: f64, step: f64) -> Self {
        Self::new(name, Kind::Float { default, min, max, step, round: None })
    }

    /// One line of text.
    pub const fn string(name: &'static str, default: &'static str) -> Self {
        Self::new(name, Kind::String { default, multiline: false, dynamic_prompts: false })
    }

    /// A prompt: several lines of text.
    pub const fn prompt(name: &'static str) -> Self {
        Self::new(name, Kind::String { default: "", multiline: true, dynamic_prompts: true })
    }

    /// Yes or no.
    pub const fn boolean(name: &'static str, default: bool) -> Self {
        Self::new(name, Kind::Boolean { default, labels: None })
    }

    /// One of a fixed list; the first is the default.
    pub const fn choice(name: &'static str, options: &'static [&'static str]) -> Self {
        Self::new(name, Kind::Choice { options: Options::Fixed(options), default: None })
    }

    /// One of what the machine has; the first is the default.
    pub const fn found(name: &'static str, list: fn(&Environment) -> Vec<String>) -> Self {
        Self::new(name, Kind::Choice { options: Options::Found(list), default: None })
    }

    /// A file, which the node's check finds by its name.
    pub const fn file(name: &'static str, list: fn(&Environment) -> Vec<String>) -> Self {
        let options = Options::Files { list, image_upload: false };
        Self::new(name, Kind::Choice { options, default: None })
    }

    /// A picture, which the node's check finds by its name and which a client may upload.
    pub const fn uploaded(name: &'static str, list: fn(&Environment) -> Vec<String>) -> Self {
        let options = Options::Files { list, image_upload: true };
        Self::new(name, Kind::Choice { options, default: None })
    }

    /// Records that a client's editor makes.
    pub const fn data(name: &'static str, kind: Type) -> Self {
        Self::new(name, Kind::Data(kind))
    }

    /// What another node gives.
    pub const fn link(name: &'static str, kind: Type) -> Self {
        Self::new(name, Kind::Link(kind))
    }

    /// The same input, which may be left out.
    pub const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// The same input with a word for people.
    pub const fn tooltip(self, tooltip: &'static str) -> Self {
        Self { tooltip, ..self }
    }

    /// The same input, behind which nothing runs that the node does not ask for. It may be left out.
    pub const fn lazy(self) -> Self {
        Self { lazy: true, optional: true, ..self }
    }

    /// The same input, which is there only for these values of a choice. It may be left out.
    pub const fn when(self, choice: &'static str, values: &'static [&'static str]) -> Self {
        Self { when: Some((choice, values)), optional: true, ..self }
    }

    /// The same input, whose type is whatever others of this name have.
    pub const fn shared_type(self, name: &'static str) -> Self {
        Self { shared_type: Some(name), ..self }
    }

    /// The same input, one of a growing list.
    pub const fn one_of(self, growing: &'static Growing) -> Self {
        Self { growing: Some(growing), optional: true, ..self }
    }

    /// The same input, which ComfyUI's node has not had from the beginning.
    pub const fn added_later(self) -> Self {
        Self { added_later: true, ..self }
    }

    /// The same input, which few need.
    pub const fn advanced(self) -> Self {
        Self { advanced: true, ..self }
    }

    /// The default, where it does not depend on the machine.
    pub fn default_value(&self) -> Option<Json> {
        match self.kind {
            Kind::Int { default, .. } => {
                let small = i64::try_from(default).ok().map(Json::from);
                small.or_else(|| u64::try_from(default).ok().map(Json::from))
            }
            Kind::Float { default, .. } => Some(default.into()),
            Kind::String { default, .. } => Some(default.into()),
            Kind::Boolean { default, .. } => Some(default.into()),
            Kind::Choice { options: Options::Fixed(list), default } => {
                default.or_else(|| list.first().copied()).map(Json::from)
            }
            Kind::Choice { default, .. } => default.map(Json::from),
            Kind::Data(_) => Some(Json::Array(Vec::new())),
            Kind::Link(_) => None,
        }
    }

    /// The same input with another default of a choice.
    pub const fn default_choice(self, default: &'static str) -> Self {
        match self.kind {
            Kind::Choice { options, .. } => {
                Self { kind: Kind::Choice { options, default: Some(default) }, ..self }
            }
            _ => self,
        }
    }

    /// The same number, which a widget steps by `step`.
    pub const fn step(self, step: i128) -> Self {
        match self.kind {
            Kind::Int { default, min, max, control_after_generate, .. } => {
                Self { kind: Kind::Int { default, min, max, step, control_after_generate }, ..self }
            }
            _ => self,
        }
    }

    /// The same number, which a widget rounds.
    pub const fn round(self, round: f64) -> Self {
        match self.kind {
            Kind::Float { default, min, max, step, .. } => {
                Self { kind: Kind::Float { default, min, max, step, round: Some(round) }, ..self }
            }
            _ => self,
        }
    }

    /// The same number, which a widget does not round.
    pub const fn unrounded(self) -> Self {
        self.round(0.0)
    }

    /// The same whole number, which a client offers to change after each run.
    pub const fn control_after_generate(self) -> Self {
        match self.kind {
            Kind::Int { default, min, max, step, .. } => {
                let control_after_generate = true;
                Self { kind: Kind::Int { default, min, max, step, control_after_generate }, ..self }
            }
            _ => self,
        }
    }

    /// The same text, on several lines.
    pub const fn multiline(self) -> Self {
        match self.kind {
            Kind::String { default, dynamic_prompts, .. } => {
                Self { kind: Kind::String { default, multiline: true, dynamic_prompts }, ..self }
            }
            _ => self,
        }
    }

    /// The same switch with names for yes and no.
    pub const fn labels(self, yes: &'static str, no: &'static str) -> Self {
        match self.kind {
            Kind::Boolean { default, .. } => {
                Self { kind: Kind::Boolean { default, labels: Some((yes, no)) }, ..self }
            }
            _ => self,
        }
    }
}

impl Kind {
    /// The type of what the input takes.
    pub const fn value_type(&self) -> Type {
        match self {
            Kind::Int { .. } => Type::Int,
            Kind::Float { .. } => Type::Float,
            Kind::String { .. } => Type::String,
            Kind::Boolean { .. } => Type::Boolean,
            Kind::Choice { .. } => Type::Combo,
            Kind::Data(kind) | Kind::Link(kind) => *kind,
        }
    }
}
