//! The live plan.

use serde_json::{Value, json};

use crate::app::app;

/// Two simulated GPUs, each too small for the checkpoint's diffusion model of 8 MiB and what computing takes.
const DEVICES: &str = "cuda:0=256MiB,cuda:1=64MiB";

fn asked(more: Value) -> Value {
    let mut asked = json!({
        "ckpt_name": "tiny-shapes.safetensors",
        "unet_compute_device": "cuda:0",
        "unet_virtual_vram_gb": 0.0,
        "clip_compute_device": "cuda:0",
        "clip_virtual_vram_gb": 0.0,
        "vae_device": "cuda:0",
        "width": 64,
        "height": 64,
    });
    asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    asked
}

fn component<'a>(plan: &'a Value, name: &str) -> &'a Value {
    let components = plan["components"].as_array().unwrap_or_else(|| panic!("{plan}"));
    components.iter().find(|each| each["component"] == name).unwrap()
}

/// Bytes of a component's blocks on a device.
fn on(component: &Value, device: &str) -> u64 {
    let blocks = component["blocks"].as_array().unwrap().iter();
    blocks
        .filter(|block| block["device"] == device)
        .map(|block| block["bytes"].as_u64().unwrap())
        .sum()
}

#[tokio::test]
async fn every_layer_has_a_device_and_each_device_what_its_layers_come_to() {
    let app = app(DEVICES).await;
    let more = json!({ "unet_expert_mode_allocations": "cuda:0,50%;cuda:1,30%;cpu,20%" });
    let plan = app.post("/api/distorch/plan", &asked(more)).await.json();
    let unet = component(&plan, "unet");
    let bytes = unet["bytes"].as_u64().unwrap();
    let parts = ["cuda:0", "cuda:1", "cpu"].map(|device| on(unet, device));
    assert_eq!(parts.iter().sum::<u64>(), bytes);
    // The largest block is what a device may lack of its share.
    let blocks = unet["blocks"].as_array().unwrap();
    let largest = blocks.iter().map(|block| block["bytes"].as_u64().unwrap()).max().unwrap();
    for (held, percent) in parts.into_iter().zip([50, 30, 20]) {
        assert!(
            held.abs_diff(bytes * percent / 100) <= 2 * largest,
            "{held} of {bytes} for {percent} %"
        );
    }
    for device in
        plan["devices"].as_array().unwrap().iter().filter(|device| device["simulated"] == true)
    {
        let id = device["id"].as_str().unwrap();
        let components = plan["components"].as_array().unwrap();
        let held: u64 = components.iter().map(|component| on(component, id)).sum();
        let computing = components.iter().filter(|component| component["compute_device"] == id);
        let number = |component: &Value, name: &str| component[name].as_u64().unwrap();
        let most = computing
            .map(|each| number(each, "window_bytes") + number(each, "activation_bytes"))
            .max();
        assert_eq!(device["held_bytes"], held, "{id}");
        assert_eq!(device["peak_bytes"], held + most.unwrap_or(0), "{id}");
    }
    assert_eq!(plan["fits"], true);
    assert_eq!(plan["model"]["native"], json!({ "width": 128, "height": 128 }));
    // Nothing was loaded for it.
    assert!(app.state.environment.session.models.stats().is_empty());
}

#[tokio::test]
async fn moving_the_virtual_vram_moves_layers() {
    let app = app(DEVICES).await;
    let mut before = 0;
    for gigabytes in [0.0, 0.001, 0.002, 0.004, 4.0] {
        let more = json!({ "unet_virtual_vram_gb": gigabytes, "unet_donor_device": "cpu" });
        let plan = app.post("/distorch/plan", &asked(more)).await.json();
        let unet = component(&plan, "unet");
        let moved = on(unet, "cpu");
        // At most what is asked, and what is asked but for a block.
        let wanted = ((gigabytes * f64::from(1 << 30)) as u64).min(unet["bytes"].as_u64().unwrap());
        assert!(moved <= wanted && (moved > before || gigabytes == 0.0), "{moved} of {wanted}");
        before = moved;
    }
}

#[tokio::test]
async fn auto_is_the_least_that_fits() {
    let app = app("cuda:0=16MiB").await;
    let plan = |gigabytes: Value| {
        let more = json!({
            "unet_virtual_vram_gb": gigabytes, "clip_compute_device": "cpu", "vae_device": "cpu",
        });
        let app = &app;
        async move { app.post("/distorch/plan", &asked(more)).await.json() }
    };
    let auto = plan(json!("auto")).await;
    assert_eq!(component(&auto, "unet")["fits"], true);
    let least = component(&auto, "unet")["virtual_vram_gb"].as_f64().unwrap();
    let there = plan(json!(least)).await;
    assert_eq!(component(&there, "unet")["fits"], true);
}

#[tokio::test]
async fn what_is_wrong_with_an_expert_string_is_pointed_at() {
    let app = app(DEVICES).await;
    let problems = |more: Value| {
        let app = &app;
        async move {
            let answer = app.post("/distorch/plan", &asked(more)).await;
            assert_eq!(answer.status, 200);
            answer.json()["errors"].clone()
        }
    };
    // Of both components at once.
    let both = problems(json!({
        "unet_expert_mode_allocations": "cuda:0,50%; cuda:3 ,50%",
        "clip_expert_mode_allocations": "cpu,1tb",
    }))
    .await;
    assert_eq!(
        both[0],
        json!({
            "input": "unet_expert_mode_allocations",
            "problem": "no device `cuda:3`; present: cuda:0, cuda:1, cpu",
            "entry": 2, "character": 13, "length": 6, "suggestions": ["cuda:0", "cuda:1", "cpu"],
        })
    );
    assert_eq!(both[1]["input"], "clip_expert_mode_allocations");
    assert_eq!(
        (&both[1]["entry"], &both[1]["character"], &both[1]["length"]),
        (&json!(1), &json!(5), &json!(3))
    );
    assert!(both[1]["problem"].as_str().unwrap().contains("write `1024gb`"), "{both}");

    let donor = problems(json!({ "unet_donor_device": "cuda:1, cuda:7" })).await;
    assert_eq!(
        (&donor[0]["input"], &donor[0]["character"]),
        (&json!("unet_donor_device"), &json!(9))
    );
    let range = problems(json!({ "clip_virtual_vram_gb": 129.0 })).await;
    assert_eq!(range[0]["input"], "clip_virtual_vram_gb");
    let device = problems(json!({ "vae_device": "cuda:9" })).await;
    assert_eq!(device[0]["input"], "vae_device");
    let layout = problems(json!({ "layout": "spiral" })).await;
    assert_eq!(layout[0]["input"], "layout");
    for name in ["none.safetensors", "../secret", ""] {
        let missing = problems(json!({ "ckpt_name": name })).await;
        assert_eq!(missing[0]["input"], "ckpt_name", "{name}");
    }
}

#[tokio::test]
async fn bodies_of_another_shape_are_refused() {
    let app = app("").await;
    for body in ["", "1", "{\"width\": -1}", "{\"width\": \"a\"}", "{\"unet_virtual_vram_gb\": []}"]
    {
        assert_eq!(app.ask("POST", "/distorch/plan", body).await.status, 400, "{body}");
    }
    // Sizes beyond all sense are planned for as the largest that there is.
    let large = json!({ "width": u32::MAX, "height": u32::MAX, "batch_size": u32::MAX, "unet_compute_device": "cpu",
                        "clip_compute_device": "cpu", "vae_device": "cpu" });
    let plan = app.post("/distorch/plan", &asked(large)).await.json();
    assert_eq!(plan["fits"], false, "{plan}");
}
