//! LoRA files: names of every tool for the layers of published models, and files that do not fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside `#[test]`

mod common;

use common::{Fixture, diffusers_names};
use distorch_checkpoint::family::{Model, recognise};
use distorch_checkpoint::lora::{self, Axis, Delta, Factor, Lora, LoraError, RowSpan, Target};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_test_support::model_file::ModelFile;

fn model(name: &str) -> Model {
    recognise(&Fixture::load(name).checkpoint(Dtype::F16)).unwrap()
}

/// A file of these keys and shapes, without data.
fn parts<K: Into<String>>(tensors: impl IntoIterator<Item = (K, Vec<usize>)>) -> Checkpoint {
    let tensors = tensors.into_iter().map(|(key, shape)| (key.into(), Dtype::F16, shape));
    Checkpoint::from_parts("test", Default::default(), tensors).unwrap()
}

/// A file of these f32 tensors, of which scalars have this value and others are 0.
fn file(tensors: &[(&str, &[usize])], scalar: f32, metadata: &[(&str, &str)]) -> Checkpoint {
    let values = |shape: &[usize]| match shape {
        [] => vec![scalar],
        _ => vec![0.0; shape.iter().product()],
    };
    let tensors = tensors.iter().map(|(key, shape)| (*key, shape.to_vec(), values(shape)));
    let file = ModelFile::of_values(tensors);
    let metadata = metadata.iter();
    let file = metadata.fold(file, |file, (key, value)| file.with_metadata(key, value));
    file.open("test.safetensors")
}

/// The layers that a LoRA of rank 1 on each of these modules changes.
fn layers_of(model: &Model, modules: &[(&str, [usize; 2])]) -> Vec<String> {
    let tensors = modules.iter().flat_map(|(module, [out, input])| {
        [
            (format!("{module}.lora_up.weight"), vec![*out, 1]),
            (format!("{module}.lora_down.weight"), vec![1, *input]),
        ]
    });
    let lora = lora::read(&parts(tensors), model).unwrap();
    assert_eq!(lora.unknown, [""; 0]);
    lora.adapters.into_iter().map(|adapter| adapter.layer).collect()
}

#[test]
fn every_layer_of_published_unets_is_found_under_each_name() {
    for (name, names) in diffusers_names() {
        let model = model(&name);
        let unet = model.component(ComponentKind::DiffusionModel).unwrap();
        assert_eq!(names.len(), unet.layers.len(), "{name}");
        let forms: [fn(&str, &str) -> String; 6] = [
            |diffusers, _| format!("unet.{diffusers}"),
            |diffusers, _| diffusers.to_owned(),
            |diffusers, _| format!("base_model.model.{diffusers}"),
            |diffusers, _| format!("lora_unet_{}", diffusers.replace('.', "_")),
            |_, original| format!("lora_unet_{}", original.replace('.', "_")),
            |_, original| format!("diffusion_model.{original}"),
        ];
        for form in forms {
            let tensors = names.iter().map(|(diffusers, original)| {
                let layer = unet.layers.iter().find(|layer| layer.name == *original).unwrap();
                let weight = layer.param("weight").unwrap();
                (format!("{}.diff", form(diffusers, original)), weight.shape.clone())
            });
            let lora = lora::read(&parts(tensors), &model).unwrap();
            assert_eq!(lora.unknown, [""; 0], "{name}");
            let found = lora.adapters.iter().map(|adapter| &adapter.layer);
            assert!(found.eq(names.values()), "{name}");
        }
    }
}

#[test]
fn text_encoders_are_numbered() {
    let q = |encoder: &str| format!("{encoder}.text_model.encoder.layers.1.self_attn.q_proj");
    let kohya = |prefix: &str| format!("{prefix}_text_model_encoder_layers_1_self_attn_q_proj");
    let dotted = |prefix: &str| format!("{prefix}.text_model.encoder.layers.1.self_attn.q_proj");
    let check = |model: &Model, name: &str, width: usize, encoder: &str| {
        assert_eq!(layers_of(model, &[(name, [width; 2])]), [q(encoder)], "{name}");
    };
    let sd1 = model("sd15");
    check(&sd1, &kohya("lora_te"), 768, "clip_l");
    check(&sd1, &kohya("lora_te1"), 768, "clip_l");
    check(&sd1, &dotted("text_encoder"), 768, "clip_l");
    check(&sd1, &dotted("base_model.model"), 768, "clip_l");
    check(&sd1, &dotted("cond_stage_model.transformer"), 768, "clip_l");
    check(&sd1, "text_encoder.encoder.layers.1.self_attn.q_proj", 768, "clip_l");
    check(&model("sd21-v"), &kohya("lora_te"), 1024, "clip_h");
    let sdxl = model("sdxl-base");
    check(&sdxl, &kohya("lora_te1"), 768, "clip_l");
    check(&sdxl, &kohya("lora_te2"), 1280, "clip_g");
    check(&sdxl, &dotted("text_encoder_2"), 1280, "clip_g");
    check(&sdxl, &dotted("text_encoders.clip_g.transformer"), 1280, "clip_g");
    check(&model("sdxl-refiner"), &kohya("lora_te2"), 1280, "clip_g");
    check(&model("sd3-medium"), &kohya("lora_te2"), 1280, "clip_g");

    let t5 = ["t5xxl.encoder.block.3.layer.0.SelfAttention.q"];
    for (file, prefix) in [("sd3-medium", "text_encoder_3."), ("flux-dev", "text_encoder_2.")] {
        let name = format!("{prefix}encoder.block.3.layer.0.SelfAttention.q");
        assert_eq!(layers_of(&model(file), &[(&name, [4096; 2])]), t5, "{file}");
    }
    let name = "lora_te3_encoder_block_3_layer_0_SelfAttention_q";
    assert_eq!(layers_of(&model("flux-dev"), &[(name, [4096; 2])]), t5);
}

#[test]
fn open_clips_names_and_its_fused_projection() {
    let sdxl = model("sdxl-base");
    let block = "conditioner.embedders.1.model.transformer.resblocks.4";
    let ours = |name: &str| format!("clip_g.text_model.encoder.layers.4.{name}");
    let modules = [
        (format!("{block}.attn.out_proj"), [1280, 1280]),
        (format!("{block}.mlp.c_fc"), [5120, 1280]),
        ("lora_te2_transformer_resblocks_4_mlp_c_proj".to_owned(), [1280, 5120]),
    ];
    let modules: Vec<_> = modules.iter().map(|(name, size)| (name.as_str(), *size)).collect();
    let expected = ["self_attn.out_proj", "mlp.fc1", "mlp.fc2"].map(ours);
    assert_eq!(layers_of(&sdxl, &modules), expected);

    let fused = format!("{block}.attn.in_proj");
    let tensors = [
        (format!("{fused}.lora_up.weight"), vec![3 * 1280, 8]),
        (format!("{fused}.lora_down.weight"), vec![8, 1280]),
    ];
    let lora = lora::read(&parts(tensors), &sdxl).unwrap();
    let mut found: Vec<_> =
        lora.adapters.iter().map(|adapter| (adapter.layer.clone(), adapter.rows.clone())).collect();
    found.sort_by_key(|(_, rows)| rows[0].adapter);
    let third = |at: usize| vec![RowSpan { adapter: at * 1280, layer: 0, count: 1280 }];
    let expected = ["q", "k", "v"].map(|part| ours(&format!("self_attn.{part}_proj")));
    assert_eq!(found, Vec::from_iter(expected.into_iter().zip((0..3).map(third))));
}

#[test]
fn diffusers_first_loras_hung_in_the_processor() {
    let block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor";
    let ours = "input_blocks.1.1.transformer_blocks.0.attn1";
    let text = "text_encoder.text_model.encoder.layers.0.self_attn";
    let tensors = ["to_q", "to_out"]
        .iter()
        .flat_map(|name| {
            [
                (format!("{block}.{name}_lora.up.weight"), vec![320, 4]),
                (format!("{block}.{name}_lora.down.weight"), vec![4, 320]),
                (format!("{text}.{name}_lora.up.weight"), vec![768, 4]),
                (format!("{text}.{name}_lora.down.weight"), vec![4, 768]),
            ]
        })
        .collect::<Vec<_>>();
    let lora = lora::read(&parts(tensors), &model("sd15")).unwrap();
    let layers: Vec<_> = lora.adapters.iter().map(|adapter| adapter.layer.as_str()).collect();
    let text = "clip_l.text_model.encoder.layers.0.self_attn";
    assert_eq!(
        layers,
        [
            format!("{ours}.to_q"),
            format!("{text}.q_proj"),
            format!("{ours}.to_out.0"),
            format!("{text}.out_proj")
        ]
    );
}

const Q: &str = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q";
const CONV: &str = "lora_unet_input_blocks_1_0_in_layers_2";
const NORM: &str = "lora_unet_input_blocks_1_0_in_layers_0";

/// Tensors: module, ending, shape.
type Tiny<'t> = &'t [(&'t str, &'t str, &'t [usize])];

/// A file whose keys start with a module of a tiny UNet (`Q` is 32 × 32, `CONV` 32 × 32 × 3 × 3).
fn tiny(tensors: Tiny, scalar: f32) -> Result<Lora, LoraError> {
    let tensors: Vec<_> =
        tensors.iter().map(|(module, name, shape)| (format!("{module}.{name}"), *shape)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(key, shape)| (key.as_str(), *shape)).collect();
    lora::read(&file(&tensors, scalar, &[]), &model("tiny-sd1"))
}

#[test]
fn keys_of_other_models_are_reported_in_file_order() {
    let (norm, q) = (format!("{NORM}.alpha"), |ending| format!("{Q}.{ending}"));
    let te2 = "lora_te2_text_model_final_layer_norm.w_norm".to_owned();
    let tensors = [
        (norm.clone(), vec![]),
        ("b.nowhere.lora_up.weight".to_owned(), vec![4, 2]),
        (q("lora_up.weight"), vec![32, 2]),
        ("a.weight".to_owned(), vec![1]),
        (q("lora_down.weight"), vec![2, 32]),
        (te2.clone(), vec![1280]),
    ];
    let lora = lora::read(&parts(tensors), &model("tiny-sd1")).unwrap();
    assert_eq!(lora.unknown, [&norm, "b.nowhere.lora_up.weight", "a.weight", &te2]);
    assert_eq!(lora.adapters.len(), 1);
}

#[test]
fn alphas_are_divided_by_the_rank() {
    let scale = |tensors: Tiny| tiny(tensors, 6.0).unwrap().adapters[0].scale;
    let up = (Q, "lora_up.weight", &[32, 4][..]);
    let down = (Q, "lora_down.weight", &[4, 32][..]);
    assert_eq!(scale(&[up, down]), 1.0);
    assert_eq!(scale(&[up, down, (Q, "alpha", &[])]), 1.5);
    // Nothing is factored, so there is no rank.
    let whole = [(Q, "lokr_w1", &[4, 8][..]), (Q, "lokr_w2", &[8, 4]), (Q, "alpha", &[])];
    assert_eq!(scale(&whole), 1.0);
    let half = [
        (Q, "lokr_w1", &[4, 8][..]),
        (Q, "lokr_w2_a", &[8, 3]),
        (Q, "lokr_w2_b", &[3, 4]),
        (Q, "alpha", &[]),
    ];
    assert_eq!(scale(&half), 2.0);
}

#[test]
fn pefts_configuration_tells_the_alpha() {
    let module = "down_blocks.0.attentions.0.proj_in";
    let shapes: [(String, &[usize]); 2] = [
        (format!("unet.{module}.lora_A.weight"), &[4, 32]),
        (format!("unet.{module}.lora_B.weight"), &[32, 4]),
    ];
    let tensors = shapes.each_ref().map(|(key, shape)| (key.as_str(), *shape));
    let read = |config: &str| {
        let metadata = [("lora_adapter_metadata", config)];
        lora::read(&file(&tensors, 0.0, &metadata), &model("tiny-sd1"))
    };
    let scale = |config: &str| read(config).unwrap().adapters[0].scale;
    assert_eq!(scale(r#"{"unet.lora_alpha": 2, "unet.r": 4}"#), 0.5);
    assert_eq!(scale(r#"{"unet.lora_alpha": 2, "unet.use_rslora": true}"#), 1.0);
    assert_eq!(scale(r#"{"text_encoder.lora_alpha": 2}"#), 1.0);
    let pattern =
        |name: &str| format!(r#"{{"unet.lora_alpha": 2, "unet.alpha_pattern": {{"{name}": 8}}}}"#);
    assert_eq!(scale(&pattern(module)), 2.0);
    assert_eq!(scale(&pattern("proj_in")), 2.0);
    assert_eq!(scale(&pattern("j_in")), 0.5);
    assert!(matches!(read("[1"), Err(LoraError::Metadata { .. })));
}

#[test]
fn magnitudes_belong_to_outputs_or_inputs() {
    let axis = |module: &str, up: &[usize], down: &[usize], name: &str, shape: &[usize]| {
        let tensors = [
            (module, "lora_up.weight", up),
            (module, "lora_down.weight", down),
            (module, name, shape),
        ];
        tiny(&tensors, 0.0).map(|lora| lora.adapters[0].magnitude.clone().unwrap().axis)
    };
    // A matrix of 256 × 32.
    let ff = "lora_unet_input_blocks_1_1_transformer_blocks_0_ff_net_0_proj";
    let ff = |name, shape: &[usize]| axis(ff, &[256, 2], &[2, 32], name, shape);
    assert_eq!(ff("dora_scale", &[256, 1]).unwrap(), Axis::Output);
    assert_eq!(ff("dora_scale", &[256]).unwrap(), Axis::Output);
    assert_eq!(ff("dora_scale", &[1, 32]).unwrap(), Axis::Input);
    assert_eq!(ff("lora_magnitude_vector", &[256]).unwrap(), Axis::Output);
    assert!(matches!(ff("lora_magnitude_vector", &[32]), Err(LoraError::Shape { .. })));
    // As many inputs as outputs: the shape tells, but PEFT's always belong to outputs.
    let conv = |name, shape: &[usize]| axis(CONV, &[32, 2, 1, 1], &[2, 32, 3, 3], name, shape);
    assert_eq!(conv("dora_scale", &[1, 32, 1, 1]).unwrap(), Axis::Input);
    assert_eq!(conv("dora_scale", &[32, 1, 1, 1]).unwrap(), Axis::Output);
    assert_eq!(conv("lora_magnitude_vector.weight", &[1, 32, 1, 1]).unwrap(), Axis::Output);
}

#[test]
fn convolutions_may_be_stored_as_matrices() {
    let proj_in = "lora_unet_input_blocks_1_1_proj_in";
    for (up, down) in [(&[32, 2][..], &[2, 32][..]), (&[32, 2, 1, 1], &[2, 32, 1, 1])] {
        let tensors = [(proj_in, "lora_up.weight", up), (proj_in, "lora_down.weight", down)];
        let lora = tiny(&tensors, 0.0).unwrap();
        assert_eq!(lora.adapters[0].shape, [32, 32, 1, 1]);
        assert!(matches!(lora.adapters[0].delta, Some(Delta::Plain(Factor::LowRank { .. }))));
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_names_the_key() {
    let cases: &[(Tiny, &str, &str)] = &[
        (&[(Q, "lora_up.weight", &[32, 2])], "lora_up.weight", "`lora_down`"),
        (&[(Q, "lora_down.weight", &[2, 32])], "lora_down.weight", "`lora_up`"),
        (&[(CONV, "lora_mid.weight", &[2, 2, 3, 3])], "lora_mid.weight", "`lora_up`"),
        (&[(Q, "lora_B.bias", &[32])], "lora_B.bias", "`lora_A`"),
        (&[(Q, "dora_scale", &[32])], "dora_scale", "an adapter"),
        (
            &[(Q, "lora_up.weight", &[32, 2]), (Q, "lora_down.weight", &[2, 33])],
            "lora_down.weight",
            "[2, 33]",
        ),
        (
            &[(Q, "lora_up.weight", &[32, 3]), (Q, "lora_down.weight", &[2, 32])],
            "lora_up.weight",
            "[32, 2]",
        ),
        (
            &[(Q, "lora_up.weight", &[32, 0]), (Q, "lora_down.weight", &[0, 32])],
            "lora_down.weight",
            "from 1 to 4096",
        ),
        (
            &[(Q, "lora_up.weight", &[32, 4097]), (Q, "lora_down.weight", &[4097, 32])],
            "lora_down.weight",
            "from 1 to 4096",
        ),
        (&[(Q, "lora_up.weight", &[]), (Q, "lora_down.weight", &[])], "lora_down.weight", "[]"),
        (
            &[
                (CONV, "lora_up.weight", &[32, 2, 1, 1]),
                (CONV, "lora_mid.weight", &[2, 2, 5, 5]),
                (CONV, "lora_down.weight", &[2, 32, 1, 1]),
            ],
            "lora_mid.weight",
            "a kernel of 9",
        ),
        (&[(Q, "hada_w1_a", &[32, 2]), (Q, "hada_w1_b", &[2, 32])], "hada_w1_a", "`hada_w2_a`"),
        (&[(Q, "lokr_w1", &[4, 4])], "lokr_w1", "`lokr_w2`"),
        (&[(Q, "lokr_w2", &[4, 4])], "lokr_w2", "`lokr_w1`"),
        (&[(Q, "lokr_w1", &[5, 4]), (Q, "lokr_w2", &[8, 8])], "lokr_w1", "divide 32 and 32"),
        (&[(Q, "lokr_w1", &[0, 4]), (Q, "lokr_w2", &[8, 8])], "lokr_w1", "divide 32 and 32"),
        (&[(Q, "lokr_w1", &[4, 4]), (Q, "lokr_w2", &[8, 4])], "lokr_w2", "[8, 8]"),
        (
            &[(Q, "lokr_w1", &[4, 4]), (Q, "lokr_w2", &[8, 8]), (Q, "lokr_w2_a", &[8, 2])],
            "lokr_w2_a",
            "both",
        ),
        (&[(Q, "diff", &[32, 31])], "diff", "[32, 32]"),
        (&[(Q, "diff", &[32, 32]), (Q, "lokr_w1", &[1, 1])], "lokr_w1", "both"),
        (&[(Q, "diff_b", &[32])], "diff_b", "which has none"),
        (&[(CONV, "diff_b", &[31])], "diff_b", "[32]"),
        (&[(NORM, "w_norm", &[33])], "w_norm", "[32, 1]"),
        (&[(Q, "oft_diag", &[4, 8])], "oft_diag", "an OFT adapter"),
        (&[(Q, "oft_blocks", &[4, 8, 7])], "oft_blocks", "blocks × n = 32"),
        (&[(Q, "oft_blocks", &[5, 8, 8])], "oft_blocks", "blocks × n = 32"),
        (&[(Q, "oft_blocks", &[0, 8, 8])], "oft_blocks", "blocks × n = 32"),
        (&[(Q, "oft_blocks", &[4, 64])], "oft_blocks", "blocks × n = 32"),
        // Stage 4 would take 64 rows together.
        (&[(Q, "oft_blocks", &[5, 8, 4, 4])], "oft_blocks", "a multiple of 2ⁱ × n"),
        (&[(Q, "oft_blocks", &[0, 8, 4, 4])], "oft_blocks", "a multiple of 2ⁱ × n"),
        (&[(Q, "oft_blocks", &[1, 32, 1, 1])], "oft_blocks", "a multiple of 2ⁱ × n"),
        (&[(Q, "rescale", &[32, 1])], "rescale", "`oft_blocks`"),
        (&[(Q, "oft_blocks", &[2, 8, 4, 4]), (Q, "rescale", &[31, 1])], "rescale", "[32, 1]"),
        (&[(Q, "a1.weight", &[2, 32]), (Q, "a2.weight", &[32, 2])], "a1.weight", "`b2`"),
        (
            &[
                (Q, "a1.weight", &[2, 32]),
                (Q, "a2.weight", &[31, 2]),
                (Q, "b1.weight", &[2, 32]),
                (Q, "b2.weight", &[32, 2]),
            ],
            "a2.weight",
            "[32, rank]",
        ),
        (
            &[(Q, "lora_up.weight", &[32, 1]), (Q, "lora_B.weight", &[32, 1])],
            "lora_B.weight",
            "both",
        ),
    ];
    for (tensors, key, words) in cases {
        let error = tiny(tensors, 0.0).unwrap_err().to_string();
        assert!(error.contains(&format!("{key}`")) && error.contains(words), "{error}");
    }
    let adapter = [(Q, "lora_up.weight", &[32, 2][..]), (Q, "lora_down.weight", &[2, 32])];
    for (alpha, scalar) in [(&[2][..], 1.0), (&[], f32::NAN), (&[], f32::INFINITY)] {
        let tensors = [&adapter[..], &[(Q, "alpha", alpha)]].concat();
        let error = tiny(&tensors, scalar).unwrap_err().to_string();
        assert!(error.contains("alpha` is "), "{error}");
    }
}

#[test]
fn other_files_are_no_loras() {
    let error = tiny(&[("a", "weight", &[2]), (Q, "alpha", &[])], 1.0).unwrap_err();
    assert!(matches!(error, LoraError::NotALora { tensors: 2 }));
    assert!(error.to_string().contains("no LoRA"));
    let key = |ending| format!("{Q}.{ending}");
    let tensors = [("lora_up.weight", vec![32, 2]), ("lora_down.weight", vec![2, 32])];
    let tensors = tensors.map(|(ending, shape)| (key(ending), Dtype::I8, shape));
    let file = Checkpoint::from_parts("test", Default::default(), tensors).unwrap();
    let error = lora::read(&file, &model("tiny-sd1")).unwrap_err().to_string();
    assert!(error.contains("is stored as I8"), "{error}");
}

#[test]
fn a_lora_of_which_nothing_fits_is_an_error_that_names_both_models() {
    let low_rank = |module: &str, [out, input]: [usize; 2]| {
        parts([
            (format!("{module}.lora_up.weight"), vec![out, 4]),
            (format!("{module}.lora_down.weight"), vec![4, input]),
        ])
    };
    let (unet, text) = (ComponentKind::DiffusionModel, ComponentKind::TextEncoders);
    let told = |file: &Checkpoint, on: &str, components: &[ComponentKind]| {
        let model = model(on);
        let target = |component: &ComponentKind| Target { model: &model, component: *component };
        let targets: Vec<_> = components.iter().map(target).collect();
        lora::check(file, &targets).map_err(|error| error.to_string())
    };
    let attention = "attentions_0_transformer_blocks_0_attn2_to_k";
    let sd1 = low_rank(&format!("lora_unet_down_blocks_0_{attention}"), [320, 768]);
    let flux = low_rank("transformer.single_transformer_blocks.3.attn.to_q", [3072, 3072]);
    let sd3 = low_rank("transformer.transformer_blocks.0.attn.add_q_proj", [1536, 1536]);
    let wan = parts([
        ("diffusion_model.blocks.0.cross_attn.q.lora_A.weight", vec![4, 5120]),
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", vec![4, 5120]),
    ]);
    for (file, on, made_for, model) in [
        (&sd1, "sdxl-base", "SD 1.x", "SDXL base"),
        (&flux, "sd15", "Flux", "SD 1.x"),
        (&sd3, "sd21-v", "SD3", "SD 2.x"),
        (&wan, "sd3-medium", "Wan", "SD3"),
    ] {
        let error = told(file, on, &[unet, text]).unwrap_err();
        for part in ["none of its 2 keys", &format!("made for {made_for})"), model] {
            assert!(error.contains(part), "{error}");
        }
    }
    let error = told(&sd3, "flux-dev", &[unet]).unwrap_err();
    assert!(error.contains("made for SD3, it seems, and the model is Flux dev"), "{error}");
    // The same places, other widths.
    let mid = low_rank(&format!("lora_unet_mid_block_{attention}"), [1280, 768]);
    let error = told(&mid, "sdxl-base", &[unet]).unwrap_err();
    assert!(error.contains("made for SD 1.x, it seems, and the model is SDXL base"), "{error}");
    // What fits another component than the one that is to be changed.
    let te = low_rank("lora_te1_text_model_encoder_layers_0_mlp_fc1", [3072, 768]);
    assert!(told(&te, "sdxl-base", &[unet]).unwrap_err().contains("another component"));
    let fit = told(&te, "sdxl-base", &[unet, text]).unwrap();
    assert_eq!((fit.layers, fit.unknown), (vec![0, 1], Vec::new()));
    // What only the trainer's metadata tell.
    let tensors: [(&str, &[usize]); 2] =
        [("lora_unet_x.lora_up.weight", &[8, 4]), ("lora_unet_x.lora_down.weight", &[4, 8])];
    for (name, value, expected) in [
        ("ss_base_model_version", "sdxl_base_v1-0", "made for SDXL)"),
        ("modelspec.architecture", "stable-diffusion-v1/lora", "made for SD 1.x)"),
        ("modelspec.architecture", "something", "fits Flux dev;"),
    ] {
        let error = told(&file(&tensors, 0.0, &[(name, value)]), "flux-dev", &[unet]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn shapes_tell_the_layouts_of_glora_and_of_rotations() {
    let glora = |shapes: [&[usize]; 4]| {
        let names = ["a1.weight", "a2.weight", "b1.weight", "b2.weight"];
        let tensors = names.into_iter().zip(shapes).map(|(name, shape)| (Q, name, shape));
        let lora = tiny(&tensors.collect::<Vec<_>>(), 0.0).unwrap();
        let Some(Delta::Generalised { first, second, added }) = &lora.adapters[0].delta else {
            panic!("{lora:?}")
        };
        let Factor::LowRank { up, down } = added else { panic!("{added:?}") };
        let end =
            |key: &str| key.trim_end_matches(".weight").rsplit('.').next().unwrap().to_owned();
        [&first.key, &second.key, &up.key, &down.key].map(|key| end(key))
    };
    let (wide, high): (&[usize], &[usize]) = (&[2, 32], &[32, 2]);
    let [older, newer] = [["a2", "a1", "b2", "b1"], ["a1", "a2", "b1", "b2"]];
    assert_eq!(glora([wide, high, wide, high]), older);
    assert_eq!(glora([high, wide, high, wide]), newer);
    // A rank as large as the sides of a square weight fits both.
    assert_eq!(glora([&[32, 32]; 4]), older);

    let rotation = |shape: &[usize]| {
        let lora = tiny(&[(Q, "oft_blocks", shape), (Q, "alpha", &[])], 0.25).unwrap();
        let adapter = &lora.adapters[0];
        assert_eq!((adapter.scale, lora.unknown.len()), (1.0, 0));
        let Some(Delta::Rotation(rotation)) = &adapter.delta else { panic!("{adapter:?}") };
        assert_eq!(rotation.limit, 0.25);
        (rotation.stages, rotation.count, rotation.size)
    };
    assert_eq!(rotation(&[4, 8, 8]), (None, 4, 8));
    assert_eq!(rotation(&[3, 8, 4, 4]), (Some(3), 8, 4));
}
