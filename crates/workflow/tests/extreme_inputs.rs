//! Every node with the extremes of every input, one at a time and all at once: each ends in values or
//! in an error that says what is wrong, never in a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use distorch_test_support::runs::{Harness, node, prompt};
use distorch_workflow::nodes;
use distorch_workflow::signature::{Input, Kind, MAX_SIDE, Node};
use distorch_workflow::value::Type;
use serde_json::{Map, Value as Json, json};

/// The nodes whose outputs others take, the usual ones first.
fn makers() -> Vec<(&'static str, Json)> {
    let text = |text: &str| node("CLIPTextEncode", json!({ "clip": ["ckpt", 1], "text": text }));
    let image = |width: u32, height: u32, batch: u32| {
        let inputs = json!({ "width": width, "height": height, "batch_size": batch, "color": 99 });
        node("EmptyImage", inputs)
    };
    let solid = |value: f64, width: u32, height: u32| {
        node("SolidMask", json!({ "value": value, "width": width, "height": height }))
    };
    let latent = |width: u32, height: u32, batch: u32| {
        let inputs = json!({ "width": width, "height": height, "batch_size": batch });
        node("EmptyLatentImage", inputs)
    };
    let masked = |samples: &str, mask: &str| {
        node("SetLatentNoiseMask", json!({ "samples": [samples, 0], "mask": [mask, 0] }))
    };
    let area = |width: u32, height: u32, x: u32, y: u32, strength: f64| {
        let inputs = json!({
            "conditioning": ["good", 0], "width": width, "height": height, "x": x, "y": y,
            "strength": strength,
        });
        node("ConditioningSetArea", inputs)
    };
    let cond_mask = |mask: &str, strength: f64, bounds: &str| {
        let inputs = json!({
            "conditioning": ["good", 0], "mask": [mask, 0], "strength": strength,
            "set_cond_area": bounds,
        });
        node("ConditioningSetMask", inputs)
    };
    let range = |start: f64, end: f64| {
        let inputs = json!({ "conditioning": ["good", 0], "start": start, "end": end });
        node("ConditioningSetTimestepRange", inputs)
    };
    let split = |step: u32| node("SplitSigmas", json!({ "sigmas": ["sigmas", 0], "step": step }));
    let freeu = |value: f64| {
        let inputs = json!({
            "model": ["ckpt", 0], "b1": value, "b2": value, "s1": value, "s2": value,
        });
        node("FreeU_V2", inputs)
    };
    vec![
        ("ckpt", node("CheckpointLoaderSimple", json!({ "ckpt_name": "tiny.safetensors" }))),
        ("freeu_none", freeu(0.0)),
        ("freeu_most", freeu(10.0)),
        ("rescaled", node("RescaleCFG", json!({ "model": ["ckpt", 0], "multiplier": 1.0 }))),
        (
            "last",
            node("CLIPSetLastLayer", json!({ "clip": ["ckpt", 1], "stop_at_clip_layer": -24 })),
        ),
        ("good", text("a red circle")),
        ("nothing", text("")),
        ("zero", node("ConditioningZeroOut", json!({ "conditioning": ["good", 0] }))),
        ("outside", area(64, 64, 16384, 16384, 1.0)),
        ("pixel", area(64, 64, 8, 8, 0.0)),
        ("strong", area(16384, 16384, 0, 0, 10.0)),
        ("black_mask", cond_mask("black", 1.0, "mask bounds")),
        ("thin_mask", cond_mask("thin", 0.0, "default")),
        ("never", range(1.0, 0.0)),
        ("at_once", range(0.0, 0.0)),
        (
            "both",
            node(
                "ConditioningCombine",
                json!({ "conditioning_1": ["never", 0], "conditioning_2": ["at_once", 0] }),
            ),
        ),
        ("image", image(24, 16, 1)),
        ("pixel_image", image(1, 1, 1)),
        ("below_image", image(7, 5, 2)),
        ("line_image", image(64, 1, 1)),
        ("images", image(16, 24, 3)),
        ("mask", solid(1.0, 24, 16)),
        ("black", solid(0.0, 1, 1)),
        ("thin", solid(0.5, 1, 100)),
        ("masks", node("ImageToMask", json!({ "image": ["images", 0], "channel": "blue" }))),
        ("latent", latent(32, 24, 1)),
        ("least_latent", latent(16, 16, 1)),
        ("latents", latent(24, 32, 3)),
        ("line_latent", latent(16, 64, 2)),
        ("masked", masked("latent", "black")),
        ("masked_many", masked("latents", "masks")),
        ("masked_thin", masked("line_latent", "thin")),
        (
            "second",
            node(
                "LatentFromBatch",
                json!({ "samples": ["latents", 0], "batch_index": 2, "length": 64 }),
            ),
        ),
        (
            "sigmas",
            node(
                "KarrasScheduler",
                json!({ "steps": 2, "sigma_max": 14.6, "sigma_min": 0.03, "rho": 7.0 }),
            ),
        ),
        ("no_sigmas", split(0)),
        ("all_sigmas", split(10_000)),
        ("flipped", node("FlipSigmas", json!({ "sigmas": ["sigmas", 0] }))),
        ("zero_first", node("SetFirstSigma", json!({ "sigmas": ["sigmas", 0], "sigma": 0.0 }))),
        (
            "most_first",
            node("SetFirstSigma", json!({ "sigmas": ["sigmas", 0], "sigma": 20_000.0 })),
        ),
        (
            "equal",
            node(
                "KarrasScheduler",
                json!({ "steps": 2, "sigma_max": 1.0, "sigma_min": 1.0, "rho": 1.0 }),
            ),
        ),
        (
            "zeros",
            node(
                "KarrasScheduler",
                json!({ "steps": 3, "sigma_max": 0.0, "sigma_min": 0.0, "rho": 0.01 }),
            ),
        ),
        ("euler", node("KSamplerSelect", json!({ "sampler_name": "euler" }))),
        ("dpmpp", node("KSamplerSelect", json!({ "sampler_name": "dpmpp_2m_sde" }))),
        ("uni_pc", node("KSamplerSelect", json!({ "sampler_name": "uni_pc" }))),
        ("adaptive", node("KSamplerSelect", json!({ "sampler_name": "dpm_adaptive" }))),
        ("noise", node("RandomNoise", json!({ "noise_seed": 5 }))),
        ("no_noise", node("DisableNoise", json!({}))),
        (
            "guider",
            node(
                "CFGGuider",
                json!({ "model": ["ckpt", 0], "positive": ["good", 0], "negative": ["nothing", 0], "cfg": 4.0 }),
            ),
        ),
        (
            "basic",
            node("BasicGuider", json!({ "model": ["ckpt", 0], "conditioning": ["never", 0] })),
        ),
    ]
}

/// What gives values of this type, the usual first.
fn links(kind: Type) -> Vec<Json> {
    let from = |ids: &[&str]| ids.iter().map(|id| json!([id, 0])).collect();
    match kind {
        Type::Model => from(&["ckpt", "freeu_none", "freeu_most", "rescaled"]),
        Type::Clip => vec![json!(["ckpt", 1]), json!(["last", 0])],
        Type::Vae => vec![json!(["ckpt", 2])],
        Type::Conditioning => from(&[
            "good",
            "nothing",
            "zero",
            "outside",
            "pixel",
            "strong",
            "black_mask",
            "thin_mask",
            "never",
            "at_once",
            "both",
        ]),
        Type::Image => from(&["image", "pixel_image", "below_image", "line_image", "images"]),
        Type::Mask => from(&["mask", "black", "thin", "masks"]),
        Type::Latent => from(&[
            "latent",
            "least_latent",
            "latents",
            "line_latent",
            "masked",
            "masked_many",
            "masked_thin",
            "second",
        ]),
        Type::Sigmas => {
            let mut all: Vec<Json> = from(&[
                "sigmas",
                "no_sigmas",
                "all_sigmas",
                "flipped",
                "zero_first",
                "most_first",
                "equal",
                "zeros",
            ]);
            all.extend([json!(["no_sigmas", 1]), json!(["all_sigmas", 1])]);
            all
        }
        Type::Sampler => from(&["euler", "dpmpp", "uni_pc", "adaptive"]),
        Type::Noise => from(&["noise", "no_noise"]),
        Type::Guider => from(&["guider", "basic"]),
        _ => Vec::new(),
    }
}

/// The usual value of an input, and its extremes.
fn values(harness: &Harness, class: &str, input: &Input) -> Vec<Json> {
    match input.kind {
        // Pictures of the usual size only where the size is not what is tried.
        Kind::Int { default, min, max, .. } => {
            let usual = if max == MAX_SIDE { default.min(32).max(min) } else { default };
            let usual = if input.name == "steps" { 2 } else { usual };
            // Several pictures are brought to this size.
            let (usual, max) =
                if class == "TextEncodeQwenImage21" { (32, 65) } else { (usual, max) };
            // Each step takes its time.
            let max = if input.name == "steps" && class.contains("KSampler") { 3 } else { max };
            let all = [usual, min, min + 1, max - 1, max, 0, 1, 7];
            let all = all.into_iter().filter(|value| (min..=max).contains(value));
            all.map(|value| serde_json::from_str(&value.to_string()).unwrap()).collect()
        }
        Kind::Float { default, min, max, .. } => {
            // Each of several pictures is encoded at this size.
            let is_encoded = class == "ReferenceMultiLatent";
            let (default, max) = if is_encoded { (0.01, 0.03) } else { (default, max) };
            let all = [default, min, max, min.max(1e-9), 0.0, -0.0, 1.0, 0.999_999];
            all.into_iter().filter(|value| (min..=max).contains(value)).map(Json::from).collect()
        }
        Kind::String { default, .. } => {
            let long = "(word:1.2) ".repeat(200);
            [default, "", "a", "(((", long.as_str(), "embedding:x", "%date%"].map(Json::from).into()
        }
        Kind::Boolean { default, .. } => vec![default.into(), (!default).into()],
        Kind::Choice { options, default } => {
            let mut all = options.list(harness.executor.environment());
            all.sort_by_key(|name| Some(name.as_str()) != default);
            all.into_iter().map(Json::from).collect()
        }
        Kind::Data(_) => vec![
            json!([]),
            json!([{"x": -1e300, "y": 5, "width": 0, "height": -3, "metadata": {"palette": ["#f", 3]}}]),
            json!({"bbox": [1e300, "a"]}),
            json!([[1], null]),
        ],
        Kind::Link(kind) => links(kind),
    }
}

/// Fails where a node panics with these inputs.
fn try_one(
    harness: &mut Harness,
    class: &Node,
    inputs: &Map<String, Json>,
    faults: &mut Vec<String>,
) {
    let mut nodes = makers();
    nodes.push(("node", node(class.class, Json::Object(inputs.clone()))));
    if let Err(error) = harness.try_run(&prompt(&nodes), "node") {
        let text = error.to_string();
        if text.contains("internal error") {
            faults.push(format!("{} {}\n    {text}", class.class, Json::Object(inputs.clone())));
        }
    }
}

#[test]
fn no_node_panics_whatever_it_is_given() {
    let mut harness = Harness::sd1();
    let input = harness.folder.path().join("input");
    fs::create_dir_all(&input).unwrap();
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../input/blue_square.png");
    fs::copy(picture, input.join("blue_square.png")).unwrap();
    let mut faults = Vec::new();
    let mut runs = 0;
    for class in nodes::all().nodes() {
        // Of growing lists a few stand for all.
        let mut grown = 0;
        let mut is_tried = |input: &&Input| {
            grown += usize::from(input.growing.is_some());
            input.growing.is_none() || grown <= 3
        };
        let all: Vec<(&str, Vec<Json>)> = class
            .inputs
            .iter()
            .filter(&mut is_tried)
            .map(|input| (input.name, values(&harness, class.class, input)))
            .filter(|(_, values)| !values.is_empty())
            .collect();
        let usual: Map<String, Json> =
            all.iter().map(|(name, values)| ((*name).to_owned(), values[0].clone())).collect();
        try_one(&mut harness, class, &usual, &mut faults);
        for (name, values) in &all {
            for value in &values[1..] {
                let mut inputs = usual.clone();
                inputs.insert((*name).to_owned(), value.clone());
                try_one(&mut harness, class, &inputs, &mut faults);
                runs += 1;
            }
        }
        // Combinations: each input at the place of the same number in its list.
        for turn in 1..8 {
            let pick = |(at, (name, values)): (usize, &(&str, Vec<Json>))| {
                // Not all sides at their largest.
                ((*name).to_owned(), values[(turn + at * (turn + 1)) % values.len()].clone())
            };
            let mut inputs: Map<String, Json> = all.iter().enumerate().map(pick).collect();
            let large = |value: &Json| value.as_u64().is_some_and(|value| value >= 4095);
            if inputs.values().filter(|value| large(value)).count() > 1 {
                for (name, usual) in &usual {
                    if large(&inputs[name]) {
                        inputs.insert(name.clone(), usual.clone());
                    }
                }
            }
            try_one(&mut harness, class, &inputs, &mut faults);
            runs += 1;
        }
        harness.executor.cache().clear();
    }
    assert!(runs > 500, "{runs} runs are too few");
    assert!(faults.is_empty(), "{} of {runs}:\n{}", faults.len(), faults.join("\n"));
}
