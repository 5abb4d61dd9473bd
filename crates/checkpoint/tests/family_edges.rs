//! Files that are incomplete, odd, partial or something else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

mod common;

use common::{Fixture, Tensors, parts};
use distorch_checkpoint::config::{DiffusionConfig, Prediction};
use distorch_checkpoint::family::{Family, FamilyError, Model, recognise};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use proptest::prelude::*;
use safetensors::tensor::TensorView;

const QUERY: &str = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight";

fn tensors(fixture: &str) -> Tensors {
    let all = Fixture::load(fixture).tensors;
    all.into_iter().map(|(key, shape)| (key, (Dtype::F16, shape))).collect()
}

fn tiny() -> Tensors {
    tensors("tiny-sd1")
}

fn recognised(tensors: Tensors) -> Model {
    recognise(&parts(tensors, &[])).unwrap()
}

fn refused(tensors: Tensors) -> FamilyError {
    recognise(&parts(tensors, &[])).unwrap_err()
}

/// Keys with one dimension each.
fn keys(names: &[&str]) -> Tensors {
    names.iter().map(|name| ((*name).to_owned(), (Dtype::F16, vec![4]))).collect()
}

fn renamed(tensors: Tensors, rename: impl Fn(&str) -> Option<String>) -> Tensors {
    tensors.into_iter().filter_map(|(key, tensor)| Some((rename(&key)?, tensor))).collect()
}

/// What is under a prefix, as a file of its own.
fn only(tensors: Tensors, prefix: &str) -> Tensors {
    renamed(tensors, |key| key.strip_prefix(prefix).map(str::to_owned))
}

#[test]
fn a_missing_tensor_is_named() {
    let mut tensors = tiny();
    tensors.shift_remove(QUERY.replace("to_q", "to_v").as_str()).unwrap();
    let error = refused(tensors);
    let FamilyError::Missing { part, keys, total } = &error else { panic!("{error}") };
    assert_eq!(part, "SD 1.x diffusion model");
    assert_eq!((keys.as_slice(), *total), ([QUERY.replace("to_q", "to_v")].as_slice(), 1));
    assert!(error.to_string().contains("attn1.to_v.weight"), "{error}");
}

#[test]
fn many_missing_tensors_are_counted() {
    let mut tensors = tiny();
    let lost = |key: &str| key.contains("output_blocks.2.0.");
    let count = tensors.keys().filter(|key| lost(key)).count();
    tensors.retain(|key, _| !lost(key));
    let FamilyError::Missing { keys, total, .. } = refused(tensors) else { panic!() };
    assert_eq!((keys.len(), total), (3, count));
}

#[test]
fn a_missing_fused_tensor_counts_once() {
    let mut tensors = tensors("tiny-sd2");
    tensors.shift_remove("cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias");
    let FamilyError::Missing { total, part, .. } = refused(tensors) else { panic!() };
    assert_eq!((total, part.as_str()), (1, "text encoder clip_h"));
}

#[test]
fn a_wrong_shape_is_named_with_what_is_asked_for() {
    let mut tensors = tiny();
    tensors[QUERY].1 = vec![128, 127];
    let error = refused(tensors);
    let FamilyError::Shape { key, expected, found, .. } = &error else { panic!("{error}") };
    assert_eq!(key, QUERY);
    assert_eq!(
        (expected.as_slice(), found.as_slice()),
        ([128, 128].as_slice(), [128, 127].as_slice())
    );
}

#[test]
fn integer_weights_are_refused() {
    let mut tensors = tiny();
    tensors[QUERY].0 = Dtype::I8;
    assert!(matches!(refused(tensors), FamilyError::Quantised { dtype: Dtype::I8, .. }));
}

#[test]
fn tensors_that_nothing_is_known_about_are_reported() {
    let mut all = tiny();
    all.extend(keys(&["model.diffusion_model.something.new", "extra", "model_ema.decay", "betas"]));
    let model = recognised(all);
    assert_eq!(model.unknown, ["model.diffusion_model.something.new", "extra"]);
    let ignored: Vec<_> = model.ignored.iter().map(|ignored| ignored.key.as_str()).collect();
    assert_eq!(ignored, ["model_ema.decay", "betas"]);
}

#[test]
fn parts_of_a_checkpoint_are_recognised_alone() {
    let model = recognised(only(tensors("tiny-sdxl"), "model.diffusion_model."));
    assert_eq!(model.family(), Some(Family::SdxlBase));
    assert_eq!(model.missing(), [ComponentKind::TextEncoders, ComponentKind::Vae]);

    for (fixture, family) in [
        ("sdxl-refiner", Family::SdxlRefiner),
        ("sd21-v", Family::Sd2),
        ("sd35-large", Family::Sd3),
        ("flux-schnell", Family::Flux),
    ] {
        let bare = only(tensors(fixture), "model.diffusion_model.");
        let other_prefix = renamed(bare.clone(), |key| Some(format!("diffusion_model.{key}")));
        assert_eq!(recognised(bare).family(), Some(family));
        assert_eq!(recognised(other_prefix).family(), Some(family));
    }

    let model = recognised(only(tiny(), "first_stage_model."));
    assert_eq!((model.family(), model.label().as_str()), (None, "VAE"));
    assert_eq!(model.notes.len(), 1);
    assert_eq!(model.component(ComponentKind::Vae).unwrap().parameters(), 658_375);

    for (fixture, prefix, name) in [
        ("sd15", "cond_stage_model.transformer.", "clip_l"),
        ("sd21-v", "cond_stage_model.model.", "clip_h"),
        ("sdxl-base", "conditioner.embedders.1.model.", "clip_g"),
        ("sd3-medium", "text_encoders.clip_g.transformer.", "clip_g"),
        ("sd3-medium", "text_encoders.t5xxl.transformer.", "t5xxl"),
    ] {
        let model = recognised(only(tensors(fixture), prefix));
        assert_eq!(model.label(), format!("text encoder {name}"));
        assert_eq!(model.unknown, Vec::<String>::new());
    }
}

#[test]
fn old_files_name_clip_without_text_model() {
    let old =
        renamed(tensors("sd15"), |key| {
            Some(key.replace(
                "cond_stage_model.transformer.text_model.",
                "cond_stage_model.transformer.",
            ))
        });
    let new = recognised(tensors("sd15"));
    let old = recognised(old);
    assert_eq!(old.unknown, Vec::<String>::new());
    let names = |model: &Model| -> Vec<String> {
        let clip = model.component(ComponentKind::TextEncoders).unwrap();
        clip.layers.iter().map(|layer| layer.name.clone()).collect()
    };
    assert_eq!(names(&old), names(&new));
}

#[test]
fn sd2_in_the_layout_of_generative_models_keeps_clip_h() {
    let turbo = renamed(tensors("sd21-v"), |key| {
        Some(key.replace("cond_stage_model.model.", "conditioner.embedders.0.model."))
    });
    let model = recognised(turbo);
    assert_eq!((model.family(), model.text_encoders[0].name), (Some(Family::Sd2), "clip_h"));
}

#[test]
fn t5_may_keep_its_table_under_either_name_or_both() {
    let shared = "text_encoders.t5xxl.transformer.shared.weight";
    let tied = "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight";
    let mut all = tensors("tiny-sd3");
    let table = all[shared].clone();
    all.insert(tied.to_owned(), table);
    let both = recognised(all.clone());
    assert_eq!(both.ignored[0].key, tied);
    all.shift_remove(shared);
    let one = recognised(all);
    assert!(one.ignored.is_empty() && one.unknown.is_empty());
    assert_eq!(one.components[1].parameters(), both.components[1].parameters());
}

/// Wherever it is beside the weights: in a file of T5 alone, and where ComfyUI saves it.
#[test]
fn t5_brings_its_vocabulary() {
    let t5 = only(tensors("tiny-sd3"), "text_encoders.t5xxl.transformer.");
    let spiece = b"\x0a\x01".repeat(5);
    for (prefix, beside) in [
        ("", ""),
        ("text_encoders.t5xxl.transformer.", "text_encoders."),
        ("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.transformer."),
    ] {
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let longest = t5.values().map(|(_, shape)| 2 * elements(shape)).max().unwrap();
        let zeros = vec![0; longest];
        let weight = |(key, (_, shape)): (&String, &(Dtype, Vec<usize>))| {
            let data = &zeros[..2 * elements(shape)];
            let view = TensorView::new(safetensors::Dtype::F16, shape.clone(), data).unwrap();
            (format!("{prefix}{key}"), view)
        };
        let mut views: Vec<_> = t5.iter().map(weight).collect();
        let view = TensorView::new(safetensors::Dtype::U8, vec![spiece.len()], &spiece).unwrap();
        views.push((format!("{beside}spiece_model"), view));
        let file = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
        safetensors::serialize_to_file(views, None, file.path()).unwrap();
        let model = recognise(&Checkpoint::open(file.path()).unwrap()).unwrap();
        let [encoder] = model.text_encoders.as_slice() else { panic!("{:?}", model.text_encoders) };
        assert_eq!(encoder.vocabulary.as_deref(), Some(spiece.as_slice()), "{beside}");
        assert_eq!((model.ignored, model.unknown), (vec![], vec![]), "{beside}");
    }
}

#[test]
fn a_vocabulary_beyond_belief_is_refused() {
    let mut all = tensors("tiny-sd3");
    all.insert("text_encoders.spiece_model".to_owned(), (Dtype::U8, vec![1 << 27]));
    assert!(matches!(refused(all), FamilyError::OddShape { .. }));
}

#[test]
fn an_autoencoders_attention_may_be_stored_as_matrices() {
    let matrices = |all: Tensors| -> Tensors {
        let flatten = |(key, (dtype, mut shape)): (String, (Dtype, Vec<usize>))| {
            if key.contains("mid.attn_1.") && shape.len() == 4 {
                shape.truncate(2);
            }
            (key, (dtype, shape))
        };
        all.into_iter().map(flatten).collect()
    };
    assert_eq!(recognised(matrices(tiny())), recognised(tiny()));
}

#[test]
fn scales_of_fp8_belong_to_their_layer() {
    for (names, marker) in [
        (["scale_weight", "scale_input"], "model.diffusion_model.scaled_fp8"),
        (["weight_scale", "input_scale"], "model.diffusion_model.double_blocks.0.comfy_quant"),
    ] {
        let mut all = tensors("tiny-flux");
        let base = "model.diffusion_model.single_blocks.1.linear1";
        all[format!("{base}.weight").as_str()].0 = Dtype::F8E4M3;
        for name in names {
            all.insert(format!("{base}.{name}"), (Dtype::F32, vec![]));
        }
        all.insert(marker.to_owned(), (Dtype::F8E4M3, vec![2]));
        let model = recognised(all);
        assert_eq!(model.unknown, Vec::<String>::new());
        assert_eq!(model.ignored.len(), 1);
        let layers = &model.components[0].layers;
        let layer = layers.iter().find(|layer| layer.name == "single_blocks.1.linear1").unwrap();
        let found: Vec<_> = layer.params.iter().map(|param| param.name.as_str()).collect();
        assert_eq!(found, ["weight", "bias", names[0], names[1]]);
    }
}

#[test]
fn flux_norms_may_be_called_weight() {
    let all = renamed(tensors("tiny-flux"), |key| Some(key.replace("_norm.scale", "_norm.weight")));
    let model = recognised(all);
    assert_eq!(model.unknown, Vec::<String>::new());
    assert_eq!(model.components[0].parameters(), 558_016);
}

#[test]
fn pruned_middles_are_read_off() {
    let mut all = tensors("tiny-sdxl");
    all.retain(|key, _| !key.starts_with("model.diffusion_model.middle_block."));
    let model = recognised(all);
    let Some(DiffusionConfig::Unet(config)) = model.diffusion.map(|d| d.config) else { panic!() };
    assert_eq!((config.middle_res_blocks, config.transformer_depth_middle), (0, None));
}

fn prediction(fixture: &str, markers: &[&str], metadata: &[(&str, &str)]) -> (Prediction, bool) {
    let mut all = tensors(fixture);
    all.extend(keys(markers));
    let model = recognise(&parts(all, metadata)).unwrap();
    assert_eq!(model.unknown, Vec::<String>::new());
    let diffusion = model.diffusion.unwrap();
    (diffusion.prediction, diffusion.zero_terminal_snr)
}

#[test]
fn markers_and_metadata_tell_the_prediction() {
    let tell =
        |markers: &[&str], metadata: &[(&str, &str)]| prediction("tiny-sdxl", markers, metadata);
    assert_eq!(tell(&[], &[]), (Prediction::Epsilon, false));
    assert_eq!(tell(&["v_pred"], &[]), (Prediction::V, false));
    assert_eq!(tell(&["v_pred", "ztsnr"], &[]), (Prediction::V, true));
    assert_eq!(tell(&["v_pred"], &[("modelspec.prediction_type", "epsilon")]).0, Prediction::V);
    assert_eq!(tell(&[], &[("modelspec.prediction_type", "v")]).0, Prediction::V);
    assert_eq!(tell(&[], &[("modelspec.prediction_type", "sample")]).0, Prediction::X0);
    assert_eq!(tell(&[], &[("ss_zero_terminal_snr", "True")]), (Prediction::Epsilon, true));
    let sd2 = [("modelspec.architecture", "stable-diffusion-v2-768-v")];
    assert_eq!(prediction("tiny-sd2", &[], &sd2).0, Prediction::V);
    assert_eq!(prediction("tiny-flux", &["v_pred"], &[]), (Prediction::Flow, false));
}

#[test]
fn sd2_without_data_says_that_its_prediction_is_a_guess() {
    let model = recognised(tensors("sd21-v"));
    assert_eq!(model.diffusion.unwrap().prediction, Prediction::Epsilon);
    assert!(model.notes[0].contains("output_blocks.11.1"), "{:?}", model.notes);
}

#[test]
fn text_encoders_of_another_model_are_noted() {
    let mut all = tiny();
    all.retain(|key, _| !key.starts_with("cond_stage_model."));
    all.extend(tensors("sd15").into_iter().filter(|(key, _)| key.starts_with("cond_stage_model.")));
    assert!(recognised(all).notes[0].contains("768"));
}

#[test]
fn other_files_are_called_by_their_name() {
    for (key, what) in [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "LoRA"),
        ("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight", "LoRA"),
        (
            "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.lora_A.w",
            "LoRA",
        ),
        ("lora_unet_input_blocks_1_1.hada_w1_a", "LoHa"),
        ("control_model.zero_convs.0.0.weight", "ControlNet"),
        ("down_blocks.0.resnets.0.conv1.weight", "diffusers"),
        ("encoder.down_blocks.0.resnets.0.conv1.weight", "diffusers"),
        ("single_transformer_blocks.0.attn.to_q.weight", "diffusers"),
        ("emb_params", "textual-inversion"),
        ("body.0.rdb1.conv1.weight", "upscaler"),
    ] {
        let error = refused(keys(&[key]));
        assert!(matches!(error, FamilyError::Foreign { .. }), "{key}: {error}");
        assert!(error.to_string().contains(what), "{key}: {error}");
    }
    let bare_controlnet = keys(&["input_blocks.0.0.weight", "zero_convs.0.0.weight"]);
    assert!(refused(bare_controlnet).to_string().contains("ControlNet"));
}

#[test]
fn relatives_of_supported_families_are_refused_by_name() {
    for (marker, what) in [
        ("edm_mean", "Playground"),
        ("edm_vpred.sigma_max", "CosXL"),
        ("model.diffusion_model.label_emb.weight", "upscaler"),
        ("noise_augmentor.data_mean", "unCLIP"),
        ("model.diffusion_model.out.2.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
    ] {
        let mut all = tensors("tiny-sdxl");
        all.extend(keys(&[marker]));
        let error = refused(all);
        assert!(matches!(error, FamilyError::Unsupported { .. }), "{marker}: {error}");
        assert!(error.to_string().contains(what), "{marker}: {error}");
    }
    let wan = refused(keys(&["head.modulation", "blocks.0.self_attn.q.weight"]));
    assert!(wan.to_string().contains("Wan"), "{wan}");
}

/// NextDiTs of which one is known by what it lacks.
#[test]
fn relatives_of_lumina_2_are_told_from_it() {
    let whole = tensors("lumina2");
    let mut pooled = whole.clone();
    pooled.extend(keys(&["model.diffusion_model.clip_text_pooled_proj.0.weight"]));
    let error = refused(pooled).to_string();
    assert!(error.contains("NewBie") && error.contains("Gemma 3"), "{error}");
    // Without the tensor that it is known by it is still known, and that tensor missed.
    let mut broken = whole.clone();
    broken.shift_remove("model.diffusion_model.noise_refiner.0.attention.qkv.weight").unwrap();
    let FamilyError::Missing { part, keys: lost, total } = refused(broken) else { panic!() };
    assert_eq!((part.as_str(), total), ("Lumina 2 diffusion model", 1));
    assert!(lost[0].ends_with("noise_refiner.0.attention.qkv.weight"), "{lost:?}");
    // As diffusers saves them.
    let lists = ["noise_refiner.0.", "context_refiner.0.", "layers.0."];
    for (own, module, name) in [
        ("time_caption_embed.caption_embedder.0.weight", "attn.to_q.weight", "Lumina 2"),
        ("all_x_embedder.2-1.weight", "attention.to_q.weight", "Z-Image"),
    ] {
        let blocks = lists.map(|list| format!("{list}{module}"));
        let names: Vec<_> = blocks.iter().map(String::as_str).chain([own]).collect();
        let error = refused(keys(&names)).to_string();
        assert!(error.contains(name) && error.contains("diffusers"), "{error}");
    }
}

#[test]
fn unknown_files_list_how_their_keys_start() {
    let error = refused(keys(&["a.b.c", "a.b.d", "a.b.e", "x.y", "z"]));
    let FamilyError::Unknown { tensors, prefixes } = &error else { panic!("{error}") };
    assert_eq!(*tensors, 5);
    assert_eq!(prefixes[0], ("a.b".to_owned(), 3));
    assert!(matches!(refused(Tensors::new()), FamilyError::Unknown { tensors: 0, .. }));
}

#[test]
fn an_odd_number_of_input_channels_is_refused() {
    let mut all = tiny();
    all["model.diffusion_model.input_blocks.0.0.weight"].1[1] = 7;
    assert!(refused(all).to_string().contains("7 input and 4 output"));
}

fn fixture_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["tiny-sd1", "tiny-sd2", "tiny-sdxl", "tiny-sd3", "tiny-flux"])
}

fn odd_shape() -> impl Strategy<Value = Vec<usize>> {
    // A zero among them keeps the size small, so that the other dimensions can be huge.
    let dimension = prop_oneof![0usize..5, Just(1 << 24), Just(usize::MAX), Just(usize::MAX / 9)];
    prop::collection::vec(dimension, 0..5).prop_map(|mut shape| {
        if shape.iter().any(|&n| n > 5) {
            shape.push(0);
            shape.rotate_right(1);
            let at = shape.len() / 2;
            shape.swap(0, at);
        }
        shape
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn damaged_lists_never_panic(
        name in fixture_name(),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        reshaped in prop::collection::vec((any::<prop::sample::Index>(), odd_shape()), 0..4),
    ) {
        let mut all = tensors(name);
        for index in lost {
            all.shift_remove_index(index.index(all.len()));
        }
        for (index, shape) in reshaped {
            let at = index.index(all.len());
            if let Some((_, tensor)) = all.get_index_mut(at) {
                tensor.1 = shape;
            }
        }
        let keys: Vec<_> = all.keys().cloned().collect();
        let tensors = all.into_iter().map(|(key, (dtype, shape))| (key, dtype, shape));
        let opened = distorch_checkpoint::file::Checkpoint::from_parts(
            "damaged", Default::default(), tensors,
        );
        let Ok(checkpoint) = opened else { return Ok(()) };
        if let Ok(model) = recognise(&checkpoint) {
            // Whatever it is taken for, no key gets lost.
            let used = model.components.iter().flat_map(|c| &c.layers).flat_map(|l| &l.params);
            let mut found: Vec<_> = used.map(|param| param.key.clone()).collect();
            found.extend(model.ignored.into_iter().map(|ignored| ignored.key));
            found.extend(model.unknown);
            found.sort();
            found.dedup();
            let mut keys = keys;
            keys.sort();
            prop_assert_eq!(found, keys);
        }
    }
}

#[test]
fn no_tensor_goes_missing_unnoticed() {
    // A model without these is a model all the same.
    let optional =
        |key: &str| key.ends_with(".text_projection") || key.contains("text_projection.");
    for name in ["tiny-sd1", "tiny-sd2", "tiny-sdxl", "tiny-sd3", "tiny-flux"] {
        let all = tensors(name);
        for key in all.keys().filter(|key| !optional(key)) {
            let mut damaged = all.clone();
            damaged.shift_remove(key);
            let error = match recognise(&parts(damaged, &[])) {
                Ok(model) => panic!("{name} without {key} is {}", model.label()),
                Err(error) => error.to_string(),
            };
            // The one other name of T5's table is the one that is missed.
            let named = error.contains(&format!("`{key}`"))
                || (key.ends_with("t5xxl.transformer.shared.weight") && error.contains("t5xxl"));
            assert!(named, "{name} without {key}: {error}");
        }
    }
}

#[test]
fn a_stray_number_does_not_ask_for_that_many_blocks() {
    let mut all = tensors("tiny-flux");
    let stray = "model.diffusion_model.double_blocks.4000000000.x";
    all.extend(keys(&[stray]));
    assert_eq!(recognised(all).unknown, [stray]);
}

/// A safetensors file of these dtypes (by their names in the format) and shapes, with data of zeros.
fn file(tensors: &[(String, &str, Vec<usize>)]) -> Result<Checkpoint, String> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (key, dtype, shape) in tensors {
        let bits = match *dtype {
            "F4" => 4,
            "F8_E4M3" | "F8_E8M0" | "U8" | "I8" => 8,
            "F16" | "BF16" | "U16" => 16,
            "F32" | "U32" => 32,
            _ => 64,
        };
        let end = at + shape.iter().product::<usize>() * bits / 8;
        header.insert(
            key.clone(),
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }),
        );
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + at, 0);
    Checkpoint::from_bytes("file.safetensors", bytes).map_err(|error| error.to_string())
}

/// The tensors of a key list in F16, for [`file`].
fn listed(fixture: &str) -> Vec<(String, &'static str, Vec<usize>)> {
    let all = Fixture::load(fixture).tensors.into_iter();
    all.map(|(key, shape)| (key, "F16", shape)).collect()
}

#[test]
fn a_dtype_that_is_not_read_stands_in_nobodys_way_unless_it_is_needed() {
    let base = recognise(&file(&listed("tiny-sd1")).unwrap()).unwrap();
    for dtype in ["U16", "U32", "U64", "C64", "F8_E8M0", "F4", "SOMETHING_NEW"] {
        let mut all = listed("tiny-sd1");
        all.push(("note.unused".to_owned(), dtype, vec![4]));
        let opened = file(&all).unwrap();
        assert_eq!(opened.unread()["note.unused"].dtype, dtype);
        let model = recognise(&opened).unwrap();
        assert_eq!(model.components, base.components, "{dtype}");
        let ignored = model.ignored.last().unwrap();
        assert_eq!(ignored.key, "note.unused");
        assert!(ignored.reason.contains("not read"), "{}", ignored.reason);
    }
    // Needed, it is told by name, with what it is a sign of.
    for (dtype, sign) in [("U16", "U16"), ("F4", "NVFP4"), ("F8_E8M0", "MXFP8")] {
        let mut all = listed("tiny-sd1");
        let weight = all.iter_mut().find(|(key, ..)| key == QUERY).unwrap();
        weight.1 = dtype;
        let error = recognise(&file(&all).unwrap()).unwrap_err().to_string();
        assert!(error.contains(QUERY) && error.contains(sign), "{error}");
    }
    // Nothing that could be read at all.
    let error = file(&[("a".to_owned(), "U16", vec![2])]).unwrap_err();
    assert!(error.contains("`a`") && error.contains("U16"), "{error}");
}

/// Without its scales an MXFP8 weight would be read, and wrong.
#[test]
fn scales_of_other_quantisations_are_refused() {
    for dtype in ["F8_E8M0", "U8"] {
        let mut all = listed("tiny-sd1");
        let weight = all.iter_mut().find(|(key, ..)| key == QUERY).unwrap();
        weight.1 = "F8_E4M3";
        let rows = weight.2[0];
        all.push((QUERY.replace(".weight", ".weight_scale"), dtype, vec![rows, 2]));
        let error = recognise(&file(&all).unwrap()).unwrap_err().to_string();
        assert!(error.contains("weight_scale") && error.contains("MXFP8"), "{dtype}: {error}");
    }
}

#[test]
fn files_are_called_by_what_they_are() {
    let shaped = |tensors: &[(&str, &[usize])]| -> String {
        let tensors =
            tensors.iter().map(|(key, shape)| ((*key).to_owned(), (Dtype::F16, shape.to_vec())));
        refused(tensors.collect()).to_string()
    };
    // PixArt's own layout, and Sana's, which also has norms of the text.
    let pixart = [
        ("x_embedder.proj.weight", &[1152, 4, 2, 2][..]),
        ("blocks.0.cross_attn.q_linear.weight", &[1152, 1152]),
        ("blocks.0.cross_attn.kv_linear.weight", &[2304, 1152]),
    ];
    assert!(shaped(&pixart).contains("recognised PixArt"), "{}", shaped(&pixart));
    let sana = [&pixart[..], &[("attention_y_norm.weight", &[2240][..])]].concat();
    assert!(shaped(&sana).contains("recognised Sana"), "{}", shaped(&sana));
    let audio: [(&str, &[usize]); 2] = [
        ("model.model.transformer.layers.0.self_attn.to_qkv.weight", &[4608, 1536]),
        ("pretransform.model.encoder.layers.0.weight_v", &[128, 2, 7]),
    ];
    assert!(shaped(&audio).contains("Stable Audio"), "{}", shaped(&audio));
    let embeddings: [&[(&str, &[usize])]; 4] = [
        &[("clip_l", &[4, 768]), ("clip_g", &[4, 1280])],
        &[("<cat-toy>", &[1, 768])],
        &[("emb_params", &[2, 1024])],
        &[("style", &[1280])],
    ];
    for embedding in embeddings {
        let error = shaped(embedding);
        assert!(error.contains("textual-inversion embedding"), "{error}");
        assert!(error.contains("models/embeddings"), "{error}");
    }
    assert!(shaped(&[("weight", &[4096, 768])]).contains("none of the file's 1 tensors"));
}
