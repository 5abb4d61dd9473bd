//! Workflows as ComfyUI's editor saves them, read as prompts.
//!
//! The editor keeps nodes with lists of widget values and numbered links between slots; what it sends
//! to a server has named inputs. The way from one to the other, which the editor's own export
//! goes, is gone here: values get the names of the class's widgets, links are followed through
//! what only the editor knows (reroutes, primitives, named wires, bypassed nodes, subgraphs, group
//! nodes), and texts are expanded as the editor does it.

mod dynamic_prompts;
mod file;
mod group_nodes;
mod insides;
mod links;
mod named;
mod reader;
mod subgraphs;
mod widgets;

pub(crate) use named::named;
pub(crate) use reader::read;
