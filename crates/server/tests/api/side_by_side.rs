//! Prompts on devices of their own, which run side by side, and on a common one, which do not.

use std::sync::Arc;

use distorch_server::Config;
use serde_json::{Value, json};

use crate::prompts::run_alone;
use crate::server::{Gate, TestServer, example, png, state_with};

/// The shipped example on a device, and at its end a node that waits for the gate, where `waits` names it.
fn on(device: &str, seed: u32, waits: Option<&str>) -> Value {
    let mut prompt = example(1);
    prompt["3"]["inputs"]["seed"] = json!(seed);
    for input in ["unet_compute_device", "clip_compute_device", "vae_device"] {
        prompt["4"]["inputs"][input] = json!(device);
    }
    if let Some(text) = waits {
        prompt["20"] = json!({ "class_type": "Wait", "inputs": { "text": text } });
    }
    prompt
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_that_share_no_device_run_side_by_side() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let (gate, config) = (Gate::default(), Config { port: 0, ..Config::default() });
    let address = format!("sqlite:{}", folder.path().join("queue.sqlite").display());
    let devices = "cuda:0=2GiB,cuda:1=2GiB";
    let state = state_with(&address, devices, folder.path(), &gate, config).await;
    let server = TestServer::of(folder, state, gate).await;
    let mut watcher = server.connect("clientId=watcher&watch=all").await;
    let send = |prompt: Value| json!({ "prompt": prompt, "client_id": "me" });
    let first = server.queue(&send(on("cuda:0", 1, Some("a")))).await;
    watcher.until_runs(&first, "20").await;
    // One that needs the same device waits; one behind it that needs another does not.
    let third = server.queue(&send(on("cuda:0", 3, None))).await;
    let (second, messages) = server.run(json!({ "prompt": on("cuda:1", 2, None) })).await;
    assert!(messages.iter().any(|message| message["type"] == "execution_success"), "{messages:?}");
    let ids = |queue: &Value, list: &str| -> Vec<String> {
        let items = queue[list].as_array().unwrap().iter();
        items.map(|item| item[1].as_str().unwrap().to_owned()).collect()
    };
    let queue = server.get("/queue").await.json();
    assert_eq!(ids(&queue, "queue_running"), std::slice::from_ref(&first));
    assert_eq!(ids(&queue, "queue_pending"), std::slice::from_ref(&third));
    // Of two that run, one is stopped.
    let stopped = server.queue(&send(on("cuda:1", 4, Some("b")))).await;
    watcher.until_runs(&stopped, "20").await;
    server.post("/interrupt", &json!({ "prompt_id": stopped })).await;
    assert_eq!(watcher.next_of("execution_interrupted").await["prompt_id"], json!(stopped));
    assert_eq!(
        ids(&server.get("/queue").await.json(), "queue_running"),
        std::slice::from_ref(&first)
    );
    server.gate.open();
    let mut ended = Vec::new();
    while ended.last() != Some(&("execution_success", third.clone())) {
        let told = watcher.next().await.expect("the server closed");
        let crate::server::Heard::Json(message) = told else { continue };
        let kinds = ["execution_start", "execution_success", "execution_error"];
        if let Some(kind) = kinds.into_iter().find(|kind| message["type"] == *kind) {
            ended.push((kind, message["data"]["prompt_id"].as_str().unwrap().to_owned()));
        }
    }
    let order = [
        ("execution_success", first.clone()),
        ("execution_start", third.clone()),
        ("execution_success", third.clone()),
    ];
    assert_eq!(ended, order);
    // Each has the picture that it has alone.
    for (id, seed) in [(first, 1), (second, 2), (third, 3)] {
        let entry = server.get(&format!("/history/{id}")).await.json();
        let name = entry[&id]["outputs"]["9"]["images"][0]["filename"].as_str().unwrap().to_owned();
        let view = server.get(&format!("/view?filename={name}&type=output&subfolder=")).await;
        let alone = tempfile::tempdir().unwrap();
        let mut prompt = example(1);
        prompt["3"]["inputs"]["seed"] = json!(seed);
        assert!(png(&view.bytes).0 == png(&run_alone(&prompt, alone.path())).0, "{seed}");
    }
    server.end().await;
}
