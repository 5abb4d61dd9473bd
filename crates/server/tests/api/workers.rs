//! Processes that share a queue: a front end that runs nothing, and workers without a port.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use distorch_server::config::Role;
use distorch_server::outputs::Outputs;
use distorch_server::{AppState, Config, execution};
use distorch_workflow::Executor;
use object_store::memory::InMemory;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::postgres;
use crate::server::{Gate, OpensAtEnd, TestServer, example, one, png, state_on};

/// A worker: what `distorch worker` runs.
struct TestWorker {
    folder: Arc<TempDir>,
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
    _opens: OpensAtEnd,
}

impl TestWorker {
    async fn start(address: &str, name: &str, outputs: Option<Outputs>) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), address, name, outputs).await
    }

    /// One with these folders.
    async fn start_in(
        folder: Arc<TempDir>,
        address: &str,
        name: &str,
        outputs: Option<Outputs>,
    ) -> Self {
        let config = Config { worker_name: name.to_owned(), outputs, ..Config::default() };
        let gate = Gate::default();
        let state = state_on(address, folder.path(), &gate, config).await;
        let executor = Executor::new(Arc::clone(&state.environment), Arc::clone(&state.registry));
        let (end, ended) = watch::channel(false);
        let task = tokio::spawn(execution::work(state, executor, ended));
        Self { folder, end, task, _opens: OpensAtEnd(gate) }
    }

    async fn end(self) -> Arc<TempDir> {
        self.end.send_replace(true);
        self.task.await.unwrap();
        self.folder
    }
}

async fn front_end(address: &str, outputs: Option<Outputs>) -> TestServer {
    front_end_in(Arc::new(tempfile::tempdir().unwrap()), address, outputs).await
}

async fn front_end_in(folder: Arc<TempDir>, address: &str, outputs: Option<Outputs>) -> TestServer {
    // Only the first counts.
    drop(rustls::crypto::ring::default_provider().install_default());
    let (role, gate) = (Role::FrontEnd, Gate::default());
    let config = Config { port: 0, role, outputs, ..Config::default() };
    let state: AppState = state_on(address, folder.path(), &gate, config).await;
    TestServer::of(folder, state, gate).await
}

/// A front end and a worker of one machine: they share a folder, and a queue in an SQLite file there.
async fn on_one_file() -> (TestServer, TestWorker) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let address = format!("sqlite:{}", folder.path().join("shared.sqlite").display());
    let front = front_end_in(Arc::clone(&folder), &address, None).await;
    (front, TestWorker::start_in(folder, &address, "a", None).await)
}

/// A picture of one colour, which needs no model.
fn colour(colour: u32) -> Value {
    json!({ "prompt": {
        "1": { "class_type": "EmptyImage",
               "inputs": { "width": 8, "height": 8, "batch_size": 1, "color": colour } },
        "2": { "class_type": "SaveImage",
               "inputs": { "images": ["1", 0], "filename_prefix": "day/ComfyUI" } },
    } })
}

/// What messages say, without what differs from run to run.
fn told(messages: &[Value]) -> Vec<(Value, Value)> {
    let prompts = messages.iter().filter(|message| message["data"]["prompt_id"].is_string());
    let told = prompts.map(|message| {
        let data = &message["data"];
        let shown = match message["type"].as_str() {
            Some("executed") => data["output"]["images"][0]["filename"].clone(),
            Some("progress_state") => json!(data["nodes"].as_object().map(|nodes| nodes.len())),
            _ => data["node"].clone(),
        };
        (message["type"].clone(), shown)
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_on_other_machines_make_what_a_front_end_is_asked_for() {
    let Some(database) = postgres::shared() else { return };
    let address = database.database("workers");
    let store = Arc::new(InMemory::new());
    let outputs = || Some(Outputs::in_store(store.clone(), "results", "memory".to_owned()));
    let front = front_end(&address, outputs()).await;
    let mut pictures = Vec::new();
    let mut all_told = Vec::new();
    // One after the other, each of which saves the first picture of its folder.
    for (name, picture) in [("a", colour(1)), ("b", colour(2))] {
        let worker = TestWorker::start(&address, name, outputs()).await;
        let (id, messages) = front.run(picture).await;
        let folder = worker.end().await;
        all_told.push(told(&messages));
        let history = front.get(&format!("/history/{id}")).await.json();
        let entry = &history[&id];
        assert_eq!(entry["status"]["status_str"], "success", "{entry}");
        let image = &entry["outputs"]["2"]["images"][0];
        assert_eq!(image["filename"], "ComfyUI_00001_.png");
        assert_eq!(image["subfolder"], json!(format!("day/{id}")));
        let executed = messages.iter().find(|message| message["type"] == "executed").unwrap();
        assert_eq!(executed["data"]["output"]["images"][0], *image);
        let view = format!("/view?filename=ComfyUI_00001_.png&subfolder=day/{id}&type=output");
        let viewed = front.get(&view).await.bytes;
        let saved = folder.path().join("output/day/ComfyUI_00001_.png");
        assert_eq!(viewed, std::fs::read(saved).unwrap());
        pictures.push(viewed);
    }
    assert_ne!(pictures[0], pictures[1]);
    assert_eq!(front.get("/view?filename=absent.png").await.status, 404);
    front.end().await;

    // A client hears from afar what it hears where the prompt runs: the same, in order, once.
    let alone = TestServer::start().await;
    let (_, messages) = alone.run(colour(3)).await;
    let expected = told(&messages);
    assert!(expected.iter().any(|(kind, _)| kind == "execution_success"));
    for mut told in all_told {
        // Stored before it is told: it comes when all nodes are done.
        let executed = told.iter().position(|(kind, _)| kind == "executed").unwrap();
        let here = expected.iter().position(|(kind, _)| kind == "executed").unwrap();
        let executed = told.remove(executed);
        told.insert(here, executed);
        assert_eq!(told, expected);
    }
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_runs_elsewhere_is_interrupted_and_told_so() {
    let Some(database) = postgres::shared() else { return };
    let address = database.database("interrupted");
    let front = front_end(&address, None).await;
    interrupt(front, TestWorker::start(&address, "a", None).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_runs_in_another_process_on_the_same_file_is_interrupted_and_told_so() {
    let (front, worker) = on_one_file().await;
    interrupt(front, worker).await;
}

async fn interrupt(front: TestServer, worker: TestWorker) {
    let mut socket = front.connect("clientId=client").await;
    let mut waits = one("Wait", "a");
    waits["client_id"] = json!("client");
    let id = front.queue(&waits).await;
    socket.until_runs(&id, "1").await;
    front.post("/interrupt", &json!({})).await;
    let stopped = socket.next_of("execution_interrupted").await;
    assert_eq!((&stopped["prompt_id"], &stopped["node_id"]), (&json!(id), &json!("1")));
    assert!(socket.next_of("executing").await["node"].is_null());
    let job = front.get(&format!("/api/jobs/{id}")).await.json();
    assert_eq!(job["status"], "cancelled", "{job}");
    worker.end().await;
    front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_shared_queue_tells_its_own_clients_once() {
    let Some(database) = postgres::shared() else { return };
    let address = database.database("once");
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let gate = Gate::default();
    let config = Config { port: 0, ..Config::default() };
    let state = state_on(&address, folder.path(), &gate, config).await;
    let server = TestServer::of(folder, state, gate).await;
    let client = "clientId=client";
    let mut socket = server.connect(client).await;
    let mut successes = Vec::new();
    // What the first is told late would be heard before the second has ended.
    for number in 1..=2 {
        let mut sent = colour(number);
        sent["client_id"] = json!("client");
        let id = server.queue(&sent).await;
        let messages = socket.until_end(&id).await;
        let ends = messages.iter().filter(|message| message["type"] == "execution_success");
        successes.extend(ends.map(|message| message["data"]["prompt_id"].clone()));
    }
    assert_eq!(successes.len(), 2, "{successes:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hears_of_a_prompt_in_another_process_on_the_same_file_as_of_one_here() {
    let (front, worker) = on_one_file().await;
    let (id, messages) = front.run(json!({ "prompt": example(3) })).await;
    let history = front.get(&format!("/history/{id}")).await.json();
    assert_eq!(history[&id]["status"]["status_str"], "success", "{history}");
    worker.end().await;
    front.end().await;
    let alone = TestServer::start().await;
    let (_, expected) = alone.run(json!({ "prompt": example(3) })).await;
    alone.end().await;
    let kinds = ["progress", "executed", "execution_success"];
    assert!(kinds.iter().all(|kind| expected.iter().any(|message| message["type"] == *kind)));
    // How often it is said that weights are loaded depends on how long that takes.
    let steady = |messages| {
        let told = told(messages).into_iter();
        told.filter(|(kind, _)| kind != "progress_state").collect::<Vec<_>>()
    };
    assert_eq!(steady(&messages), steady(&expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_openais_gets_pictures_that_another_process_made() {
    let asked = json!({
        "model": "tiny-shapes.safetensors", "prompt": "a red circle", "n": 2, "size": "64x64",
        "response_format": "b64_json", "steps": 2, "seed": 7,
    });
    let pictures = |made: &Value| -> Vec<_> {
        let pictures = made["data"].as_array().unwrap_or_else(|| panic!("{made}")).iter();
        let encoded = pictures.map(|picture| picture["b64_json"].as_str().unwrap());
        encoded.map(|text| png(&STANDARD.decode(text).unwrap()).0).collect()
    };
    let (front, worker) = on_one_file().await;
    let made = pictures(&front.post("/v1/images/generations", &asked).await.json());
    let folder = worker.end().await;
    assert!(folder.path().join("output/images/generated_00002_.png").is_file());
    front.end().await;
    let alone = TestServer::start().await;
    let expected = pictures(&alone.post("/v1/images/generations", &asked).await.json());
    alone.end().await;
    assert_eq!(expected.len(), 2);
    assert_eq!(made, expected);
}
