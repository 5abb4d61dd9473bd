//! The description of all nodes as clients read it.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use distorch_workflow::{Environment, Registry, describe};
use flate2::Compression;
use flate2::write::GzEncoder;
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// The description of all nodes, kept as text for as long as the lists of files and devices in it are the same.
#[derive(Default)]
pub(crate) struct NodeTexts(Mutex<Option<Arc<NodeText>>>);

/// The description of all nodes as it is sent.
pub(crate) struct NodeText {
    /// What in it is the machine's.
    found: Vec<Vec<String>>,
    pub(crate) plain: Bytes,
    pub(crate) gzip: Bytes,
}

impl NodeTexts {
    /// The description, made anew where something in it has changed.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn text(
        &self,
        registry: &Registry,
        environment: &Environment,
    ) -> Result<Arc<NodeText>, ApiError> {
        let found = describe::found(registry, environment);
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(kept) = kept.filter(|kept| kept.found == found) {
            return Ok(kept);
        }
        let nodes = describe::object_info(registry, environment).into_iter();
        let nodes: Nodes =
            nodes.map(|(class, node)| (class.to_owned(), Described::of(node))).collect();
        let plain = serde_json::to_vec(&nodes).map_err(ApiError::internal)?;
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&plain).map_err(ApiError::internal)?;
        let gzip = packed.finish().map_err(ApiError::internal)?;
        let text = Arc::new(NodeText { found, plain: plain.into(), gzip: gzip.into() });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&text));
        Ok(text)
    }
}

/// Nodes by class.
pub(crate) type Nodes = IndexMap<String, Described>;

/// A node with its inputs in their order, which clients draw them in.
#[derive(Serialize)]
pub(crate) struct Described {
    input: IndexMap<String, IndexMap<String, Value>>,
    /// What ComfyUI says of every node though it is the same for all of ours.
    is_input_list: bool,
    has_intermediate_output: bool,
    search_aliases: [&'static str; 0],
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Described {
    pub(crate) fn of(node: Value) -> Self {
        let mut rest = match node {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        let mut inputs = rest.remove("input").unwrap_or_default();
        let mut section = |name: &&str| {
            let order = rest.get("input_order")?[*name].as_array()?;
            let named = order.iter().filter_map(Value::as_str);
            let inputs = named.map(|input| (input.to_owned(), inputs[*name][input].take()));
            Some(((*name).to_owned(), inputs.collect()))
        };
        let input = ["required", "optional", "hidden"].iter().filter_map(&mut section).collect();
        let (is_input_list, has_intermediate_output) = (false, false);
        Self { input, is_input_list, has_intermediate_output, search_aliases: [], rest }
    }
}
