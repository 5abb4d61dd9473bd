//! The gallery, and workflows in files.

use std::time::{Duration, UNIX_EPOCH};

use distorch_test_support::repository;
use http::StatusCode;
use serde_json::{Value, json};

use crate::app::{App, app};

/// A picture of one pixel that carries texts.
fn png(texts: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    encoder.set_color(png::ColorType::Rgb);
    for (name, text) in texts {
        encoder.add_text_chunk((*name).to_owned(), (*text).to_owned()).unwrap();
    }
    encoder.write_header().unwrap().write_image_data(&[1, 2, 3]).unwrap();
    bytes
}

fn example(name: &str) -> String {
    std::fs::read_to_string(repository().join("examples").join(name)).unwrap()
}

/// Puts a file into the output folder, saved so many seconds after 2023-11-14.
fn save(app: &App, name: &str, bytes: &[u8], seconds: u64) {
    let name = format!("output/{name}");
    app.write(&name, bytes);
    let file = std::fs::File::options().write(true).open(app.path(&name)).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)).unwrap();
}

#[tokio::test]
async fn the_newest_picture_comes_first_with_how_it_was_made() {
    let app = app("").await;
    assert_eq!(app.get("/distorch/gallery").await.json(), json!({ "total": 0, "pictures": [] }));
    save(&app, "old.png", &png(&[]), 1);
    save(&app, "below/new.png", &png(&[("prompt", &example("txt2img_distorch2.json"))]), 3);
    save(&app, "broken.png", b"no picture", 2);
    save(&app, "notes.txt", b"text", 4);
    let all = app.get("/api/distorch/gallery").await.json();
    assert_eq!(all["total"], 3);
    let first = &all["pictures"][0];
    assert_eq!((&first["filename"], &first["subfolder"]), (&json!("new.png"), &json!("below")));
    assert_eq!(
        (&first["type"], &first["modified"]),
        (&json!("output"), &json!(1_700_000_003_000_u64))
    );
    // What `examples/txt2img_distorch2.json` says.
    assert_eq!(
        first["summary"],
        json!({
            "prompt": "a red circle on a white background", "model": "tiny-shapes.safetensors", "seed": 6,
            "steps": 20, "cfg": 2.0, "sampler": "euler", "scheduler": "normal",
        })
    );
    let names = |page: &Value| -> Vec<String> {
        let pictures = page["pictures"].as_array().unwrap().iter();
        pictures.map(|picture| picture["filename"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&all), ["new.png", "broken.png", "old.png"]);
    let page = app.get("/distorch/gallery?limit=1&offset=1").await.json();
    assert_eq!((names(&page), &page["total"]), (vec!["broken.png".to_owned()], &json!(3)));
    assert_eq!(app.get("/distorch/gallery?limit=-1").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_picture_gives_its_workflow_back() {
    let app = app("").await;
    let prompt = example("two_gpus.json");
    save(&app, "a.png", &png(&[("prompt", &prompt), ("workflow", &example("editor.json"))]), 1);
    save(&app, "bare.png", &png(&[]), 1);
    let opened = app.get("/distorch/gallery/workflow?filename=a.png").await.json();
    assert_eq!(opened["prompt"], serde_json::from_str::<Value>(&prompt).unwrap());
    assert!(opened["workflow"]["nodes"].is_array());
    assert_eq!(opened["summary"]["prompt"], "a yellow triangle on a blue background");
    for (query, status) in [
        ("filename=bare.png", StatusCode::UNPROCESSABLE_ENTITY),
        ("filename=none.png", StatusCode::NOT_FOUND),
        ("filename=..%2Fshipped.yaml", StatusCode::BAD_REQUEST),
        ("filename=a.png&subfolder=..%2Foutput", StatusCode::BAD_REQUEST),
        ("filename=a.png&type=models", StatusCode::BAD_REQUEST),
        ("", StatusCode::BAD_REQUEST),
    ] {
        let answer = app.get(&format!("/distorch/gallery/workflow?{query}")).await;
        assert_eq!(answer.status, status, "{query}");
    }
}

#[tokio::test]
async fn a_workflow_is_read_in_every_form() {
    let app = app("").await;
    let api = example("txt2img_distorch2.json");
    let sent = json!({ "prompt": serde_json::from_str::<Value>(&api).unwrap() }).to_string();
    let picture = png(&[("prompt", &api)]);
    for body in [api.as_bytes(), sent.as_bytes(), &picture] {
        let opened = app.ask("POST", "/distorch/workflow", body.to_vec()).await.json();
        assert_eq!(opened["prompt"], serde_json::from_str::<Value>(&api).unwrap());
        assert_eq!(opened.get("workflow"), None);
    }
    // The editor's form becomes the API's, and is given back for the editor.
    let editor = example("editor.json");
    let opened = app.ask("POST", "/distorch/workflow", editor.clone()).await.json();
    assert_eq!(opened["workflow"], serde_json::from_str::<Value>(&editor).unwrap());
    let classes = opened["prompt"].as_object().unwrap().values().map(|node| &node["class_type"]);
    assert!(classes.into_iter().any(|class| class == "KSampler"), "{opened}");
    for body in [b"".as_slice(), b"{", b"[]", b"\xff\xfe\x00", &png(&[]), &png(&[])[..20]] {
        let answer = app.ask("POST", "/distorch/workflow", body.to_vec()).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body:?}");
    }
}

#[tokio::test]
async fn a_summary_follows_the_links_of_custom_sampling() {
    let app = app("").await;
    let node = |class: &str, inputs: Value| json!({ "class_type": class, "inputs": inputs });
    let graph = json!({
        "1": node("CLIPTextEncode", json!({ "text": "not this", "clip": ["9", 0] })),
        "2": node("CLIPTextEncode", json!({ "text": "a lighthouse", "clip": ["9", 0] })),
        "3": node("FluxGuidance", json!({ "conditioning": ["2", 0], "guidance": 3.5 })),
        "4": node("BasicGuider", json!({ "model": ["8", 0], "conditioning": ["3", 0] })),
        "5": node("RandomNoise", json!({ "noise_seed": 18446744073709551615_u64 })),
        "6": node("BasicScheduler", json!({ "scheduler": "simple", "steps": 4, "denoise": 1.0, "model": ["8", 0] })),
        "7": node("KSamplerSelect", json!({ "sampler_name": "euler" })),
        "8": node("UNETLoader", json!({ "unet_name": "flux1-schnell.safetensors", "weight_dtype": "default" })),
        // A circle of links leads nowhere.
        "9": node("Loop", json!({ "clip": ["9", 0] })),
    });
    let opened = app.post("/distorch/workflow", &graph).await.json();
    assert_eq!(
        opened["summary"],
        json!({
            "prompt": "a lighthouse", "model": "flux1-schnell.safetensors", "seed": 18446744073709551615_u64,
            "steps": 4, "sampler": "euler", "scheduler": "simple",
        })
    );
}
