//! Models of which each part has a file of its own: text encoders of several files, pipelines as diffusers saves them,
//! values rounded to 8 bits.
//!
//! Which rows of diffusers' tensors are which of the original ones is told by diffusers' own converters
//! (`tools/reference/make_diffusers_rows.py`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use distorch_checkpoint::cast::to_fp8;
use distorch_checkpoint::config::{
    ClipActivation, ClipConfig, DiffusionConfig, T5Config, TextEncoderConfig,
};
use distorch_checkpoint::decode::to_f32;
use distorch_checkpoint::family::{Configs, blank, original, recognise};
use distorch_checkpoint::file::{NewTensor, Piece};
use distorch_checkpoint::source::{ModelFiles, Reading};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_test_support::key_list;
use distorch_test_support::model_file::{ModelFile, encode};
use distorch_test_support::seeded;
use indexmap::IndexMap;
use serde::Deserialize;

/// The original tensors of a model, and what diffusers' are made of.
#[derive(Deserialize)]
struct Names {
    original: IndexMap<String, Vec<usize>>,
    diffusers: IndexMap<String, Vec<(String, usize, usize)>>,
}

/// Values of a tensor of one row in its first dimension.
fn row(shape: &[usize]) -> usize {
    shape.iter().skip(1).product()
}

#[test]
fn what_diffusers_splits_is_put_together_as_its_converters_split_it() {
    let all: BTreeMap<String, Names> = key_list::read("diffusers-rows");
    assert_eq!(all.len(), 3);
    for (name, Names { original: shapes, diffusers }) in all {
        let values = |key: &str| seeded::uniform(key, shapes[key].iter().product(), 0);
        let mut file = ModelFile::new();
        for (key, parts) in &diffusers {
            let mut shape = shapes[&parts[0].0].clone();
            shape[0] = parts.iter().map(|(_, _, count)| count).sum();
            let rows = parts.iter().flat_map(|(key, first, count)| {
                let width = row(&shapes[key]);
                values(key)[first * width..(first + count) * width].to_vec()
            });
            file.add(key, Dtype::F16, &shape, &rows.collect::<Vec<f32>>());
        }
        let file = Arc::new(file.open(&name));
        let whole = original(&file).unwrap();
        assert_eq!(whole.len(), shapes.len(), "{name}");
        for (key, shape) in &shapes {
            assert_eq!(&whole.get(key).unwrap().shape, shape, "{name} {key}");
            let expected = encode(&values(key), Dtype::F16);
            assert_eq!(*whole.bytes(key).unwrap(), *expected, "{name} {key}");
            // A part of it, from the middle on.
            let middle = expected.len() / 2 / 2 * 2;
            let rest = whole.read(key, middle as u64, expected.len() - middle).unwrap();
            assert_eq!(rest, expected[middle..], "{name} {key}");
        }
        // What is original already stays as it is.
        assert!(Arc::ptr_eq(&original(&whole).unwrap(), &whole), "{name}");
    }
}

fn clip() -> TextEncoderConfig {
    TextEncoderConfig::Clip(ClipConfig {
        vocab_size: 20,
        max_positions: 7,
        width: 16,
        layers: 2,
        heads: 1,
        intermediate: 32,
        activation: ClipActivation::QuickGelu,
        projection: None,
    })
}

fn t5() -> TextEncoderConfig {
    TextEncoderConfig::T5(T5Config {
        vocab_size: 20,
        width: 16,
        layers: 2,
        heads: 2,
        head_dim: 8,
        intermediate: 24,
        relative_buckets: 8,
    })
}

/// Writes encoders with the values that [`seeded`] gives their keys; `strip` is left out of the keys.
fn write_encoders(path: &Path, encoders: &[(&'static str, TextEncoderConfig)], strip: &str) {
    let configs = Configs { text_encoders: encoders.to_vec(), ..Configs::default() };
    let shapes = blank("encoders", &configs, Dtype::F32).unwrap();
    let tensors = shapes.tensors().map(|(key, info)| {
        let values = seeded::weight(key, &info.shape, 0);
        (key.strip_prefix(strip).unwrap_or(key).to_owned(), info.shape.clone(), values)
    });
    ModelFile::of_values(tensors).write(path);
}

#[test]
fn text_encoders_of_two_files_are_those_of_one_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_encoders(&path("both.safetensors"), &[("clip_l", clip()), ("t5xxl", t5())], "");
    let [l, t] = ["text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."];
    write_encoders(&path("l.safetensors"), &[("clip_l", clip())], l);
    write_encoders(&path("t.safetensors"), &[("t5xxl", t5())], t);
    let both = Checkpoint::open(&path("both.safetensors")).unwrap();
    let expected = recognise(&both).unwrap();
    let part = |names: [&str; 2]| ModelFiles {
        paths: names.map(path).to_vec(),
        reading: Reading::TextEncoders,
    };
    for names in [["l.safetensors", "t.safetensors"], ["t.safetensors", "l.safetensors"]] {
        let (checkpoint, model) = part(names).open("encoders").unwrap();
        assert_eq!(model.text_encoders, expected.text_encoders);
        assert_eq!(model.missing(), expected.missing());
        let component = model.component(ComponentKind::TextEncoders).unwrap();
        let whole = expected.component(ComponentKind::TextEncoders).unwrap();
        assert_eq!(component.layers.len(), whole.layers.len());
        for (layer, other) in component.layers.iter().zip(&whole.layers) {
            assert_eq!((&layer.name, layer.use_index), (&other.name, other.use_index));
            for (param, other) in layer.params.iter().zip(&other.params) {
                assert_eq!((&param.name, &param.shape), (&other.name, &other.shape));
                let bytes = checkpoint.bytes(&param.key).unwrap();
                assert_eq!(bytes, both.bytes(&other.key).unwrap(), "{}", param.key);
            }
        }
        assert!(checkpoint.check().is_ok());
        assert_eq!(
            checkpoint.file_len(),
            ["l.safetensors", "t.safetensors"]
                .map(|name| { path(name).metadata().unwrap().len() })
                .iter()
                .sum::<u64>()
        );
    }
    let twice = part(["l.safetensors", "l.safetensors"]).open("encoders").unwrap_err().to_string();
    assert!(twice.contains("both hold the text encoder clip_l"), "{twice}");
}

#[test]
fn values_are_rounded_as_they_are_read() {
    let values = seeded::uniform("values", 24, 0);
    let mut file = ModelFile::new();
    file.add("m.weight", Dtype::F16, &[4, 6], &values);
    file.add("m.bias", Dtype::BF16, &[4], &values[..4]);
    file.add_bytes("m.counter", Dtype::I64, &[1], &7_i64.to_le_bytes());
    let file = Arc::new(file.open("file"));
    for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
        let rounded = file.rounded(dtype).unwrap();
        for key in ["m.weight", "m.bias"] {
            let stored = to_f32(&file.bytes(key).unwrap(), file.get(key).unwrap().dtype);
            let expected = to_fp8(&stored, dtype);
            assert_eq!(rounded.get(key).unwrap().dtype, dtype);
            assert_eq!(*rounded.bytes(key).unwrap(), *expected);
            assert_eq!(rounded.read(key, 1, 3).unwrap(), expected[1..4]);
            assert!(rounded.view(key, 0, 3).unwrap().is_none(), "these bytes are in no file");
        }
        assert_eq!(rounded.get("m.counter").unwrap().dtype, Dtype::I64);
        // Matrices in 8 bits have scales beside them, which rounding would spoil.
        assert!(Arc::ptr_eq(&rounded.rounded(Dtype::F8E5M2).unwrap(), &rounded));
    }
}

#[test]
fn what_pieces_do_not_make_is_an_error() {
    let mut file = ModelFile::new();
    file.add("a", Dtype::F32, &[2, 3], &[1., 2., 3., 4., 5., 6.]);
    file.add("b", Dtype::F16, &[2, 3], &[0.; 6]);
    let file = Arc::new(file.open("file"));
    let made = |shape: &[usize], pieces: Vec<Piece>| {
        let (key, dtype) = ("new".to_owned(), None);
        let tensor = NewTensor { key, shape: shape.to_vec(), pieces, dtype };
        Checkpoint::assemble("made", vec![Arc::clone(&file)], IndexMap::new(), [tensor])
    };
    let rows = |rows| Piece { rows: Some(rows), ..Piece::whole(0, "a") };
    let swapped = made(&[2, 3], vec![rows(1..2), rows(0..1)]).unwrap();
    let bytes = swapped.bytes("new").unwrap();
    assert_eq!(to_f32(&bytes, Dtype::F32), [4., 5., 6., 1., 2., 3.]);
    let why = |shape: &[usize], pieces| made(shape, pieces).unwrap_err().to_string();
    assert!(why(&[2, 3], vec![rows(0..1)]).contains("do not make its shape"));
    assert!(why(&[2, 3], vec![rows(0..3)]).contains("it has 2 rows"));
    assert!(
        why(&[4, 3], vec![Piece::whole(0, "a"), Piece::whole(0, "b")]).contains("other dtypes")
    );
    assert!(why(&[2, 3], vec![Piece::whole(0, "c")]).contains("`c`"));
    assert!(why(&[2, 3], vec![Piece::whole(1, "a")]).contains("`a`"));
    assert!(why(&[0], Vec::new()).contains("it is empty"));
}

#[test]
fn a_folder_of_diffusers_has_its_models_in_files_or_shards() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let open = || ModelFiles::of_diffusers(folder.path()).map_err(|error| error.to_string());
    assert!(open().unwrap_err().contains("no `model_index.json`"));
    std::fs::write(path("model_index.json"), "{}").unwrap();
    assert!(open().unwrap_err().contains("no weights"));
    let strip = "text_encoders.clip_l.transformer.";
    write_encoders(&path("text_encoder/model.safetensors"), &[("clip_l", clip())], strip);
    write_encoders(&path("text_encoder/model.fp16.safetensors"), &[("clip_l", clip())], strip);
    // T5 in two shards.
    write_encoders(&path("t5.safetensors"), &[("t5xxl", t5())], "text_encoders.t5xxl.transformer.");
    let whole = Checkpoint::open(&path("t5.safetensors")).unwrap();
    let mut shards = [ModelFile::new(), ModelFile::new()];
    for (at, (key, info)) in whole.tensors().enumerate() {
        shards[at % 2].add_bytes(key, info.dtype, &info.shape, &whole.bytes(key).unwrap());
    }
    for (at, shard) in shards.iter().enumerate() {
        shard.write(&path(&format!("text_encoder_2/model-0000{}-of-00002.safetensors", at + 1)));
    }
    let files = open().unwrap();
    let names: Vec<_> =
        files.paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "model.fp16.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors"
        ]
    );
    let (checkpoint, model) = files.open("pipeline").unwrap();
    let encoders: Vec<_> = model.text_encoders.iter().map(|encoder| encoder.name).collect();
    assert_eq!(encoders, ["clip_l", "t5xxl"]);
    let layers = &model.component(ComponentKind::TextEncoders).unwrap().layers;
    let of_t5 = layers.iter().filter(|layer| layer.name.starts_with("t5xxl."));
    for param in of_t5.flat_map(|layer| &layer.params) {
        let key = param.key.rsplit('/').next().unwrap();
        assert_eq!(checkpoint.bytes(&param.key).unwrap(), whole.bytes(key).unwrap(), "{key}");
    }
}

/// Of Qwen-Image's published files (`tools/reference/make_qwen_image_keys.py`).
#[derive(Deserialize)]
struct QwenImage {
    transformer: IndexMap<String, Vec<usize>>,
    parameters: u64,
    text: IndexMap<String, Vec<usize>>,
}

/// Of Qwen-Image 2.1's published file.
#[derive(Deserialize)]
struct QwenImage21 {
    transformer: IndexMap<String, Vec<usize>>,
    parameters: u64,
}

#[test]
fn files_of_qwen_image_2_1_are_recognised() {
    let QwenImage21 { transformer, parameters } = key_list::read("qwen-image21");
    let tensors = transformer.into_iter().map(|(key, shape)| (key, (Dtype::BF16, shape)));
    let mut tensors: key_list::Tensors = tensors.collect();
    let model = recognise(&key_list::parts(tensors.clone(), &[])).unwrap();
    assert_eq!((model.label().as_str(), &model.unknown), ("Qwen-Image 2.1", &Vec::new()));
    let component = model.component(ComponentKind::DiffusionModel).unwrap();
    assert_eq!(component.parameters(), parameters);
    let Some(DiffusionConfig::QwenImage21(config)) = model.diffusion.map(|found| found.config)
    else {
        panic!("another network")
    };
    let sizes = (config.width, config.heads, config.depth, config.context_dim, config.mlp_width);
    assert_eq!((sizes, config.fused_gate), ((4096, 32, 32, 4096, 12_288), true));
    // Without the tensor that it is known by it is still known, and that tensor missed.
    tensors.shift_remove("txt_in.text_norm.weight");
    let error = recognise(&key_list::parts(tensors, &[])).unwrap_err().to_string();
    assert!(error.contains("txt_in.text_norm.weight"), "{error}");
}

#[test]
fn files_of_qwen_image_are_recognised() {
    let QwenImage { transformer, parameters, text } = key_list::read("qwen-image");
    let open = |shapes: IndexMap<String, Vec<usize>>, prefix: &str, more: &[&str]| {
        let eight = |shape: &[usize]| if shape.len() == 2 { Dtype::F8E4M3 } else { Dtype::BF16 };
        let mut all: key_list::Tensors = shapes
            .into_iter()
            .map(|(key, shape)| (format!("{prefix}{key}"), (eight(&shape), shape)))
            .collect();
        all.extend(more.iter().map(|key| ((*key).to_owned(), (Dtype::F32, vec![1]))));
        recognise(&key_list::parts(all, &[])).unwrap()
    };
    for (prefix, marker) in [("", false), ("model.diffusion_model.", false), ("", true)] {
        let more: &[&str] = if marker { &["__index_timestep_zero__"] } else { &[] };
        let model = open(transformer.clone(), prefix, more);
        assert_eq!(model.label(), "Qwen-Image");
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        assert_eq!(component.parameters(), parameters);
        assert_eq!((&model.unknown, model.ignored.len()), (&Vec::new(), more.len()));
        let Some(DiffusionConfig::QwenImage(config)) = model.diffusion.map(|found| found.config)
        else {
            panic!("another network")
        };
        let sizes = (config.width, config.heads, config.depth, config.context_dim);
        assert_eq!(sizes, (3072, 24, 60, 3584));
        assert_eq!(config.references_at_zero, marker);
    }
    // As transformers names it today, and with a name that the place gives.
    let new = |key: &str| match key.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None if key.starts_with("visual.") => format!("model.{key}"),
        None => key.to_owned(),
    };
    let today = text.iter().map(|(key, shape)| (new(key), shape.clone())).collect();
    for (text, prefix) in
        [(text.clone(), ""), (today, ""), (text, "text_encoders.qwen25_7b.transformer.")]
    {
        let model = open(text, prefix, &[]);
        let [encoder] = &model.text_encoders[..] else { panic!("one encoder") };
        assert_eq!(encoder.name, "qwen25vl");
        let TextEncoderConfig::Decoder(config) = &encoder.config else { panic!("a decoder") };
        let sizes = (config.width, config.layers, config.heads, config.kv_heads, config.head_dim);
        assert_eq!(sizes, (3584, 28, 28, 4, 128));
        let vision = config.vision.unwrap();
        assert_eq!((vision.width, vision.layers, vision.heads), (1280, 32, 16));
        assert_eq!((vision.intermediate, vision.patch_size), (3420, 14));
        let ignored: Vec<_> = model.ignored.iter().map(|ignored| ignored.key.as_str()).collect();
        assert!(ignored.iter().all(|key| key.ends_with("lm_head.weight")), "{ignored:?}");
        assert_eq!(model.unknown, Vec::<String>::new());
    }
}
