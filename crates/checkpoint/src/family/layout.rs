//! The layers that a model of a given configuration must have, written down as a tree of modules.
//!
//! An architecture builds its tree in the order in which the original code defines its modules
//! and, where a forward pass uses them in another order, says so with [`Module::used_as`].

use std::collections::HashMap;

use crate::layer::LayerKind;

/// A module: named children in definition order.
#[derive(Default)]
pub(super) struct Module {
    children: Vec<(String, Node)>,
    use_order: UseOrder,
}

/// In which order a forward pass uses the children of a module.
#[derive(Default)]
enum UseOrder {
    #[default]
    AsDefined,
    FromLast,
    Listed(&'static [&'static str]),
}

/// A child of a module.
pub(super) enum Node {
    Module(Module),
    Leaf(Leaf),
}

/// A leaf module with its own parameters.
pub(super) struct Leaf {
    kind: LayerKind,
    head: bool,
    params: Vec<ParamSpec>,
}

/// A parameter that a leaf must have.
#[derive(Clone)]
pub(super) struct ParamSpec {
    pub name: String,
    pub shape: Vec<usize>,
}

/// A leaf in its place: what the file is matched with.
pub(super) struct LayerSpec {
    pub name: String,
    pub kind: LayerKind,
    pub head: bool,
    pub use_index: usize,
    pub params: Vec<ParamSpec>,
}

impl Module {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a child; its name may be a dotted path such as `net.0.proj`.
    pub fn with(mut self, name: impl Into<String>, child: impl Into<Node>) -> Self {
        self.children.push((name.into(), child.into()));
        self
    }

    /// Adds a child where a condition holds.
    pub fn with_if(self, condition: bool, name: &str, child: impl FnOnce() -> Node) -> Self {
        if condition { self.with(name, child()) } else { self }
    }

    /// Adds a list of children, named `name.0`, `name.1`, ….
    pub fn with_each<N: Into<Node>>(
        self,
        name: &str,
        children: impl IntoIterator<Item = N>,
    ) -> Self {
        let list = children
            .into_iter()
            .enumerate()
            .fold(Module::new(), |list, (at, child)| list.with(at.to_string(), child));
        self.with(name, list)
    }

    /// Says in which order a forward pass uses the children or, by dotted paths, parts of them.
    /// Paths of children that this configuration doesn't have are passed over; children that are
    /// not named come last.
    pub fn used_as(mut self, order: &'static [&'static str]) -> Self {
        self.use_order = UseOrder::Listed(order);
        self
    }

    /// Says that a forward pass uses the children from the last one on.
    pub fn used_from_last(mut self) -> Self {
        self.use_order = UseOrder::FromLast;
        self
    }

    /// All leaves in definition order.
    pub fn layers(&self) -> Vec<LayerSpec> {
        let mut defined = Vec::new();
        self.define("", &mut defined);
        let mut used = Vec::with_capacity(defined.len());
        self.trace("", &mut used);

        let mut use_index = HashMap::with_capacity(defined.len());
        for name in used.into_iter().chain(defined.iter().map(|(name, _)| name.clone())) {
            let next = use_index.len();
            use_index.entry(name).or_insert(next);
        }
        defined
            .into_iter()
            .map(|(name, leaf)| LayerSpec {
                use_index: use_index.get(&name).copied().unwrap_or_default(),
                name,
                kind: leaf.kind,
                head: leaf.head,
                params: leaf.params.clone(),
            })
            .collect()
    }

    fn define<'m>(&'m self, path: &str, out: &mut Vec<(String, &'m Leaf)>) {
        for (name, child) in &self.children {
            let path = join(path, name);
            match child {
                Node::Leaf(leaf) => out.push((path, leaf)),
                Node::Module(module) => module.define(&path, out),
            }
        }
    }

    fn trace(&self, path: &str, out: &mut Vec<String>) {
        let trace = |(name, child): &(String, Node)| child.trace(&join(path, name), out);
        match self.use_order {
            UseOrder::AsDefined => self.children.iter().for_each(trace),
            UseOrder::FromLast => self.children.iter().rev().for_each(trace),
            UseOrder::Listed(parts) => {
                for part in parts {
                    if let Some(node) = self.find(part) {
                        node.trace(&join(path, part), out);
                    }
                }
            }
        }
    }

    fn find(&self, path: &str) -> Option<&Node> {
        self.children.iter().find_map(|(name, child)| {
            let rest = path.strip_prefix(name.as_str())?;
            match (rest.strip_prefix('.'), child) {
                _ if rest.is_empty() => Some(child),
                (Some(rest), Node::Module(module)) => module.find(rest),
                _ => None,
            }
        })
    }
}

impl Node {
    fn trace(&self, path: &str, out: &mut Vec<String>) {
        match self {
            Node::Leaf(_) => out.push(path.to_owned()),
            Node::Module(module) => module.trace(path, out),
        }
    }
}

impl From<Module> for Node {
    fn from(module: Module) -> Self {
        Node::Module(module)
    }
}

impl From<Leaf> for Node {
    fn from(leaf: Leaf) -> Self {
        Node::Leaf(leaf)
    }
}

impl Leaf {
    fn new(kind: LayerKind, params: &[(&str, &[usize])]) -> Self {
        let params = params
            .iter()
            .map(|(name, shape)| ParamSpec { name: (*name).to_owned(), shape: shape.to_vec() })
            .collect();
        Self { kind, head: false, params }
    }

    /// Marks the leaf as a head: a text encoder's embedding table.
    pub fn into_head(mut self) -> Self {
        self.head = true;
        self
    }
}

/// `out × input` matrix with a bias.
pub(super) fn linear(out: usize, input: usize) -> Leaf {
    Leaf::new(LayerKind::Linear, &[("weight", &[out, input]), ("bias", &[out])])
}

/// `out × input` matrix alone.
pub(super) fn linear_without_bias(out: usize, input: usize) -> Leaf {
    Leaf::new(LayerKind::Linear, &[("weight", &[out, input])])
}

/// Square convolution with a bias.
pub(super) fn conv(out: usize, input: usize, kernel: usize) -> Leaf {
    Leaf::new(LayerKind::Conv, &[("weight", &[out, input, kernel, kernel]), ("bias", &[out])])
}

/// Convolution over so many frames as over pixels along a side, with a bias.
pub(super) fn causal_conv(out: usize, input: usize, kernel: usize) -> Leaf {
    let weight = [out, input, kernel, kernel, kernel];
    Leaf::new(LayerKind::Conv, &[("weight", &weight), ("bias", &[out])])
}

/// Convolution over frames and pixels, without a bias.
pub(super) fn conv_of_frames(
    out: usize,
    input: usize,
    [frames, rows, columns]: [usize; 3],
) -> Leaf {
    Leaf::new(LayerKind::Conv, &[("weight", &[out, input, frames, rows, columns])])
}

/// As [`conv_of_frames`], with a bias.
pub(super) fn conv_of_frames_with_bias(
    out: usize,
    input: usize,
    [frames, rows, columns]: [usize; 3],
) -> Leaf {
    let weight = [out, input, frames, rows, columns];
    Leaf::new(LayerKind::Conv, &[("weight", &weight), ("bias", &[out])])
}

/// Convolution over the pixels of one frame, whose weight has a dimension for it, with a bias.
pub(super) fn frame_conv(out: usize, input: usize, kernel: usize) -> Leaf {
    let weight = [out, input, 1, kernel, kernel];
    Leaf::new(LayerKind::Conv, &[("weight", &weight), ("bias", &[out])])
}

/// Square convolution without a bias.
pub(super) fn conv_without_bias(out: usize, input: usize, kernel: usize) -> Leaf {
    Leaf::new(LayerKind::Conv, &[("weight", &[out, input, kernel, kernel])])
}

/// Group or layer normalisation with weight and bias.
pub(super) fn norm(channels: usize) -> Leaf {
    Leaf::new(LayerKind::Norm, &[("weight", &[channels]), ("bias", &[channels])])
}

/// RMS normalisation, whose one parameter is called `weight` or `scale`.
pub(super) fn rms_norm(param: &str, channels: usize) -> Leaf {
    Leaf::new(LayerKind::Norm, &[(param, &[channels])])
}

/// Normalisation over channels, whose one parameter is called `gamma` and has further dimensions of 1.
pub(super) fn channel_scale(shape: &[usize]) -> Leaf {
    Leaf::new(LayerKind::Norm, &[("gamma", shape)])
}

/// Means and variances of channels.
pub(super) fn statistics(channels: usize) -> Leaf {
    Leaf::new(LayerKind::Norm, &[("running_mean", &[channels]), ("running_var", &[channels])])
}

/// Table of `rows` vectors.
pub(super) fn embedding(rows: usize, width: usize) -> Leaf {
    Leaf::new(LayerKind::Embedding, &[("weight", &[rows, width])])
}

/// A parameter that the parent module owns itself. Its layer bears the parameter's name.
pub(super) fn own_param(shape: &[usize]) -> Leaf {
    Leaf::new(LayerKind::Param, &[("", shape)])
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(module: &Module) -> (Vec<String>, Vec<String>) {
        let layers = module.layers();
        let mut used: Vec<_> = layers.iter().collect();
        used.sort_by_key(|layer| layer.use_index);
        let used = used.into_iter().map(|layer| layer.name.clone()).collect();
        (layers.into_iter().map(|layer| layer.name).collect(), used)
    }

    #[test]
    fn use_order_reaches_into_children_and_passes_over_absent_ones() {
        let inner = |bias: usize| Module::new().with("a", norm(bias)).with("b.0", norm(bias));
        let module = Module::new()
            .with("x", inner(1))
            .with("y", inner(2))
            .used_as(&["y.b", "y.a", "x.b.0", "z", "x.a", "y.b.0"]);
        let (defined, used) = order(&module);
        assert_eq!(defined, ["x.a", "x.b.0", "y.a", "y.b.0"]);
        assert_eq!(used, ["y.a", "x.b.0", "x.a", "y.b.0"]);
    }

    #[test]
    fn children_without_a_place_in_the_use_order_come_last() {
        let module =
            Module::new().with("a", norm(1)).with("b", norm(1)).with("c", norm(1)).used_as(&["c"]);
        assert_eq!(order(&module).1, ["c", "a", "b"]);
    }
}
