//! Every node of this program: one table, which validation, clients and `distorch nodes` read.

pub mod describe;

mod checkpoint;
mod elsewhere;
mod latent_empty;
mod sampling;
mod save_image;
mod text_encode;
mod vae;

pub use elsewhere::known_elsewhere;
pub use save_image::eight_bit;

use std::path::Path;

use distorch_checkpoint::folders::ModelKind;

use crate::environment::Environment;
use crate::signature::Node;

/// All nodes, as menus list them.
pub const NODES: &[&Node] = &[
    &checkpoint::ADVANCED_DISTORCH2,
    &checkpoint::SIMPLE_DISTORCH2,
    &checkpoint::ADVANCED_MULTI_GPU,
    &checkpoint::SIMPLE_MULTI_GPU,
    &checkpoint::SIMPLE,
    &text_encode::CLIP_TEXT_ENCODE,
    &latent_empty::EMPTY_LATENT_IMAGE,
    &sampling::K_SAMPLER,
    &sampling::K_SAMPLER_ADVANCED,
    &vae::DECODE,
    &vae::ENCODE,
    &save_image::SAVE_IMAGE,
    &save_image::PREVIEW_IMAGE,
];

/// The node of a class.
pub fn find(class: &str) -> Option<&'static Node> {
    NODES.iter().find(|node| node.class == class).copied()
}

/// The class whose name is nearest to one that is not there.
pub fn near(class: &str) -> Option<&'static str> {
    let likeness = |node: &&&Node| strsim::jaro_winkler(class, node.class);
    let nearest = NODES.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&nearest) > 0.85).then_some(nearest.class)
}

/// A model file's place, size and date, for the key of a loader's result.
fn file_state(environment: &Environment, kind: ModelKind, name: &str) -> String {
    let Ok(path) = environment.folders.resolve(kind, name) else { return String::new() };
    path_state(&path)
}

/// A file's place, size and date.
fn path_state(path: &Path) -> String {
    let data = std::fs::metadata(path).ok();
    let state = data.map(|data| (data.len(), data.modified().ok()));
    format!("{} {state:?}", path.display())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::signature::{Kind, Options};

    #[test]
    fn names_are_unique_and_defaults_allowed() {
        let mut classes = HashSet::new();
        for node in NODES {
            assert!(classes.insert(node.class), "{} twice", node.class);
            assert!(!node.title.is_empty() && !node.category.is_empty(), "{}", node.class);
            assert!(!node.about.is_empty(), "{} says nothing of itself", node.class);
            let mut inputs = HashSet::new();
            for input in node.inputs {
                let place = format!("{}.{}", node.class, input.name);
                assert!(inputs.insert(input.name), "{place} twice");
                match input.kind {
                    Kind::Int { default, min, max, .. } => {
                        assert!((min..=max).contains(&default), "{place}");
                    }
                    Kind::Float { default, min, max, .. } => {
                        assert!((min..=max).contains(&default), "{place}");
                    }
                    Kind::Choice { options: Options::Fixed(list), default } => {
                        assert!(default.is_none_or(|name| list.contains(&name)), "{place}");
                    }
                    _ => {}
                }
            }
        }
    }
}
