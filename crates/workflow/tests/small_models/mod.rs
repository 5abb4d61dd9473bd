//! Small models in a folder, and prompts run on them.
#![allow(dead_code)] // each test file uses its own part

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use distorch_allocation::{DeviceId, DeviceInfo, Topology};
use distorch_checkpoint::Dtype;
use distorch_checkpoint::config::{
    ClipActivation, ClipConfig, DiffusionConfig, Heads, MmditConfig, T5Config, TextEncoderConfig,
    UnetConfig, VaeConfig,
};
use distorch_checkpoint::family::{Configs, blank};
use distorch_checkpoint::folders::ModelFolders;
use distorch_pipeline::diffusion::conditioning::Cond;
use distorch_runtime::Tensor;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::Silent;
use distorch_workflow::value::Value;
use distorch_workflow::{Environment, ExecutionError, Executor, nodes};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// A folder of models and an executor on the CPU.
pub struct Studio {
    pub folder: TempDir,
    pub executor: Executor,
}

impl Studio {
    /// A folder with `tiny.safetensors`, of SD 1.x, among the checkpoints.
    pub fn sd1() -> Self {
        Self::with("checkpoints/tiny.safetensors", &sd1())
    }

    /// A folder with one model file.
    pub fn with(path: &str, configs: &Configs) -> Self {
        let folder = TempDir::new().unwrap();
        write(&folder.path().join("models").join(path), configs);
        let folders = ModelFolders::new(folder.path(), &[]).unwrap();
        let cpu = DeviceInfo::new(DeviceId::CPU, "CPU", 8 << 30);
        let environment = Environment::on(folders, Topology::new(vec![cpu]).unwrap());
        Self { folder, executor: Executor::new(environment, nodes::all()) }
    }

    /// The path of a model file.
    pub fn model_path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join("models").join(path)
    }

    /// Runs what node `target` needs, and gives its outputs.
    pub fn run(&mut self, prompt: &Json, target: &str) -> Vec<Value> {
        self.try_run(prompt, target).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_run(&mut self, prompt: &Json, target: &str) -> Result<Vec<Value>, ExecutionError> {
        let prompt = Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap();
        let mut report = self.executor.run_nodes(&prompt, &[target], &Silent)?;
        Ok(report.values.remove(target).unwrap())
    }

    /// The latent of an output slot.
    pub fn latent(&mut self, prompt: &Json, target: &str, slot: usize) -> Vec<f32> {
        match &self.run(prompt, target)[slot] {
            Value::Latent(latent) => values(&latent.samples),
            other => panic!("{other:?}"),
        }
    }

    /// The conditionings of a node.
    pub fn conds(&mut self, prompt: &Json, target: &str) -> Vec<Cond> {
        match &self.run(prompt, target)[0] {
            Value::Conditioning(conditioning) => conditioning.conds().to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

/// A node of a prompt.
pub fn node(class: &str, inputs: Json) -> Json {
    json!({ "class_type": class, "inputs": inputs })
}

/// A prompt of these nodes.
pub fn prompt(nodes: &[(&str, Json)]) -> Json {
    Json::Object(nodes.iter().map(|(id, node)| ((*id).to_owned(), node.clone())).collect())
}

pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().into_vec().unwrap()
}

/// The largest difference.
pub fn distance(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    let both = one.iter().zip(other);
    both.map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, d| if d.is_nan() { f32::NAN } else { d.max(most) })
}

/// SD 1.x at a width of 32, with stages of twice and four times it.
pub fn sd1() -> Configs {
    let unet = UnetConfig {
        in_channels: 4,
        out_channels: 4,
        model_channels: 32,
        channel_mult: vec![1, 2, 4],
        num_res_blocks: vec![1; 3],
        transformer_depth: vec![0, 1, 0],
        middle_res_blocks: 2,
        transformer_depth_middle: Some(1),
        transformer_depth_output: vec![0, 0, 1, 1, 0, 0],
        context_dim: 32,
        heads: Heads::Count(8),
        linear_projections: false,
        adm_in_channels: None,
    };
    Configs {
        diffusion: Some(DiffusionConfig::Unet(unet)),
        text_encoders: vec![("clip_l", clip(32, ClipActivation::QuickGelu, None))],
        vae: Some(vae()),
    }
}

/// The text encoders of SDXL with a UNet of one stage.
pub fn sdxl() -> Configs {
    let unet = UnetConfig {
        in_channels: 4,
        out_channels: 4,
        model_channels: 64,
        channel_mult: vec![1],
        num_res_blocks: vec![1],
        transformer_depth: vec![1],
        middle_res_blocks: 2,
        transformer_depth_middle: Some(1),
        transformer_depth_output: vec![1, 1],
        context_dim: 40,
        heads: Heads::Width(64),
        linear_projections: true,
        adm_in_channels: Some(20 + 6 * 256),
    };
    Configs {
        diffusion: Some(DiffusionConfig::Unet(unet)),
        text_encoders: vec![
            ("clip_l", clip(16, ClipActivation::QuickGelu, None)),
            ("clip_g", clip(24, ClipActivation::Gelu, Some(20))),
        ],
        vae: Some(vae()),
    }
}

/// SD3.5 with its three text encoders.
pub fn sd3() -> Configs {
    let mmdit = MmditConfig {
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        depth: 3,
        width: 64,
        heads: 2,
        pos_embed_max_size: 16,
        adm_in_channels: 16 + 20,
        context_dim: 48,
        qk_norm: true,
        dual_attention_layers: vec![0],
    };
    let t5 = T5Config {
        vocab_size: 32128,
        width: 48,
        layers: 2,
        heads: 2,
        head_dim: 16,
        intermediate: 64,
        relative_buckets: 32,
    };
    Configs {
        diffusion: Some(DiffusionConfig::Mmdit(mmdit)),
        text_encoders: vec![
            ("clip_l", clip(16, ClipActivation::QuickGelu, None)),
            ("clip_g", clip(24, ClipActivation::Gelu, Some(20))),
            ("t5xxl", TextEncoderConfig::T5(t5)),
        ],
        vae: Some(VaeConfig { latent_channels: 16, quant_conv: false, ..vae() }),
    }
}

fn clip(width: usize, activation: ClipActivation, projection: Option<usize>) -> TextEncoderConfig {
    TextEncoderConfig::Clip(ClipConfig {
        vocab_size: 49408,
        max_positions: 77,
        width,
        layers: 3,
        heads: 1,
        intermediate: 2 * width,
        activation,
        projection,
    })
}

pub fn vae() -> VaeConfig {
    VaeConfig {
        in_channels: 3,
        latent_channels: 4,
        channels: 32,
        channel_mult: vec![1; 4],
        num_res_blocks: 1,
        quant_conv: true,
        scaling_factor: 0.18215,
        shift_factor: 0.0,
    }
}

/// Writes a model whose weights follow from their names.
pub fn write(path: &Path, configs: &Configs) {
    let checkpoint = blank("blank", configs, Dtype::F32).unwrap();
    let tensors = checkpoint.tensors();
    let tensors =
        tensors.map(|(key, info)| (key.to_owned(), info.shape.clone(), weight(key, &info.shape)));
    write_tensors(path, tensors);
}

/// Writes tensors as a safetensors file.
pub fn write_tensors(path: &Path, tensors: impl Iterator<Item = (String, Vec<usize>, Vec<f32>)>) {
    let (mut header, mut data) = (String::new(), Vec::new());
    for (key, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        let comma = if header.is_empty() { "" } else { "," };
        write!(header, "{comma}{}:{entry}", json!(key)).unwrap();
    }
    let header = format!("{{{header}}}");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Values that keep activations of unit size: norms near 1, weights by their fan-in.
pub fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let (offset, scale) = match shape {
        [] | [_] if name.ends_with("bias") => (0.0, 0.1),
        [] | [_] => (1.0, 0.1),
        [_, rest @ ..] => (0.0, (3.0 / rest.iter().product::<usize>() as f64).sqrt() as f32),
    };
    let mut state = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..shape.iter().product()).map(|_| offset + scale * next()).collect()
}
