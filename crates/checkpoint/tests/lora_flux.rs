//! LoRA files for Flux: names of every tool, of which diffusers' are held against its own converter
//! (`tools/reference/make_lora.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

mod common;

use std::collections::BTreeMap;

use common::{Fixture, read};
use distorch_checkpoint::family::{Model, Variant, Widened, recognise};
use distorch_checkpoint::lora::{self, Delta, Lora, LoraError, RowSpan};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_test_support::model_file::ModelFile;

fn model(name: &str) -> Model {
    recognise(&Fixture::load(name).checkpoint(Dtype::F16)).unwrap()
}

/// A file of these keys and shapes, without data.
fn try_lora(
    tensors: impl IntoIterator<Item = (String, Vec<usize>)>,
    model: &Model,
) -> Result<Lora, LoraError> {
    let tensors = tensors.into_iter().map(|(key, shape)| (key, Dtype::F16, shape));
    lora::read(&Checkpoint::from_parts("test", Default::default(), tensors).unwrap(), model)
}

/// As [`try_lora`], of a file that fits.
fn lora(tensors: impl IntoIterator<Item = (String, Vec<usize>)>, model: &Model) -> Lora {
    let lora = try_lora(tensors, model).unwrap();
    assert_eq!(lora.unknown, [""; 0]);
    lora
}

/// Diffusers' modules: the original layer, and its rows where the module's begin and where they jump.
fn names() -> BTreeMap<String, (String, Vec<usize>)> {
    read("flux-names")
}

#[test]
fn the_original_names_are_found_in_every_form() {
    let model = model("tiny-flux");
    let transformer = model.component(ComponentKind::DiffusionModel).unwrap();
    let forms: [fn(&str) -> String; 5] = [
        |layer| format!("lora_unet_{}", layer.replace('.', "_")),
        |layer| format!("diffusion_model.{layer}"),
        |layer| format!("model.diffusion_model.{layer}"),
        |layer| format!("base_model.model.{layer}"),
        str::to_owned,
    ];
    for form in forms {
        let diff = |layer: &distorch_checkpoint::Layer| {
            (format!("{}.diff", form(&layer.name)), layer.params[0].shape.clone())
        };
        let lora = lora(transformer.layers.iter().map(diff), &model);
        let found: Vec<_> = lora.adapters.iter().map(|adapter| adapter.layer.clone()).collect();
        let layers: Vec<_> = transformer.layers.iter().map(|layer| layer.name.clone()).collect();
        assert_eq!(found, layers);
        for adapter in &lora.adapters {
            let whole = RowSpan { adapter: 0, layer: 0, count: adapter.shape[0] };
            assert_eq!(adapter.rows, [whole], "{}", adapter.layer);
        }
    }
}

#[test]
fn diffusers_names_are_the_rows_that_its_converter_says() {
    let model = model("tiny-flux");
    let transformer = model.component(ComponentKind::DiffusionModel).unwrap();
    let names = names();
    let forms: [fn(&str) -> String; 4] = [
        |module| format!("transformer.{module}"),
        |module| format!("base_model.model.{module}"),
        |module| format!("lora_transformer_{}", module.replace('.', "_")),
        |module| format!("lora_unet_{}", module.replace('.', "_")),
    ];
    // Modules that share a layer's rows have what lies between their first ones.
    let rows = |module: &str| {
        let (layer, first) = &names[module];
        let layer = transformer.layers.iter().find(|found| found.name == *layer).unwrap();
        let height = layer.params[0].shape[0];
        let starts = names.values().filter(|(other, _)| *other == layer.name);
        let starts: Vec<usize> = starts.flat_map(|(_, first)| first.clone()).collect();
        let mut at = 0;
        let span = |first: &usize| {
            let behind = starts.iter().filter(|start| *start > first).min().unwrap_or(&height);
            let span = RowSpan { adapter: at, layer: *first, count: behind - first };
            at += span.count;
            span
        };
        let spans: Vec<RowSpan> = first.iter().map(span).collect();
        (layer.name.clone(), layer.params[0].shape.clone(), spans)
    };
    for form in forms {
        for module in names.keys() {
            let (layer, mut shape, spans) = rows(module);
            shape[0] = spans.iter().map(|span| span.count).sum();
            let lora = lora([(format!("{}.diff", form(module)), shape)], &model);
            let [adapter] = &lora.adapters[..] else { panic!("{module}: {:?}", lora.adapters) };
            assert_eq!((&adapter.layer, &adapter.rows), (&layer, &spans), "{}", form(module));
        }
    }
}

/// XLabs' names beside what diffusers' `_convert_xlabs_flux_lora_to_diffusers` makes of them: the same modules' rows.
#[test]
fn x_labs_names_are_what_its_conversion_says() {
    let model = model("tiny-flux");
    let names = names();
    let double = ["to_q", "to_k", "to_v"].map(|name| format!("transformer_blocks.0.attn.{name}"));
    let added = ["add_q_proj", "add_k_proj", "add_v_proj"];
    let added = added.map(|name| format!("transformer_blocks.0.attn.{name}"));
    let single =
        ["to_q", "to_k", "to_v"].map(|name| format!("single_transformer_blocks.0.attn.{name}"));
    let one = |name: &str| vec![name.to_owned()];
    let transformer = model.component(ComponentKind::DiffusionModel).unwrap();
    let shape_of = |layer: &str| {
        let found = transformer.layers.iter().find(|found| found.name == layer).unwrap();
        found.params[0].shape.clone()
    };
    for (module, parts) in [
        ("double_blocks.0.processor.qkv_lora1", double.to_vec()),
        ("double_blocks.0.processor.qkv_lora2", added.to_vec()),
        ("double_blocks.0.processor.proj_lora1", one("transformer_blocks.0.attn.to_out.0")),
        ("double_blocks.0.processor.proj_lora2", one("transformer_blocks.0.attn.to_add_out")),
        ("single_blocks.0.processor.qkv_lora", single.to_vec()),
        ("single_blocks.0.processor.proj_lora", one("single_transformer_blocks.0.proj_out")),
    ] {
        let (layer, first) = &names[&parts[0]];
        let shape = shape_of(layer);
        let width = shape_of("double_blocks.0.img_attn.proj")[0];
        let rows = parts.len() * width;
        assert!(parts.iter().all(|part| names[part].0 == *layer), "{module}");
        let starts: Vec<usize> = parts.iter().flat_map(|part| names[part].1.clone()).collect();
        let expected: Vec<usize> = (0..parts.len()).map(|part| first[0] + part * width).collect();
        assert_eq!(starts, expected, "{module}");
        let tensors = |prefix: &str| {
            let [up, down] = [("up", vec![rows, 2]), ("down", vec![2, shape[1]])];
            [up, down].map(|(end, shape)| (format!("{prefix}{module}.{end}.weight"), shape))
        };
        for prefix in ["", "diffusion_model."] {
            let lora = lora(tensors(prefix), &model);
            let [adapter] = &lora.adapters[..] else { panic!("{module}: {:?}", lora.adapters) };
            let span = RowSpan { adapter: 0, layer: first[0], count: rows };
            assert_eq!((&adapter.layer, &adapter.rows[..]), (layer, &[span][..]), "{module}");
        }
    }
}

/// Canny's and Depth's in Black Forest Labs' layout.
#[test]
fn a_control_lora_widens_the_input_and_sets_norms() {
    let model = model("flux-dev");
    let rank = 128;
    let tensors = [
        ("img_in.lora_A.weight", vec![rank, 128]),
        ("img_in.lora_B.weight", vec![3072, rank]),
        ("img_in.lora_B.bias", vec![3072]),
        ("single_blocks.0.norm.key_norm.scale", vec![128]),
        ("single_blocks.0.linear1.lora_A.weight", vec![rank, 3072]),
        ("single_blocks.0.linear1.lora_B.weight", vec![21504, rank]),
    ];
    let tensors = || tensors.clone().map(|(key, shape)| (key.to_owned(), shape));
    let found = lora(tensors(), &model);
    let input = Widened { layer: "img_in".into(), columns: 128 };
    assert_eq!(found.widened.as_ref(), Some(&input));
    let shapes: Vec<_> = found.adapters.iter().map(|a| (a.layer.as_str(), &a.shape[..])).collect();
    let expected = [
        ("img_in", &[3072, 128][..]),
        ("single_blocks.0.norm.key_norm", &[128]),
        ("single_blocks.0.linear1", &[21504, 3072]),
    ];
    assert_eq!(shapes, expected);
    assert!(matches!(found.adapters[1].delta, Some(Delta::Replacement(_))));
    assert_eq!(found.adapters[1].param, "scale");
    let diffusion = model.diffusion.as_ref().unwrap();
    assert_eq!(diffusion.widened(&input).unwrap().variant, Variant::Control);

    // A model that takes the picture already is not widened.
    let control = self::model("flux-depth");
    assert_eq!(lora(tensors(), &control).widened, None);
    // Without the norm it is not in that layout, and the input does not fit.
    let rest = tensors().into_iter().filter(|(key, _)| !key.ends_with("scale"));
    let error = try_lora(rest, &model).unwrap_err().to_string();
    assert!(error.contains("img_in.lora_A.weight") && error.contains("[rank, 64]"), "{error}");
    // Nor does it fit a model that takes a mask.
    let error = try_lora(tensors(), &self::model("flux-fill")).unwrap_err().to_string();
    assert!(error.contains("img_in.lora_A.weight") && error.contains("widens"), "{error}");
    // Three latents are none of Flux's.
    let three = tensors().map(|(key, shape)| match key.as_str() {
        "img_in.lora_A.weight" => (key, vec![rank, 192]),
        _ => (key, shape),
    });
    let error = try_lora(three, &model).unwrap_err().to_string();
    assert!(error.contains("img_in.lora_A.weight") && error.contains("widens"), "{error}");
}

/// ComfyUI's own keys for the same.
#[test]
fn shapes_and_replacements_by_comfyuis_keys() {
    let model = model("tiny-flux");
    let read = |shape: &[f32]| {
        let zeros = |key: &str, shape: &[usize]| {
            (format!("diffusion_model.{key}"), shape.to_vec(), vec![0.0; shape.iter().product()])
        };
        let reshape =
            ("diffusion_model.img_in.reshape_weight".to_owned(), vec![shape.len()], shape.to_vec());
        let file = ModelFile::of_values([
            zeros("img_in.lora_A.weight", &[2, 128]),
            zeros("img_in.lora_B.weight", &[64, 2]),
            reshape,
            zeros("single_blocks.0.norm.key_norm.scale.set_weight", &[32]),
            zeros("single_blocks.0.linear2.set_weight", &[64, 320]),
        ]);
        lora::read(&file.open("test.safetensors"), &model)
    };
    let found = read(&[64.0, 128.0]).unwrap();
    assert_eq!(found.widened, Some(Widened { layer: "img_in".into(), columns: 128 }));
    let layers: Vec<_> = found.adapters.iter().map(|adapter| adapter.layer.as_str()).collect();
    let expected = ["img_in", "single_blocks.0.norm.key_norm", "single_blocks.0.linear2"];
    assert_eq!(layers, expected);
    for (shape, part) in [
        (&[64.0, 128.0, 1.0][..], "[3]"),
        (&[64.5, 128.0], "two whole numbers"),
        (&[f32::NAN, 128.0], "two whole numbers"),
        (&[-64.0, 128.0], "two whole numbers"),
        (&[65.0, 128.0], "widens"),
        (&[64.0, 1e30], "two whole numbers"),
    ] {
        let error = read(shape).unwrap_err().to_string();
        assert!(error.contains("reshape_weight") && error.contains(part), "{shape:?}: {error}");
    }
}

#[test]
fn the_first_text_encoder_is_clip_and_the_second_t5() {
    let model = model("flux-dev");
    let clip = "clip_l.text_model.encoder.layers.1.self_attn.q_proj";
    let t5 = "t5xxl.encoder.block.3.layer.0.SelfAttention.q";
    let (own_clip, own_t5) = (&clip["clip_l.".len()..], &t5["t5xxl.".len()..]);
    let kohya = |own: &str| own.replace('.', "_");
    for (name, width, layer) in [
        (format!("lora_te_{}", kohya(own_clip)), 768, clip),
        (format!("lora_te1_{}", kohya(own_clip)), 768, clip),
        (format!("text_encoder.{own_clip}"), 768, clip),
        (format!("text_encoders.clip_l.transformer.{own_clip}"), 768, clip),
        (format!("lora_te2_{}", kohya(own_t5)), 4096, t5),
        (format!("lora_te3_{}", kohya(own_t5)), 4096, t5),
        (format!("text_encoder_2.{own_t5}"), 4096, t5),
        (format!("text_encoders.t5xxl.transformer.{own_t5}"), 4096, t5),
    ] {
        let [up, down] = [("lora_up", [width, 2]), ("lora_down", [2, width])]
            .map(|(tensor, shape)| (format!("{name}.{tensor}.weight"), shape.to_vec()));
        let lora = lora([up, down], &model);
        let found: Vec<_> = lora.adapters.iter().map(|adapter| &adapter.layer).collect();
        assert_eq!(found, [layer], "{name}");
    }
}
