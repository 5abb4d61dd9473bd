//! What Z-Image (<https://arxiv.org/abs/2511.22699>) has of its own: prompts. Its transformer is a [`NextDit`](crate::next_dit).

pub mod text;
