//! Scaled dot-product attention (Vaswani et al., <https://arxiv.org/abs/1706.03762>).

use distorch_runtime::Tensor;
use distorch_runtime::kernels::{self, Precision};

/// Which keys a query sees.
#[derive(Clone, Debug)]
pub enum Mask {
    /// All of them.
    None,
    /// Those at its own position and before.
    Causal,
    /// All, with `[batch or 1, heads or 1, queries, keys]` added to the scaled scores.
    Bias(Tensor<4>),
}

/// Each head of keys or values as often as heads of queries share it: `[batch, tokens, kv_heads × d]` to
/// `[batch, tokens, heads × d]`. `kv_heads` must divide `heads`, which the models check as they are built.
pub(crate) fn repeat_heads(x: Tensor<3>, heads: usize, kv_heads: usize) -> Tensor<3> {
    if heads == kv_heads {
        return x;
    }
    let [batch, tokens, width] = x.dims();
    let (head, times) = (width / kv_heads, heads / kv_heads);
    let x = x.reshape([batch, tokens, kv_heads, 1, head]);
    x.expand([batch, tokens, kv_heads, times, head]).reshape([batch, tokens, heads * head])
}

/// `softmax(q · kᵗ / √d) · v`, head by head.
///
/// `query` `[batch, queries, heads × d]`, `key` and `value` `[batch, keys, heads × d]`, to
/// `[batch, queries, heads × d]`. The scores are in f32 whatever the compute dtype, and never in
/// memory all at once. `heads` must divide the width, which the models check as they are built.
pub fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    mask: Mask,
    precision: Precision,
) -> Tensor<3> {
    let (causal, bias) = match mask {
        Mask::None => (false, None),
        Mask::Causal => (true, None),
        Mask::Bias(bias) => (false, Some(bias)),
    };
    kernels::attention(query, key, value, heads, causal, bias, precision)
}
