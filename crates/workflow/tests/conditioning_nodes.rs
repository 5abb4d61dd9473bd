//! Nodes of conditioning, run on small models with seeded weights.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distorch_checkpoint::config::DiffusionConfig;
use distorch_pipeline::diffusion::conditioning::{Area, Place};
use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::small_models::{sd1, sdxl, write};
use distorch_test_support::tensors::{distance, values};
use distorch_workflow::value::Value;
use serde_json::{Value as Json, json};

fn base() -> Vec<(&'static str, Json)> {
    let text = |text: &str| node("CLIPTextEncode", json!({ "clip": ["ckpt", 1], "text": text }));
    let long = "a long prompt of many words ".repeat(20);
    vec![
        ("ckpt", node("CheckpointLoaderSimple", json!({ "ckpt_name": "tiny.safetensors" }))),
        ("one", text("a red circle")),
        ("two", text("a blue square")),
        ("long", text(&long)),
        ("none", text("")),
        ("empty", node("EmptyLatentImage", json!({ "width": 128, "height": 96, "batch_size": 1 }))),
    ]
}

fn with(nodes: &[(&'static str, Json)]) -> Json {
    prompt(&[base(), nodes.to_vec()].concat())
}

/// What a KSampler makes of conditionings.
fn sampled(positive: &str, negative: &str) -> Json {
    node(
        "KSampler",
        json!({
            "model": ["ckpt", 0], "seed": 7, "steps": 3, "cfg": 4.0, "sampler_name": "euler",
            "scheduler": "normal", "positive": [positive, 0], "negative": [negative, 0],
            "latent_image": ["empty", 0], "denoise": 1.0,
        }),
    )
}

fn two(class: &str, one: &str, other: &str) -> Json {
    let (first, second) = match class {
        "ConditioningCombine" => ("conditioning_1", "conditioning_2"),
        _ => ("conditioning_to", "conditioning_from"),
    };
    node(class, json!({ first: [one, 0], second: [other, 0] }))
}

fn average(to: &str, from: &str, strength: f64) -> Json {
    let mut node = two("ConditioningAverage", to, from);
    node["inputs"]["conditioning_to_strength"] = json!(strength);
    node
}

#[test]
fn concat_puts_tokens_behind_tokens() {
    let mut harness = Harness::sd1();
    let prompt = with(&[("both", two("ConditioningConcat", "one", "long"))]);
    let (one, long) =
        (harness.conds(&prompt, "one").remove(0), harness.conds(&prompt, "long").remove(0));
    let both = harness.conds(&prompt, "both").remove(0);
    let tokens = long.context.dims()[1];
    assert!(tokens > 77);
    assert_eq!(both.context.dims(), [1, 77 + tokens, 32]);
    assert_eq!(values(&both.context), [values(&one.context), values(&long.context)].concat());
    assert_eq!(values(&both.pooled.unwrap()), values(&one.pooled.unwrap()));
}

#[test]
fn average_mixes_tokens_and_pooled_outputs() {
    let mut harness = Harness::sd1();
    let prompt = with(&[
        ("shorter", average("long", "one", 0.25)),
        ("longer", average("one", "long", 0.25)),
        ("all", average("one", "two", 1.0)),
    ]);
    let (one, long) =
        (harness.conds(&prompt, "one").remove(0), harness.conds(&prompt, "long").remove(0));
    let shorter = harness.conds(&prompt, "shorter").remove(0);
    assert_eq!(shorter.context.dims(), long.context.dims());
    let (one_values, long_values) = (values(&one.context), values(&long.context));
    let expected = long_values
        .iter()
        .enumerate()
        .map(|(place, value)| 0.25 * value + 0.75 * one_values.get(place).copied().unwrap_or(0.0));
    assert!(distance(&values(&shorter.context), &expected.collect::<Vec<_>>()) < 1e-5);
    let longer = harness.conds(&prompt, "longer").remove(0);
    assert_eq!(longer.context.dims(), one.context.dims());
    let pooled = |cond: &distorch_pipeline::diffusion::conditioning::Cond| {
        values(cond.pooled.as_ref().unwrap())
    };
    let expected: Vec<f32> = pooled(&one)
        .iter()
        .zip(pooled(&long))
        .map(|(one, long)| 0.25 * one + 0.75 * long)
        .collect();
    assert!(distance(&pooled(&longer), &expected) < 1e-5);
    let all = harness.conds(&prompt, "all").remove(0);
    assert!(distance(&values(&all.context), &one_values) < 1e-6);
}

#[test]
fn zeros_say_nothing() {
    let mut harness = Harness::sd1();
    let zero = node("ConditioningZeroOut", json!({ "conditioning": ["one", 0] }));
    let cond = harness.conds(&with(&[("zero", zero)]), "zero").remove(0);
    assert!(values(&cond.context).iter().all(|value| *value == 0.0));
    assert!(values(&cond.pooled.unwrap()).iter().all(|value| *value == 0.0));
}

fn strength(conditioning: &str, strength: f64) -> Json {
    let inputs = json!({ "conditioning": [conditioning, 0], "strength": strength });
    node("ConditioningSetAreaStrength", inputs)
}

#[test]
fn combined_conditionings_count_by_their_strengths() {
    let mut harness = Harness::sd1();
    let prompt = with(&[
        ("nothing", strength("two", 0.0)),
        ("strong", strength("one", 5.0)),
        ("pair", two("ConditioningCombine", "one", "two")),
        ("pair_reversed", two("ConditioningCombine", "two", "one")),
        ("alone", two("ConditioningCombine", "one", "nothing")),
        ("strongly", two("ConditioningCombine", "strong", "two")),
        ("k_one", sampled("one", "none")),
        ("k_two", sampled("two", "none")),
        ("k_pair", sampled("pair", "none")),
        ("k_reversed", sampled("pair_reversed", "none")),
        ("k_alone", sampled("alone", "none")),
        ("k_strongly", sampled("strongly", "none")),
    ]);
    let one = harness.latent(&prompt, "k_one", 0);
    let pair = harness.latent(&prompt, "k_pair", 0);
    let far = distance(&one, &harness.latent(&prompt, "k_two", 0));
    assert!(far > 0.01, "{far}");
    assert!(distance(&one, &pair) > 0.1 * far);
    assert!(distance(&pair, &harness.latent(&prompt, "k_reversed", 0)) < 1e-3 * far);
    assert!(distance(&one, &harness.latent(&prompt, "k_alone", 0)) < 1e-3 * far);
    let strongly = distance(&one, &harness.latent(&prompt, "k_strongly", 0));
    assert!(strongly < 0.9 * distance(&one, &pair), "{strongly}");
}

fn range(conditioning: &str, start: f64, end: f64) -> Json {
    let inputs = json!({ "conditioning": [conditioning, 0], "start": start, "end": end });
    node("ConditioningSetTimestepRange", inputs)
}

#[test]
fn conditionings_count_in_their_time() {
    let mut harness = Harness::sd1();
    let prompt = with(&[
        ("whole", range("one", 0.0, 1.0)),
        ("early", range("one", 0.0, 0.5)),
        ("late", range("two", 0.5, 1.0)),
        ("never", range("two", 0.9999, 0.9999)),
        ("both", two("ConditioningCombine", "early", "late")),
        ("same", two("ConditioningCombine", "one", "never")),
        ("k_one", sampled("one", "none")),
        ("k_whole", sampled("whole", "none")),
        ("k_both", sampled("both", "none")),
        ("k_same", sampled("same", "none")),
    ]);
    let one = harness.latent(&prompt, "k_one", 0);
    assert_eq!(harness.latent(&prompt, "k_whole", 0), one);
    assert_eq!(harness.latent(&prompt, "k_same", 0), one);
    assert!(distance(&harness.latent(&prompt, "k_both", 0), &one) > 1e-3);
}

fn area(conditioning: &str, [x, width]: [usize; 2]) -> Json {
    let inputs = json!({
        "conditioning": [conditioning, 0], "width": width, "height": 96, "x": x, "y": 0,
        "strength": 1.0,
    });
    node("ConditioningSetArea", inputs)
}

#[test]
fn areas_are_kept_in_latent_pixels_or_in_parts() {
    let mut harness = Harness::sd1();
    let part = json!({
        "conditioning": ["one", 0], "width": 0.5, "height": 1.0, "x": 0.25, "y": 0.0,
        "strength": 2.0,
    });
    let prompt = with(&[
        ("pixels", area("one", [40, 80])),
        ("parts", node("ConditioningSetAreaPercentage", part)),
    ]);
    let pixels = harness.conds(&prompt, "pixels").remove(0);
    let expected = Area { height: 12, width: 10, y: 0, x: 5 };
    assert_eq!(pixels.area, Some(Place::Pixels(expected)));
    let parts = harness.conds(&prompt, "parts").remove(0);
    assert_eq!(parts.strength, 2.0);
    let place = parts.area.unwrap();
    assert_eq!(place.area(12, 16), Area { height: 12, width: 8, y: 0, x: 4 });
    // 0.25 of 10 is 2.5, which Python rounds to 2.
    assert_eq!(place.area(1, 10), Area { height: 1, width: 5, y: 0, x: 2 });
}

#[test]
fn an_area_of_everything_is_no_area() {
    let mut harness = Harness::sd1();
    let prompt = with(&[
        ("all", area("one", [0, 128])),
        ("k_all", sampled("all", "none")),
        ("k_one", sampled("one", "none")),
    ]);
    let (all, one) = (harness.latent(&prompt, "k_all", 0), harness.latent(&prompt, "k_one", 0));
    // The negative half is computed twice and meant: only rounding differs.
    assert!(distance(&all, &one) < 1e-3, "{}", distance(&all, &one));
}

/// Two halves that do not touch: each is what its own prompt makes of a cut of the latent, since
/// the negative half is cut alike.
#[test]
fn areas_that_cover_the_picture_are_opposed_by_equal_areas() {
    let mut harness = Harness::sd1();
    let prompt = with(&[
        ("left", area("one", [0, 64])),
        ("right", area("two", [64, 64])),
        ("other_right", area("one", [64, 64])),
        ("none_left", area("none", [0, 64])),
        ("none_right", area("none", [64, 64])),
        ("halves", two("ConditioningCombine", "left", "right")),
        ("other_halves", two("ConditioningCombine", "left", "other_right")),
        ("none_halves", two("ConditioningCombine", "none_left", "none_right")),
        ("k", sampled("halves", "none_halves")),
        ("k_other", sampled("other_halves", "none_halves")),
        ("k_whole", sampled("halves", "none")),
    ]);
    let k = harness.latent(&prompt, "k", 0);
    let other = harness.latent(&prompt, "k_other", 0);
    let column = |latent: &[f32], from: usize, to: usize| -> Vec<f32> {
        let rows = latent.chunks_exact(16);
        rows.flat_map(|row| row[from..to].to_vec()).collect()
    };
    assert!(distance(&column(&k, 0, 8), &column(&other, 0, 8)) < 1e-4);
    assert!(distance(&column(&k, 8, 16), &column(&other, 8, 16)) > 1e-2);
    let whole = harness.latent(&prompt, "k_whole", 0);
    assert!(whole.iter().all(|value| value.is_finite()));
    assert!(distance(&whole, &k) > 1e-3);
}

#[test]
fn the_layer_of_a_text_encoder_is_counted_from_the_last() {
    let mut harness = Harness::sd1();
    let layer = |layer: i64| {
        node("CLIPSetLastLayer", json!({ "clip": ["ckpt", 1], "stop_at_clip_layer": layer }))
    };
    let text =
        |clip: &str| node("CLIPTextEncode", json!({ "clip": [clip, 0], "text": "a red circle" }));
    let prompt = with(&[
        ("last", layer(-1)),
        ("before", layer(-2)),
        ("beyond", layer(-24)),
        ("a", text("last")),
        ("b", text("before")),
        ("c", text("beyond")),
    ]);
    let mut context = |id: &str| values(&harness.conds(&prompt, id).remove(0).context);
    assert_eq!(context("a"), context("one"));
    assert!(distance(&context("b"), &context("one")) > 0.01);
    assert_eq!(context("c"), context("one"));
    let wrong = with(&[("no", layer(0))]);
    assert!(
        harness.try_run(&wrong, "no").unwrap_err().to_string().contains("bigger than max of -1")
    );
}

fn encode_sdxl(large: &str, small: &str) -> Json {
    node(
        "CLIPTextEncodeSDXL",
        json!({
            "clip": ["ckpt", 1], "width": 1024, "height": 768, "crop_w": 8, "crop_h": 16,
            "target_width": 512, "target_height": 640, "text_g": large, "text_l": small,
        }),
    )
}

#[test]
fn sdxl_reads_a_prompt_with_each_encoder() {
    let mut harness = Harness::with("checkpoints/tiny.safetensors", &sdxl());
    let long = "a long prompt of many words ".repeat(20);
    let refiner = json!({
        "ascore": 2.5, "width": 512, "height": 640, "text": "a red circle", "clip": ["ckpt", 1],
    });
    let prompt = with(&[
        ("same", encode_sdxl("a red circle", "a red circle")),
        ("small", encode_sdxl("a red circle", "a blue square")),
        ("longer", encode_sdxl(&long, "a red circle")),
        ("refiner", node("CLIPTextEncodeSDXLRefiner", refiner)),
        ("k", sampled("small", "longer")),
    ]);
    let mut cond = |id: &str| harness.conds(&prompt, id).remove(0);
    let (plain, same, small) = (cond("one"), cond("same"), cond("small"));
    assert_eq!(values(&same.context), values(&plain.context));
    assert_eq!(values(same.pooled.as_ref().unwrap()), values(plain.pooled.as_ref().unwrap()));
    let size = same.size.unwrap();
    assert_eq!((size.width, size.height, size.crop_x, size.crop_y), (1024.0, 768.0, 8.0, 16.0));
    assert_eq!((size.target_width, size.target_height), (512.0, 640.0));
    // The small encoder's values come first, and only they differ, from the second word on.
    for (one, other) in
        values(&same.context).chunks(40).zip(values(&small.context).chunks(40)).skip(2)
    {
        assert!(distance(&one[..16], &other[..16]) > 1e-4);
        assert_eq!(one[16..], other[16..]);
    }
    assert_eq!(values(same.pooled.as_ref().unwrap()), values(small.pooled.as_ref().unwrap()));
    let (long, longer, none) = (cond("long"), cond("longer"), cond("none"));
    let chunks = long.context.dims()[1];
    assert_eq!(longer.context.dims(), [1, chunks, 40]);
    // After the small encoder's prompt come empty ones.
    let (longer, none, same) =
        (values(&longer.context), values(&none.context), values(&same.context));
    for (place, row) in longer.chunks(40).enumerate() {
        let small = if place < 77 { &same } else { &none };
        assert_eq!(row[..16], small[place % 77 * 40..][..16], "{place}");
        assert_eq!(row[16..], values(&long.context)[place * 40 + 16..][..24], "{place}");
    }
    let refiner = cond("refiner");
    assert_eq!((refiner.aesthetic_score, refiner.size.unwrap().height), (Some(2.5), 640.0));
    assert!(harness.latent(&prompt, "k", 0).iter().all(|value| value.is_finite()));
}

#[test]
fn other_families_do_not_read_two_prompts() {
    let mut harness = Harness::sd1();
    let prompt = with(&[("pair", encode_sdxl("a", "b"))]);
    let error = harness.try_run(&prompt, "pair").unwrap_err().to_string();
    assert!(error.contains("`clip`") && error.contains("SD 1.x"), "{error}");
}

#[test]
fn what_nodes_give_is_held_to_the_limits_of_inputs() {
    let mut harness = Harness::sd1();
    let int = |value: Json| node("PrimitiveInt", json!({ "value": value }));
    let latent = |side: &str| {
        node("EmptyLatentImage", json!({ "width": [side, 0], "height": 64, "batch_size": 1 }))
    };
    let prompt = with(&[
        ("fits", int(json!(64))),
        ("large", int(json!(1_000_000_000_000_i64))),
        ("good", latent("fits")),
        ("bad", latent("large")),
        ("text", node("PrimitiveStringMultiline", json!({ "value": "a red circle" }))),
        ("encoded", node("CLIPTextEncode", json!({ "clip": ["ckpt", 1], "text": ["text", 0] }))),
    ]);
    assert_eq!(harness.latent(&prompt, "good", 0).len(), 4 * 8 * 8);
    let error = harness.try_run(&prompt, "bad").unwrap_err().to_string();
    assert!(error.contains("`width`") && error.contains("bigger than max of 16384"), "{error}");
    let mut context = |id: &str| values(&harness.conds(&prompt, id).remove(0).context);
    assert_eq!(context("encoded"), context("one"));
    for (class, value, kind) in [
        ("PrimitiveFloat", json!(0.5), "FLOAT"),
        ("PrimitiveString", json!("x"), "STRING"),
        ("PrimitiveBoolean", json!(true), "BOOLEAN"),
    ] {
        let prompt = with(&[("it", node(class, json!({ "value": value })))]);
        let values: Vec<Value> = harness.run(&prompt, "it");
        assert_eq!(values[0].value_type().unwrap().name(), kind);
    }
}

fn solid_mask(value: f64) -> Json {
    node("SolidMask", json!({ "value": value, "width": 32, "height": 24 }))
}

fn masked(conditioning: &str, mask: &str, area: &str) -> Json {
    let inputs = json!({
        "conditioning": [conditioning, 0], "mask": [mask, 0], "strength": 1.0,
        "set_cond_area": area,
    });
    node("ConditioningSetMask", inputs)
}

#[test]
fn a_mask_says_where_a_conditioning_counts() {
    let mut harness = Harness::sd1();
    let prompt = with(&[
        ("ones", solid_mask(1.0)),
        ("zeros", solid_mask(0.0)),
        ("all", masked("one", "ones", "default")),
        ("bounds", masked("one", "ones", "mask bounds")),
        ("nowhere", masked("two", "zeros", "default")),
        ("both", two("ConditioningCombine", "one", "nowhere")),
        ("k", sampled("one", "none")),
        ("k_all", sampled("all", "none")),
        ("k_bounds", sampled("bounds", "none")),
        ("k_both", sampled("both", "none")),
    ]);
    let one = harness.latent(&prompt, "k", 0);
    for id in ["k_all", "k_bounds", "k_both"] {
        let off = distance(&harness.latent(&prompt, id, 0), &one);
        assert!(off < 1e-3, "{id}: {off}");
    }
}

#[test]
fn an_inpainting_model_is_told_of_the_picture() {
    let mut configs = sd1();
    if let Some(DiffusionConfig::Unet(unet)) = &mut configs.diffusion {
        unet.in_channels = 9;
    }
    let mut harness = Harness::with("checkpoints/tiny.safetensors", &configs);
    let picture = |color: u32| {
        let inputs = json!({ "width": 128, "height": 96, "batch_size": 1, "color": color });
        node("EmptyImage", inputs)
    };
    let told = |picture: &str, mask: &str, keeps: bool| {
        let inputs = json!({
            "positive": ["one", 0], "negative": ["none", 0], "vae": ["ckpt", 2],
            "pixels": [picture, 0], "mask": [mask, 0], "noise_mask": keeps,
        });
        node("InpaintModelConditioning", inputs)
    };
    let sampled = |told: &str| {
        let mut node = sampled(told, told);
        node["inputs"]["negative"] = json!([told, 1]);
        node
    };
    let prompt = with(&[
        ("red", picture(0xff_0000)),
        ("blue", picture(0x00_00ff)),
        ("ones", solid_mask(1.0)),
        ("zeros", solid_mask(0.0)),
        ("red_kept", told("red", "zeros", true)),
        ("blue_kept", told("blue", "zeros", false)),
        ("red_gone", told("red", "ones", true)),
        ("blue_gone", told("blue", "ones", true)),
        ("k_red_kept", sampled("red_kept")),
        ("k_blue_kept", sampled("blue_kept")),
        ("k_red_gone", sampled("red_gone")),
        ("k_blue_gone", sampled("blue_gone")),
        ("k_plain", self::sampled("one", "none")),
    ]);
    let mask_of = |values: &[Value]| match &values[2] {
        Value::Latent(latent) => latent.noise_mask.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(mask_of(&harness.run(&prompt, "red_kept")).unwrap().shape(), [1, 96, 128]);
    assert!(mask_of(&harness.run(&prompt, "blue_kept")).is_none());
    let mut latent = |id: &str| harness.latent(&prompt, id, 0);
    let (red, blue) = (latent("k_red_kept"), latent("k_blue_kept"));
    assert!(distance(&red, &blue) > 1e-3);
    // What is filled in whole, the model does not see.
    assert_eq!(latent("k_red_gone"), latent("k_blue_gone"));
    assert!(latent("k_plain").iter().all(|value| value.is_finite()));
}

/// SD 1.x and SDXL in one folder, each with a prompt of its own; `k_MODEL_PROMPT` samples one with the other's.
#[test]
fn a_prompt_of_another_family_is_told_before_the_weights_are_loaded() {
    let mut harness = Harness::sd1();
    write(&harness.model_path("checkpoints/xl.safetensors"), &sdxl());
    let text = |clip: &str| node("CLIPTextEncode", json!({ "clip": [clip, 1], "text": "a cat" }));
    let sampled = |model: &str, positive: &str, negative: &str, cfg: f64| {
        let mut node = sampled(positive, negative);
        node["inputs"]["model"] = json!([model, 0]);
        node["inputs"]["cfg"] = json!(cfg);
        node
    };
    let prompt = with(&[
        ("xl", node("CheckpointLoaderSimple", json!({ "ckpt_name": "xl.safetensors" }))),
        ("xl_one", text("xl")),
        ("sd1_into_xl", sampled("xl", "one", "xl_one", 4.0)),
        ("xl_into_sd1", sampled("ckpt", "xl_one", "one", 4.0)),
        ("negative", sampled("ckpt", "one", "xl_one", 4.0)),
        ("negative_unused", sampled("ckpt", "one", "xl_one", 1.0)),
        ("own", sampled("xl", "xl_one", "xl_one", 4.0)),
    ]);
    for (id, input, parts) in [
        ("sd1_into_xl", "`positive`", ["32 values a token", "SDXL base, which reads 40"]),
        ("xl_into_sd1", "`positive`", ["40 values a token", "SD 1.x, which reads 32"]),
        ("negative", "`negative`", ["40 values a token", "SD 1.x, which reads 32"]),
    ] {
        let error = harness.try_run(&prompt, id).unwrap_err().to_string();
        assert!(error.contains(input), "{id}: {error}");
        for part in parts {
            assert!(error.contains(part), "{id}: {error}");
        }
    }
    harness.run(&prompt, "negative_unused");
    harness.run(&prompt, "own");
}

#[test]
fn an_area_outside_the_picture_is_an_error() {
    let mut harness = Harness::sd1();
    let parts = json!({
        "conditioning": ["one", 0], "width": 0.5, "height": 0.5, "x": 1.0, "y": 0.0, "strength": 1.0,
    });
    let prompt = with(&[
        ("outside", area("one", [128, 64])),
        ("parts", node("ConditioningSetAreaPercentage", parts)),
        ("over", area("one", [120, 64])),
        ("k_outside", sampled("outside", "none")),
        ("k_parts", sampled("parts", "none")),
        ("k_over", sampled("over", "none")),
    ]);
    for id in ["k_outside", "k_parts"] {
        let error = harness.try_run(&prompt, id).unwrap_err().to_string();
        assert!(error.contains("x 128, y 0, outside the picture of 128×96"), "{id}: {error}");
    }
    // What only reaches beyond it is cut.
    harness.run(&prompt, "k_over");
}
