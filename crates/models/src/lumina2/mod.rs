//! What Lumina-Image 2.0 (<https://arxiv.org/abs/2503.21758>) has of its own: prompts. Its transformer is a
//! [`NextDit`](crate::next_dit).

pub mod text;
