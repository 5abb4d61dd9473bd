//! The UNet against diffusers' `UNet2DConditionModel` (`tools/reference/make_unet.py`).
//!
//! The tolerance in f32, 2e-4 of the largest reference value, is some tens of times what the
//! order of summation makes of f32's 6e-8 over the 40 to 80 layers here.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::fixture::{Fixture, tensor};
use distorch_checkpoint::config::UnetConfig;
use distorch_models::ModelError;
use distorch_models::unet::Unet;
use distorch_runtime::tensor::cpu;
use distorch_runtime::{DType, Tensor};

const TOLERANCE: f32 = 2e-4;

fn load(name: &str, dtype: DType) -> (Fixture, Unet) {
    let fixture = Fixture::open(name);
    let config: UnetConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let unet = Unet::load(&fixture.component(dtype), &config).unwrap();
    (fixture, unet)
}

fn errors(name: &str, dtype: DType) -> Vec<f32> {
    common::unet_case::errors(&Fixture::open(name), &cpu(), dtype)
}

fn assert_equal(name: &str) {
    let errors = errors(name, DType::F32);
    println!("{name}: {errors:?}");
    assert!(errors.iter().all(|error| *error < TOLERANCE), "{name}: {errors:?}");
}

#[test]
fn sd1_has_head_counts_and_convolutional_projections() {
    assert_equal("unet_sd1.safetensors");
}

#[test]
fn inpainting_takes_nine_channels() {
    assert_equal("unet_sd1_inpaint.safetensors");
}

#[test]
fn sd2_has_head_widths_and_linear_projections() {
    assert_equal("unet_sd2.safetensors");
}

#[test]
fn sdxl_has_a_class_vector_and_a_depth_per_level() {
    assert_equal("unet_sdxl.safetensors");
}

#[test]
fn the_refiner_has_no_transformer_at_either_end() {
    assert_equal("unet_refiner.safetensors");
}

/// bf16 keeps 8 bits of each value: a few per cent over the depth of the model, where wrong norms or
/// scores would be off by far more.
#[test]
fn bf16_is_near() {
    let errors = errors("unet_sd2.safetensors", DType::BF16);
    println!("bf16: {errors:?}");
    assert!(errors.iter().all(|error| *error < 0.06), "{errors:?}");
}

#[test]
fn wrong_inputs_are_errors_that_name_them() {
    let (fixture, unet) = load("unet_sdxl.safetensors", DType::F32);
    let call = |x: [usize; 4], t: usize, context: [usize; 3], y: Option<[usize; 2]>| {
        let input = |name: &str, shape: Vec<usize>| fixture.input(name, &shape.into());
        let context = fixture.input("context", &context.to_vec().into());
        let timesteps = tensor(vec![1.0; t], vec![t]);
        let y = y.map(|y| fixture.input("y", &y.to_vec().into()));
        unet.forward(input("x", x.to_vec()), timesteps, context, y)
    };
    let name = |result: Result<Tensor<4>, ModelError>| match result.unwrap_err() {
        ModelError::Input { input, .. } => input,
        error => panic!("{error}"),
    };
    assert_eq!(name(call([1, 9, 8, 8], 1, [1, 2, 48], Some([1, 68]))), "latent");
    assert_eq!(name(call([1, 4, 0, 8], 1, [1, 2, 48], Some([1, 68]))), "latent");
    assert_eq!(name(call([2, 4, 8, 8], 1, [2, 2, 48], Some([2, 68]))), "timesteps");
    assert_eq!(name(call([1, 4, 8, 8], 1, [2, 2, 48], Some([1, 68]))), "context");
    assert_eq!(name(call([1, 4, 8, 8], 1, [1, 0, 48], Some([1, 68]))), "context");
    assert_eq!(name(call([1, 4, 8, 8], 1, [1, 2, 48], None)), "class vector");
    assert!(call([1, 4, 1, 1], 1, [1, 1, 48], Some([1, 68])).is_ok());
}

#[test]
fn a_configuration_that_contradicts_itself_is_an_error() {
    let fixture = Fixture::open("unet_sd2.safetensors");
    let scope = fixture.component(DType::F32);
    let good: UnetConfig = serde_json::from_value(fixture.json("config")).unwrap();
    let broken: [fn(&mut UnetConfig); 5] = [
        |config| config.num_res_blocks = vec![2],
        |config| config.transformer_depth = vec![1],
        |config| config.transformer_depth_output = vec![],
        |config| config.model_channels = 48,
        |config| config.channel_mult = vec![],
    ];
    for change in broken {
        let mut config = good.clone();
        change(&mut config);
        assert!(matches!(Unet::load(&scope, &config), Err(ModelError::Config { .. })));
    }
    let missing = UnetConfig { adm_in_channels: Some(8), ..good };
    let error = Unet::load(&scope, &missing).err().unwrap().to_string();
    assert!(error.contains("label_emb.0.0"), "{error}");
}
