//! Reading a layer's parameters from a checkpoint, in their canonical form.

use distorch_checkpoint::{Checkpoint, Layer};

use crate::stored::StoredLayer;
use crate::tensor::TensorData;
use crate::weights::WeightError;

/// The parameters of a layer as `f32`.
///
/// The scales of an 8-bit layer (`scale_weight`, `weight_scale`) are multiplied into its weight, as
/// the format means it; scales of inputs are for 8-bit arithmetic, which is not done here.
///
/// # Errors
/// When a tensor cannot be read from the file, or is not what its parameter says.
pub fn layer(
    checkpoint: &Checkpoint,
    layer: &Layer,
) -> Result<Vec<(String, TensorData)>, WeightError> {
    StoredLayer::read(checkpoint, layer)?.values()
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::{Dtype, LayerKind, Param};

    use super::*;

    /// A safetensors file in memory.
    fn file(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Checkpoint {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for (name, dtype, shape, bytes) in tensors {
            let start = data.len();
            data.extend_from_slice(bytes);
            let entry = serde_json::json!({
                "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]
            });
            header.insert((*name).to_owned(), entry);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(data);
        Checkpoint::from_bytes("test.safetensors", bytes).unwrap()
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn param(name: &str, key: &str, dtype: Dtype, shape: &[usize]) -> Param {
        let (name, key, shape) = (name.to_owned(), key.to_owned(), shape.to_vec());
        Param { name, key, dtype, shape, rows: None, transposed: false }
    }

    fn read(checkpoint: &Checkpoint, params: Vec<Param>) -> Vec<(String, Vec<f32>)> {
        let kind = LayerKind::Linear;
        let of = Layer { name: "l".into(), kind, use_index: 0, head: false, params };
        let read = layer(checkpoint, &of).unwrap();
        read.into_iter().map(|(name, data)| (name, data.to_vec::<f32>().unwrap())).collect()
    }

    #[test]
    fn rows_and_transposes() {
        let stored = [1., 2., 3., 4., 5., 6.];
        let checkpoint = file(&[("w", "F32", &[3, 2], f32s(&stored))]);
        let mut rows = param("weight", "w", Dtype::F32, &[2, 2]);
        rows.rows = Some((1, 3));
        assert_eq!(read(&checkpoint, vec![rows]), [("weight".into(), vec![3., 4., 5., 6.])]);
        let mut turned = param("weight", "w", Dtype::F32, &[2, 3]);
        turned.transposed = true;
        assert_eq!(
            read(&checkpoint, vec![turned]),
            [("weight".into(), vec![1., 3., 5., 2., 4., 6.])]
        );
    }

    #[test]
    fn scales_of_8_bit_weights() {
        // 0x38 is 1.0 in E4M3.
        let checkpoint = file(&[
            ("w", "F8_E4M3", &[2, 2], vec![0x38; 4]),
            ("one", "F32", &[], f32s(&[0.5])),
            ("rows", "F32", &[2, 1], f32s(&[2., 3.])),
            ("input", "F32", &[], f32s(&[9.])),
        ]);
        let weight = || param("weight", "w", Dtype::F8E4M3, &[2, 2]);
        let one = param("scale_weight", "one", Dtype::F32, &[]);
        let input = param("scale_input", "input", Dtype::F32, &[]);
        assert_eq!(
            read(&checkpoint, vec![weight(), one, input]),
            [("weight".into(), vec![0.5; 4])]
        );
        let rows = param("weight_scale", "rows", Dtype::F32, &[2, 1]);
        assert_eq!(
            read(&checkpoint, vec![weight(), rows]),
            [("weight".into(), vec![2., 2., 3., 3.])]
        );
    }

    #[test]
    fn a_missing_tensor_is_an_error_that_names_it() {
        let checkpoint = file(&[("w", "F32", &[1], f32s(&[1.]))]);
        let params = vec![param("weight", "gone", Dtype::F32, &[1])];
        let kind = LayerKind::Linear;
        let of = Layer { name: "mid.l".into(), kind, use_index: 0, head: false, params };
        let error = layer(&checkpoint, &of).unwrap_err().to_string();
        assert!(error.contains("mid.l") && error.contains("gone"), "{error}");
    }
}
