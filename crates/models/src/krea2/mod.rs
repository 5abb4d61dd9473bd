//! Krea 2 (<https://github.com/krea-ai/krea-2>): a transformer with one stream for text and picture. Of the text it reads
//! several layers of Qwen3-VL, which blocks of its own join to one state a token.

mod block;
pub mod text;
mod transformer;

pub use transformer::Krea2Transformer;

/// The network's name in errors.
const MODEL: &str = "Krea 2 transformer";
