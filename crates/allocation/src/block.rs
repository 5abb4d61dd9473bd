//! What is placed: the blocks of a component, and the JSON file that lists them for a model one
//! doesn't have.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One leaf layer with its own tensors, or the parameters that a parent module owns itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Its name, unique in its component.
    pub name: String,
    /// The kind of layer: `linear`, `conv`, `norm`, `embedding`, … Only `param` (or `parameter`)
    /// means something to the planner: parameters that a parent module owns itself, which stay on
    /// the compute device.
    pub kind: String,
    /// Bytes of all its tensors, as stored.
    pub bytes: u64,
    /// Bytes that it takes at home on the compute device, where these are others: on the host,
    /// which keeps layers in the dtype that it computes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Whether it is a token or position embedding of a text encoder, which stays on the compute
    /// device.
    #[serde(default)]
    pub head: bool,
    /// Its position in the order in which a forward pass uses the blocks; without it, its
    /// position in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_index: Option<u64>,
    /// The time that a forward pass computes with it, in a unit that is the same for all blocks of the
    /// component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
}

impl Block {
    /// A block that is no head and is used where it is listed.
    pub fn new(name: impl Into<String>, kind: impl Into<String>, bytes: u64) -> Block {
        let (name, kind) = (name.into(), kind.into());
        Block { name, kind, bytes, resident_bytes: None, head: false, use_index: None, cost: None }
    }

    /// Bytes that it takes at home on the compute device.
    pub(crate) fn at_home(&self) -> u64 {
        self.resident_bytes.unwrap_or(self.bytes)
    }

    /// Whether it holds parameters that a parent module owns itself.
    pub(crate) fn is_param(&self) -> bool {
        ["param", "parameter"].iter().any(|kind| self.kind.eq_ignore_ascii_case(kind))
    }
}

/// The blocks of one component, in definition order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawComponent")]
pub struct ComponentBlocks {
    name: String,
    activation_bytes: u64,
    blocks: Vec<Block>,
    #[serde(skip)]
    bytes: u64,
    #[serde(skip)]
    at_home: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawComponent {
    name: String,
    #[serde(default)]
    activation_bytes: u64,
    blocks: Vec<Block>,
}

impl TryFrom<RawComponent> for ComponentBlocks {
    type Error = BlockError;

    fn try_from(raw: RawComponent) -> Result<Self, BlockError> {
        ComponentBlocks::new(raw.name, raw.blocks, raw.activation_bytes)
    }
}

/// Why a list of blocks can't be planned.
#[derive(Debug, Error)]
pub enum BlockError {
    /// A component or block without a name.
    #[error("{0} has an empty name")]
    EmptyName(String),
    /// Two blocks of one name.
    #[error("component `{component}`: two blocks are named `{block}`")]
    DuplicateBlock {
        /// The component.
        component: String,
        /// The name.
        block: String,
    },
    /// Two components of one name.
    #[error("two components are named `{0}`")]
    DuplicateComponent(String),
    /// More bytes than a `u64` counts.
    #[error("component `{0}`: its blocks come to more than 2^64 bytes")]
    TooLarge(String),
    /// Not the JSON that [`BlockFile::from_json`] describes.
    #[error(
        "not a list of blocks: {0}; expected {{\"components\": [{{\"name\": \"unet\", \"blocks\": [{{\"name\": …, \"kind\": \"linear\", \"bytes\": …}}]}}]}}"
    )]
    Json(serde_json::Error),
}

impl ComponentBlocks {
    /// A component (`unet`, `clip`, `vae`, …) and what its forward pass needs besides weights,
    /// an estimate in bytes.
    ///
    /// # Errors
    /// Empty or repeated names, or blocks that come to more than 2⁶⁴ bytes.
    pub fn new(
        name: impl Into<String>,
        blocks: Vec<Block>,
        activation_bytes: u64,
    ) -> Result<ComponentBlocks, BlockError> {
        let name = name.into();
        if name.trim().is_empty() {
            return Err(BlockError::EmptyName("a component".to_owned()));
        }
        let mut names = HashSet::with_capacity(blocks.len());
        let (mut bytes, mut at_home) = (0_u64, 0_u64);
        for block in &blocks {
            if block.name.is_empty() {
                return Err(BlockError::EmptyName(format!("a block of component `{name}`")));
            }
            if !names.insert(block.name.as_str()) {
                let block = block.name.clone();
                return Err(BlockError::DuplicateBlock { component: name, block });
            }
            let sums = (bytes.checked_add(block.bytes), at_home.checked_add(block.at_home()));
            let (Some(stored), Some(held)) = sums else {
                return Err(BlockError::TooLarge(name));
            };
            (bytes, at_home) = (stored, held);
        }
        Ok(ComponentBlocks { name, activation_bytes, blocks, bytes, at_home })
    }

    /// The component's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The blocks in definition order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of all blocks where they are all at home on the compute device.
    pub(crate) fn at_home(&self) -> u64 {
        self.at_home
    }

    /// The same blocks with these costs, in definition order: see [`Block::cost`].
    #[must_use]
    pub fn with_costs(mut self, costs: impl IntoIterator<Item = u64>) -> ComponentBlocks {
        for (block, cost) in self.blocks.iter_mut().zip(costs) {
            block.cost = Some(cost);
        }
        self
    }

    /// What computing with each block costs, in definition order. Where no cost is known, all blocks do as
    /// many operations for each of their bytes; where some are, the others cost nothing.
    pub(crate) fn costs(&self) -> Vec<f64> {
        let known = self.blocks.iter().any(|block| block.cost.is_some());
        let cost = |block: &Block| if known { block.cost.unwrap_or(0) } else { block.bytes };
        self.blocks.iter().map(|block| cost(block) as f64).collect()
    }

    /// What a forward pass needs besides weights: an estimate in bytes.
    pub fn activation_bytes(&self) -> u64 {
        self.activation_bytes
    }

    /// The indices of the blocks in use order; blocks of one `use_index` in definition order.
    pub(crate) fn use_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.blocks.len()).collect();
        let position = |index: usize| {
            let given = self.blocks.get(index).and_then(|block| block.use_index);
            given.unwrap_or(index as u64)
        };
        order.sort_by_key(|&index| position(index));
        order
    }
}

/// The components of a model, as a JSON file lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockFile {
    /// The components, with distinct names.
    pub components: Vec<ComponentBlocks>,
}

impl BlockFile {
    /// Reads
    ///
    /// ```json
    /// {"components": [{
    ///     "name": "unet",
    ///     "activation_bytes": 1073741824,
    ///     "blocks": [
    ///         {"name": "input_blocks.0.0", "kind": "conv", "bytes": 25600},
    ///         {"name": "pos_embed", "kind": "param", "bytes": 4096, "use_index": 0},
    ///         {"name": "token_embedding", "kind": "embedding", "bytes": 4096, "head": true}
    ///     ]
    /// }]}
    /// ```
    ///
    /// `activation_bytes` (0), `head` (false), `use_index` (the position in the list) and the fields
    /// `resident_bytes` and `cost` of [`Block`] may be left out; fields that are not listed here are
    /// refused.
    ///
    /// # Errors
    /// JSON of another form, with line and column; repeated or empty names.
    pub fn from_json(text: &str) -> Result<BlockFile, BlockError> {
        let file: BlockFile = serde_json::from_str(text).map_err(BlockError::Json)?;
        let mut names = HashSet::new();
        for component in &file.components {
            if !names.insert(component.name()) {
                return Err(BlockError::DuplicateComponent(component.name().to_owned()));
            }
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"components": [
        {"name": "unet", "activation_bytes": 7, "blocks": [
            {"name": "a", "kind": "linear", "bytes": 10, "use_index": 5},
            {"name": "b", "kind": "Parameter", "bytes": 20},
            {"name": "c", "kind": "embedding", "bytes": 30, "head": true}]},
        {"name": "clip", "blocks": []}]}"#;

    #[test]
    fn reads_and_writes() {
        let file = BlockFile::from_json(GOOD).unwrap();
        let unet = &file.components[0];
        assert_eq!((unet.name(), unet.bytes(), unet.activation_bytes()), ("unet", 60, 7));
        assert_eq!(unet.use_order(), [1, 2, 0]);
        assert!(unet.blocks()[1].is_param() && unet.blocks()[2].head);
        let again = BlockFile::from_json(&serde_json::to_string(&file).unwrap()).unwrap();
        assert_eq!(again, file);
    }

    #[test]
    fn refuses_what_it_cannot_plan() {
        for (from, to, message) in [
            ("\"bytes\": 10", "\"bytes\": -10", "line 3"),
            ("\"bytes\": 10", "\"size\": 10", "unknown field `size`"),
            ("\"bytes\": 10", "\"bytes\": 18446744073709551615", "more than 2^64 bytes"),
            ("\"kind\": \"linear\",", "", "missing field `kind`"),
            ("\"name\": \"b\"", "\"name\": \"a\"", "two blocks are named `a`"),
            ("\"name\": \"b\"", "\"name\": \"\"", "empty name"),
            ("\"clip\"", "\"unet\"", "two components are named `unet`"),
            ("\"clip\"", "\" \"", "empty name"),
            ("{\"components\"", "[\"components\"", "not a list of blocks"),
        ] {
            let error = BlockFile::from_json(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(message), "{to}: {error}");
        }
    }
}
