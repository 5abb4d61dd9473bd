//! Files that are incomplete, odd, partial or something else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

mod common;

use common::{Fixture, Tensors, parts};
use distorch_checkpoint::config::{DiffusionConfig, Prediction};
use distorch_checkpoint::family::{Family, FamilyError, Model, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};
use proptest::prelude::*;

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
