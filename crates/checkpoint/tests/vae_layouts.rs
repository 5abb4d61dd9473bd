//! Autoencoders of their own in the layout of diffusers, and what only looks like one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

mod common;

use common::{Fixture, Tensors, parts};
use distorch_checkpoint::family::{Model, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};

/// How a file keeps the attention's projections.
#[derive(Clone, Copy)]
enum Projections {
    /// `to_q`, matrices.
    Today,
    /// `query`, matrices.
    Older,
    /// `to_q`, 1×1 convolutions.
    Convolutions,
}

/// Writes down the keys of diffusers' `AutoencoderKL` in the order of its modules.
struct Writer {
    tensors: Tensors,
    dtype: Dtype,
}

impl Writer {
    fn add(&mut self, name: &str, weight: &[usize]) {
        let bias = vec![weight[0]];
        self.tensors.insert(format!("{name}.weight"), (self.dtype, weight.to_vec()));
        self.tensors.insert(format!("{name}.bias"), (self.dtype, bias));
    }

    fn resnet(&mut self, name: &str, input: usize, out: usize) {
        self.add(&format!("{name}.norm1"), &[input]);
        self.add(&format!("{name}.conv1"), &[out, input, 3, 3]);
        self.add(&format!("{name}.norm2"), &[out]);
        self.add(&format!("{name}.conv2"), &[out, out, 3, 3]);
        if input != out {
            self.add(&format!("{name}.conv_shortcut"), &[out, input, 1, 1]);
        }
    }

    fn middle(&mut self, half: &str, width: usize, projections: Projections) {
        let middle = format!("{half}.mid_block");
        let names = match projections {
            Projections::Older => ["query", "key", "value", "proj_attn"],
            _ => ["to_q", "to_k", "to_v", "to_out.0"],
        };
        self.add(&format!("{middle}.attentions.0.group_norm"), &[width]);
        for name in names {
            let shape: &[usize] = match projections {
                Projections::Convolutions => &[width, width, 1, 1],
                _ => &[width, width],
            };
            self.add(&format!("{middle}.attentions.0.{name}"), shape);
        }
        for at in 0..2 {
            self.resnet(&format!("{middle}.resnets.{at}"), width, width);
        }
    }
}

fn diffusers(
    widths: &[usize],
    latent: usize,
    quant: bool,
    projections: Projections,
    dtype: Dtype,
) -> Tensors {
    let mut file = Writer { tensors: Tensors::new(), dtype };
    let mut width = widths[0];
    file.add("encoder.conv_in", &[width, 3, 3, 3]);
    for (level, out) in widths.iter().enumerate() {
        for block in 0..2 {
            file.resnet(&format!("encoder.down_blocks.{level}.resnets.{block}"), width, *out);
            width = *out;
        }
        if level + 1 < widths.len() {
            let name = format!("encoder.down_blocks.{level}.downsamplers.0.conv");
            file.add(&name, &[width, width, 3, 3]);
        }
    }
    file.middle("encoder", width, projections);
    file.add("encoder.conv_norm_out", &[width]);
    file.add("encoder.conv_out", &[2 * latent, width, 3, 3]);
    file.add("decoder.conv_in", &[width, latent, 3, 3]);
    file.middle("decoder", width, projections);
    for (level, out) in widths.iter().rev().enumerate() {
        for block in 0..3 {
            file.resnet(&format!("decoder.up_blocks.{level}.resnets.{block}"), width, *out);
            width = *out;
        }
        if level + 1 < widths.len() {
            let name = format!("decoder.up_blocks.{level}.upsamplers.0.conv");
            file.add(&name, &[width, width, 3, 3]);
        }
    }
    file.add("decoder.conv_norm_out", &[width]);
    file.add("decoder.conv_out", &[3, width, 3, 3]);
    if quant {
        file.add("quant_conv", &[2 * latent, 2 * latent, 1, 1]);
        file.add("post_quant_conv", &[latent, latent, 1, 1]);
    }
    file.tensors
}

fn recognised(tensors: Tensors) -> Model {
    recognise(&parts(tensors, &[])).unwrap()
}

const SD: [usize; 4] = [128, 256, 512, 512];

/// The layers, their shapes and the order of use are those of the same autoencoder in a checkpoint.
#[test]
fn diffusers_layout_is_read_as_the_same_autoencoder() {
    for (published, latent, quant) in [("sd15", 4, true), ("flux-dev", 16, false)] {
        let whole = recognise(&Fixture::load(published).checkpoint(Dtype::F16)).unwrap();
        let expected = whole.component(ComponentKind::Vae).unwrap();
        for projections in [Projections::Today, Projections::Older, Projections::Convolutions] {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
                let model = recognised(diffusers(&SD, latent, quant, projections, dtype));
                assert!(model.unknown.is_empty() && model.ignored.is_empty());
                assert_eq!(model.label(), "VAE");
                let vae = model.component(ComponentKind::Vae).unwrap();
                assert_eq!(vae.parameters(), expected.parameters());
                for (layer, expected) in vae.layers.iter().zip(&expected.layers) {
                    assert_eq!(layer.name, expected.name);
                    assert_eq!(layer.use_index, expected.use_index);
                    let shapes = layer.params.iter().zip(&expected.params);
                    for (param, expected) in shapes {
                        assert_eq!((&param.name, &param.shape), (&expected.name, &expected.shape));
                        assert_eq!(param.dtype, dtype);
                    }
                }
                let (config, expected) = (model.vae.unwrap(), whole.vae.as_ref().unwrap());
                assert_eq!(config.channel_mult, expected.channel_mult);
                assert_eq!(config.latent_channels, latent);
                assert_eq!(config.quant_conv, quant);
                assert_eq!(config.num_res_blocks, 2);
            }
        }
    }
}

/// The decoder's levels are numbered from the other end, which shapes alone would not tell at equal widths.
#[test]
fn levels_of_the_decoder_count_from_the_other_end() {
    let model = recognised(diffusers(&[32; 3], 4, true, Projections::Today, Dtype::F32));
    let vae = model.component(ComponentKind::Vae).unwrap();
    let key = |layer: &str| {
        let layer = vae.layers.iter().find(|other| other.name == layer).unwrap();
        layer.params[0].key.clone()
    };
    assert_eq!(key("decoder.up.2.block.0.conv1"), "decoder.up_blocks.0.resnets.0.conv1.weight");
    assert_eq!(key("decoder.up.1.upsample.conv"), "decoder.up_blocks.1.upsamplers.0.conv.weight");
    assert_eq!(key("encoder.down.1.block.1.norm2"), "encoder.down_blocks.1.resnets.1.norm2.weight");
}

#[test]
fn incomplete_files_name_the_key_that_the_file_would_have() {
    let mut all = diffusers(&SD, 4, true, Projections::Today, Dtype::F16);
    all.shift_remove("decoder.mid_block.attentions.0.to_k.weight").unwrap();
    let error = recognise(&parts(all, &[])).unwrap_err().to_string();
    assert!(error.contains("`decoder.mid_block.attentions.0.to_k.weight`"), "{error}");
}

/// Keys of Wan's autoencoder, diffusers' beside them with the shape (`tools/reference/make_qwen_image_keys.py`).
#[derive(serde::Deserialize)]
struct Causal {
    vae: indexmap::IndexMap<String, (String, Vec<usize>)>,
}

/// Convolutions between frames are left out of the picture's autoencoder; all else is found by either name.
#[test]
fn wans_layout_and_diffusers_are_one_autoencoder() {
    let Causal { vae } = common::read("qwen-image");
    let wan: Tensors =
        vae.iter().map(|(key, (_, shape))| (key.clone(), (Dtype::BF16, shape.clone()))).collect();
    let diffusers: Tensors =
        vae.values().map(|(key, shape)| (key.clone(), (Dtype::BF16, shape.clone()))).collect();
    let [wan, diffusers] = [wan, diffusers].map(recognised);
    let config = wan.vae.as_ref().unwrap();
    assert_eq!((config.channels, config.latent_channels, config.downscale()), (96, 16, 8));
    assert_eq!((config.channel_mult.as_slice(), config.num_res_blocks), (&[1, 2, 4, 4][..], 2));
    assert_eq!(diffusers.vae.as_ref(), Some(config));
    assert_eq!(wan.label(), "VAE");
    assert_eq!(wan.notes, Vec::<String>::new());
    let joins = vae.keys().filter(|key| key.contains(".time_conv.")).count();
    assert_eq!(joins, 8);
    for model in [&wan, &diffusers] {
        assert_eq!((model.ignored.len(), &model.unknown), (joins, &Vec::new()));
    }
    let layers = |model: &Model| model.component(ComponentKind::Vae).unwrap().layers.clone();
    let (wan, diffusers) = (layers(&wan), layers(&diffusers));
    assert_eq!(wan.len(), diffusers.len());
    for (layer, other) in wan.iter().zip(&diffusers) {
        assert_eq!((&layer.name, layer.use_index), (&other.name, other.use_index));
        for (param, other) in layer.params.iter().zip(&other.params) {
            assert_eq!(param.key, format!("{}.{}", layer.name, param.name));
            assert_eq!((&vae[&param.key].0, &param.shape), (&other.key, &other.shape));
        }
    }
}

/// As [`Causal`], with the shape in ComfyUI's file behind that in diffusers'.
#[derive(serde::Deserialize)]
struct Residual {
    vae: indexmap::IndexMap<String, (String, Vec<usize>, Vec<usize>)>,
}

/// Qwen-Image 2.1's autoencoder, whose convolutions have a dimension for one frame, or none.
#[test]
fn a_residual_autoencoder_of_either_layout_is_one() {
    let Residual { vae } = common::read("qwen-image21");
    let comfyui: Tensors = vae
        .iter()
        .map(|(key, (_, _, shape))| (key.clone(), (Dtype::BF16, shape.clone())))
        .collect();
    let diffusers: Tensors =
        vae.values().map(|(key, shape, _)| (key.clone(), (Dtype::BF16, shape.clone()))).collect();
    let mut without = comfyui.clone();
    without.retain(|key, _| !key.contains(".time_conv."));
    let joins = comfyui.len() - without.len();
    assert_eq!(joins, 12);
    // Other levels that join frames would be another autoencoder.
    let mut other = without.clone();
    let key = "encoder.downsamples.0.downsamples.2.time_conv.weight";
    other.insert(key.to_owned(), (Dtype::BF16, vec![96, 96, 1, 1, 1]));
    let error = recognise(&parts(other, &[])).unwrap_err().to_string();
    assert!(error.contains("join frames"), "{error}");
    for (tensors, joins) in [(comfyui, joins), (without, 0), (diffusers, joins)] {
        let model = recognised(tensors);
        let config = model.vae.as_ref().unwrap();
        let sizes = (config.channels, config.decoder_channels, config.latent_channels);
        assert_eq!(sizes, (96, Some(144), 64));
        assert_eq!((config.in_channels, config.num_res_blocks, config.downscale()), (4, 2, 16));
        assert_eq!(config.channel_mult, [1, 2, 4, 8, 8]);
        assert_eq!((model.ignored.len(), &model.unknown), (joins, &Vec::new()));
        assert_eq!(model.notes, Vec::<String>::new());
    }
}

#[test]
fn other_autoencoders_are_refused_by_name() {
    let with = |mut all: Tensors, marker: &str| {
        all.insert(marker.to_owned(), (Dtype::F16, vec![4]));
        recognise(&parts(all, &[])).unwrap_err().to_string()
    };
    let all = diffusers(&[32, 32], 4, true, Projections::Today, Dtype::F16);
    let error = with(all, "decoder.conv_in.conv.weight");
    assert!(error.contains("videos"), "{error}");
    // Wan 2.2's is told from Wan 2.1's by lists within lists.
    let Causal { vae } = common::read("qwen-image");
    let all = vae.into_iter().map(|(key, (_, shape))| (key, (Dtype::BF16, shape))).collect();
    let error = with(all, "decoder.upsamples.0.upsamples.0.residual.0.gamma");
    assert!(error.contains("Wan 2.2"), "{error}");
    let mut frames = diffusers(&[32, 32], 4, true, Projections::Today, Dtype::F16);
    for (_, shape) in frames.values_mut() {
        if let [out, input, height, width] = **shape {
            *shape = vec![out, input, 3, height, width];
        }
    }
    let error = recognise(&parts(frames, &[])).unwrap_err().to_string();
    assert!(error.contains("videos"), "{error}");
}
