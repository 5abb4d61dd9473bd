//! Pictures for clients of OpenAI's API.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::server::{TestServer, png};

fn asked() -> Value {
    json!({
        "model": "tiny-shapes.safetensors", "prompt": "a red circle", "n": 2, "size": "64x64",
        "response_format": "b64_json", "steps": 2, "seed": 7,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_come_as_base64_or_as_links() {
    let server = TestServer::start().await;
    let made = server.post("/v1/images/generations", &asked()).await;
    assert_eq!(made.status, 200, "{}", made.json());
    let made = made.json();
    assert!(made["created"].as_u64().unwrap() > 1_700_000_000);
    let pictures: Vec<_> = made["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|picture| png(&STANDARD.decode(picture["b64_json"].as_str().unwrap()).unwrap()))
        .collect();
    assert_eq!(pictures.len(), 2);
    assert_eq!(pictures[0].1, [64, 64]);
    assert_ne!(pictures[0].0, pictures[1].0, "each has noise of its own");
    let mut linked = asked();
    linked["response_format"] = json!("url");
    let linked = server.post("/v1/images/generations", &linked).await.json();
    let url = linked["data"][1]["url"].as_str().unwrap();
    assert!(url.starts_with(&server.url), "{url}");
    let picture = server.send(server.client.get(url)).await;
    assert_eq!(png(&picture.bytes).0, pictures[1].0, "the same seed, the same picture");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_openais_shape() {
    let server = TestServer::start().await;
    for (field, value, status, param) in [
        ("model", json!("none.safetensors"), 404, Some("model")),
        ("model", json!("../tiny-shapes.safetensors"), 404, Some("model")),
        ("model", Value::Null, 400, Some("model")),
        ("prompt", json!(""), 400, Some("prompt")),
        ("n", json!(0), 400, Some("n")),
        ("n", json!(11), 400, Some("n")),
        ("n", json!("x"), 400, None),
        ("size", json!("large"), 400, Some("size")),
        ("size", json!("-1x64"), 400, Some("size")),
        ("response_format", json!("png"), 400, Some("response_format")),
        ("steps", json!(0), 400, None),
        ("size", json!("1x1"), 400, None),
    ] {
        let mut wrong = asked();
        wrong[field] = value.clone();
        let answer = server.post("/v1/images/generations", &wrong).await;
        let error = &answer.json()["error"];
        assert_eq!(answer.status, status, "{field} {value}: {error}");
        assert_eq!(error["param"], json!(param), "{field} {value}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    server.end().await;
}
