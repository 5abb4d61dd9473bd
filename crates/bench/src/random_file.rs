//! A file of random weights, where no checkpoint is named.

use std::io::{BufWriter, Write};

use distorch_checkpoint::Dtype;
use distorch_checkpoint::family::{Configs, blank};
use distorch_runtime::DType;
use distorch_runtime::tensor::TensorData;

use crate::error::BenchError;
use crate::progress::Reporter;
use crate::random::{self, PublishedModel};

/// Writes a diffusion model of random weights in f16 to a temporary file, which is removed where it is dropped.
///
/// # Errors
/// When the file cannot be written.
pub fn random_file(
    model: PublishedModel,
    reporter: &dyn Reporter,
) -> Result<tempfile::NamedTempFile, BenchError> {
    let diffusion = random::configs(model).diffusion;
    let configs = Configs { diffusion, ..Configs::default() };
    let blank = blank("random weights", &configs, Dtype::F16).map_err(BenchError::failed)?;
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (key, info) in blank.tensors() {
        let start = end;
        end += info.bytes();
        let entry = serde_json::json!({
            "dtype": info.dtype, "shape": info.shape, "data_offsets": [start, end]
        });
        header.insert(key.to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).map_err(BenchError::failed)?;
    let mut file = tempfile::NamedTempFile::new()?;
    let mut to = BufWriter::new(file.as_file_mut());
    to.write_all(&(header.len() as u64).to_le_bytes())?;
    to.write_all(&header)?;
    let progress = reporter.stage("writing random weights", blank.len() as u64);
    for (seed, (_, info)) in (0..).zip(blank.tensors()) {
        let inputs: usize = info.shape.iter().skip(1).product();
        let scale = (3.0 / inputs.max(1) as f32).sqrt();
        let values = random::uniform(seed, info.elements() as usize);
        let data = TensorData::new(values, [info.elements() as usize]);
        let scaled: Vec<f32> = data.iter::<f32>().map(|value| scale * value).collect();
        let data = TensorData::new(scaled, [info.elements() as usize]);
        to.write_all(data.convert_dtype(DType::F16).as_bytes())?;
        progress.advance();
    }
    to.flush()?;
    drop(to);
    Ok(file)
}
