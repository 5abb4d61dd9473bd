//! LoRA files for Flux: names of every tool, of which diffusers' are held against its own converter
//! (`tools/reference/make_lora.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

mod common;

use std::collections::BTreeMap;

use common::{Fixture, read};
use distorch_checkpoint::family::{Model, recognise};
use distorch_checkpoint::lora::{self, Lora, RowSpan};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};

fn model(name: &str) -> Model {
    recognise(&Fixture::load(name).checkpoint(Dtype::F16)).unwrap()
}

/// A file of these keys and shapes, without data.
fn lora(tensors: impl IntoIterator<Item = (String, Vec<usize>)>, model: &Model) -> Lora {
    let tensors = tensors.into_iter().map(|(key, shape)| (key, Dtype::F16, shape));
    let file = Checkpoint::from_parts("test", Default::default(), tensors).unwrap();
    let lora = lora::read(&file, model).unwrap();
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
