//! Weights of tokens: how far an encoding is moved from that of the empty text.

use distorch_runtime::tensor::TensorData;
use distorch_runtime::{BoolTensor, DType, Tensor};

use crate::ModelError;
use crate::prompt::token::{Token, WeightedToken};

/// Encodes chunks of equally many tokens and applies the weights: hidden states `[1, all tokens, width]`.
///
/// A token of weight w ends up at `e + (z - e) w`, where z is its encoding and e that of the empty
/// text at the same position; tokens of weight 1 stay as they are. `empty` makes the empty text of a number of tokens.
/// It is encoded where a weight is not 1; where there are no chunks, its encoding is the result. `encode` returns
/// the hidden states of texts, `[texts, tokens, width]`.
pub(crate) fn encode(
    chunks: &[Vec<WeightedToken>],
    empty: impl FnOnce(usize) -> Vec<Token>,
    encode: impl FnOnce(&[Vec<Token>]) -> Result<Tensor<3>, ModelError>,
) -> Result<Tensor<3>, ModelError> {
    let weighted = chunks.iter().flatten().any(|token| token.weight != 1.0);
    let tokens =
        |chunk: &Vec<WeightedToken>| chunk.iter().map(|token| token.token.clone()).collect();
    let mut texts: Vec<Vec<Token>> = chunks.iter().map(tokens).collect();
    if weighted || chunks.is_empty() {
        texts.push(empty(chunks.iter().map(Vec::len).max().unwrap_or(0)));
    }
    let hidden = encode(&texts)?;
    let hidden = if weighted { apply(hidden, chunks) } else { hidden };
    let [count, length, width] = hidden.dims();
    Ok(hidden.reshape([1, count * length, width]))
}

/// `hidden` holds the chunks and then the empty text.
fn apply(hidden: Tensor<3>, chunks: &[Vec<WeightedToken>]) -> Tensor<3> {
    let [rows, length, width] = hidden.dims();
    let device = hidden.device();
    let z = hidden.clone().slice([0..rows - 1, 0..length, 0..width]);
    let empty = hidden.slice([rows - 1..rows, 0..length, 0..width]);
    let weights: Vec<f32> = chunks.iter().flatten().map(|token| token.weight as f32).collect();
    let shape = [rows - 1, length, 1];
    let weights = Tensor::<3>::from_data(TensorData::new(weights, shape), (&device, DType::F32));
    let changed: Vec<bool> = chunks.iter().flatten().map(|token| token.weight != 1.0).collect();
    let changed = BoolTensor::<3>::from_data(TensorData::new(changed, shape), &device);
    let moved = (z.clone() - empty.clone()) * weights + empty;
    z.mask_where(changed.expand([rows - 1, length, width]), moved)
}
