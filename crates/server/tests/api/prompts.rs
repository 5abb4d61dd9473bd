//! Prompts: queueing them, what comes of them, and what is said of them afterwards.

use std::path::Path;

use distorch_allocation::Topology;
use distorch_checkpoint::folders::ModelFolders;
use distorch_queue::NewJob;
use distorch_runtime::devices;
use distorch_test_support::repository;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::Silent;
use distorch_workflow::{Environment, Executor, nodes};
use serde_json::{Value, json};

use crate::server::{TestServer, example, one, png};

/// The file that `distorch run` saves of this prompt: the executor runs it without a server.
pub fn run_alone(prompt: &Value, folder: &Path) -> Vec<u8> {
    let cpu = devices::survey().devices.into_iter().map(|device| device.info);
    let topology = Topology::new(cpu.filter(|info| info.id.is_cpu()).collect()).unwrap();
    let folders = ModelFolders::new(&repository(), &[]).unwrap();
    let mut environment = Environment::on(folders, topology);
    environment.output_dir = folder.to_owned();
    let mut executor = Executor::new(environment, nodes::all());
    let prompt = Prompt::from_json(&prompt.to_string(), executor.registry()).unwrap();
    let report = executor.run(&prompt, &Silent).unwrap();
    let name = report.outputs["9"]["images"][0]["filename"].as_str().unwrap();
    std::fs::read(folder.join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_prompt_makes_the_picture_that_a_run_makes() {
    let server = TestServer::start().await;
    let prompt = example(2);
    let workflow = json!({ "id": "a-workflow", "nodes": [], "links": [] });
    let sent = json!({
        "prompt": prompt,
        "extra_data": { "extra_pnginfo": { "workflow": workflow }, "api_key_comfy_org": "secret" },
    });
    let (id, messages) = server.run(sent).await;
    let shown: Vec<_> = messages.iter().filter(|m| m["type"] == "executed").collect();
    assert_eq!(shown.len(), 1, "{messages:?}");
    let picture = &shown[0]["data"]["output"]["images"][0];
    let name = picture["filename"].as_str().unwrap();
    let view = server.get(&format!("/view?filename={name}&type=output&subfolder=")).await;
    assert_eq!((view.status.as_u16(), view.header("content-type")), (200, "image/png"));
    let alone = tempfile::tempdir().unwrap();
    let (pixels, size, _) = png(&run_alone(&example(2), alone.path()));
    let (served, served_size, texts) = png(&view.bytes);
    assert_eq!((served_size, &served), (size, &pixels));
    let text = |keyword: &str| {
        let (_, text) = texts.iter().find(|(known, _)| known == keyword).unwrap();
        serde_json::from_str::<Value>(text).unwrap()
    };
    assert_eq!((text("prompt"), text("workflow")), (prompt.clone(), workflow.clone()));
    // What is kept of it.
    let history = server.get(&format!("/api/history/{id}")).await.json();
    let entry = &history[&id];
    assert_eq!(entry["status"]["status_str"], "success");
    assert_eq!(entry["status"]["completed"], true);
    let told = entry["status"]["messages"].as_array().unwrap();
    let kinds: Vec<_> = told.iter().map(|message| message[0].as_str().unwrap()).collect();
    assert_eq!(kinds, ["execution_start", "execution_cached", "execution_success"]);
    assert_eq!(entry["outputs"]["9"]["images"][0], *picture);
    assert_eq!(entry["meta"]["9"]["display_node"], "9");
    let tuple = &entry["prompt"];
    assert_eq!((&tuple[1], &tuple[2], &tuple[4]), (&json!(id), &prompt, &json!(["9"])));
    assert_eq!(tuple[3]["extra_pnginfo"]["workflow"], workflow);
    assert_eq!(tuple[3].get("api_key_comfy_org"), None);
    let job = server.get(&format!("/api/jobs/{id}")).await.json();
    assert_eq!((&job["status"], &job["workflow_id"]), (&json!("completed"), &json!("a-workflow")));
    assert_eq!(job["preview_output"]["filename"], *name);
    assert_eq!(job["workflow"]["prompt"], prompt);
    assert!(job["execution_end_time"].as_u64() >= job["execution_start_time"].as_u64());
    // Models that it loaded are there, until they are asked to go.
    let stats = server.get("/system_stats").await.json();
    assert!(stats["models"].as_array().unwrap().len() >= 2, "{stats}");
    assert!(stats["devices"][0]["resident_bytes"].as_u64().unwrap() > 1 << 20, "{stats}");
    let freed = server.post("/free", &json!({ "unload_models": true, "free_memory": true })).await;
    assert_eq!(freed.status, 200);
    server.run(one("Show", "x")).await;
    assert_eq!(server.get("/system_stats").await.json()["models"], json!([]));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_prompt_is_said_in_comfyuis_shape() {
    let server = TestServer::start().await;
    let node = |inputs: Value| json!({ "prompt": { "1": { "class_type": "SaveImage", "inputs": inputs } } });
    let mut partial = one("Show", "x");
    partial["partial_execution_targets"] = json!(["2"]);
    let mut id = one("Show", "x");
    id["prompt_id"] = json!("6F9619FF-8B86-D011-B42D-00CF4FC964FF");
    for (sent, kind) in [
        (json!({}), "no_prompt"),
        (json!({ "prompt": {} }), "prompt_no_outputs"),
        (json!({ "prompt": { "1": { "inputs": {} } } }), "missing_node_type"),
        (json!({ "prompt": { "1": { "class_type": "Nope", "inputs": {} } } }), "missing_node_type"),
        (json!({ "prompt": { "1": 5 } }), "invalid_prompt"),
        (json!({ "prompt": [] }), "invalid_prompt"),
        (node(json!({ "filename_prefix": "x" })), "prompt_outputs_failed_validation"),
        (partial, "prompt_no_outputs"),
        (id, "invalid_prompt_id"),
    ] {
        let answer = server.post("/api/prompt", &sent).await;
        let said = answer.json();
        assert_eq!(
            (answer.status.as_u16(), said["error"]["type"].as_str()),
            (400, Some(kind)),
            "{sent}: {said}"
        );
        assert!(said["node_errors"].is_object() && said["error"]["message"].is_string(), "{said}");
        assert!(said["error"]["details"].is_string() && said["error"]["extra_info"].is_object());
    }
    let said = server.post("/prompt", &node(json!({ "filename_prefix": "x" }))).await.json();
    let error = &said["node_errors"]["1"];
    assert_eq!(error["class_type"], "SaveImage");
    assert_eq!(error["dependent_outputs"], json!(["1"]));
    assert_eq!(error["errors"][0]["type"], "required_input_missing");
    for body in ["", "{", "[]", "null", "\"a\"", "{\"prompt\": NaN}"] {
        let request = server.request(reqwest::Method::POST, "/prompt").body(body);
        let answer = server.send(request).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.json()["error"].is_string() || answer.json()["error"].is_object());
    }
    let number = json!({ "prompt": one("Show", "x")["prompt"], "number": "no" });
    assert_eq!(server.post("/prompt", &number).await.status, 400);
    // Nothing of this was queued.
    assert_eq!(server.get("/prompt").await.json()["exec_info"]["queue_remaining"], 0);
    assert_eq!(server.get("/history").await.json(), json!({}));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_ordered_listed_and_emptied() {
    let server = TestServer::start().await;
    let mut socket = server.connect("clientId=me").await;
    let send = |text: &str, more: Value| {
        let mut sent = one("Wait", text);
        sent["client_id"] = json!("me");
        sent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        sent
    };
    let running = server.queue(&send("0", json!({}))).await;
    socket.until_runs(&running, "1").await;
    let own = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
    let first = server.queue(&send("1", json!({}))).await;
    let named = server.queue(&send("2", json!({ "prompt_id": own }))).await;
    let front = server.queue(&send("3", json!({ "front": true }))).await;
    let placed = server.queue(&send("4", json!({ "number": 0.5 }))).await;
    assert_eq!(named, own);
    assert_eq!(server.post("/prompt", &send("5", json!({ "prompt_id": own }))).await.status, 400);
    let queue = server.get("/queue").await.json();
    assert_eq!(queue["queue_running"][0][1], json!(running));
    let waiting = |queue: &Value| -> Vec<String> {
        let items = queue["queue_pending"].as_array().unwrap().iter();
        items.map(|item| item[1].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(waiting(&queue), [&front, &placed, &first, &named].map(Clone::clone));
    assert_eq!(queue["queue_pending"][1][0], json!(0.5));
    assert_eq!(queue["queue_pending"][2][0], json!(1));
    assert_eq!(queue["queue_pending"][2][4], json!(["1"]));
    assert_eq!(server.get("/prompt").await.json()["exec_info"]["queue_remaining"], 5);
    // Taking some out.
    let deleted = server.post("/queue", &json!({ "delete": [first, running, "no id", 5] })).await;
    assert_eq!(deleted.status, 200);
    let cancelled = server.post(&format!("/api/jobs/{front}/cancel"), &json!({})).await.json();
    assert_eq!(cancelled, json!({ "cancelled": true }));
    let queue = server.get("/queue").await.json();
    assert_eq!(waiting(&queue), [&placed, &named].map(Clone::clone));
    assert_eq!(queue["queue_running"].as_array().unwrap().len(), 1);
    // One that waits is not interrupted.
    server.post("/interrupt", &json!({ "prompt_id": placed })).await;
    assert_eq!(waiting(&server.get("/queue").await.json()).len(), 2);
    server.post("/queue", &json!({ "clear": true })).await;
    assert_eq!(server.get("/queue").await.json()["queue_pending"], json!([]));
    let statuses = |jobs: &Value| -> Vec<String> {
        let jobs = jobs["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["status"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(statuses(&server.get("/api/jobs").await.json()), ["in_progress"]);
    // Stopping what runs.
    server.post("/interrupt", &json!({ "prompt_id": running })).await;
    let stopped = socket.next_of("execution_interrupted").await;
    let told = (&stopped["prompt_id"], &stopped["node_id"], &stopped["node_type"]);
    assert_eq!(told, (&json!(running), &json!("1"), &json!("Wait")));
    let entry = &server.get(&format!("/history/{running}")).await.json()[&running];
    assert_eq!(entry["status"]["status_str"], "error");
    assert_eq!(entry["status"]["completed"], false);
    let job = server.get(&format!("/api/jobs/{running}")).await.json();
    assert_eq!(job["status"], "cancelled");
    // All at once, and by a list of ids.
    let another = server.queue(&send("6", json!({}))).await;
    socket.until_runs(&another, "1").await;
    let request = server.request(reqwest::Method::POST, "/interrupt");
    assert_eq!(server.send(request).await.status, 200);
    assert_eq!(socket.next_of("execution_interrupted").await["prompt_id"], json!(another));
    let third = server.queue(&send("7", json!({}))).await;
    socket.until_runs(&third, "1").await;
    let cancel = |ids: Value| json!({ "job_ids": ids });
    let wrong = server.post("/api/jobs/cancel", &cancel(json!([third, "x"]))).await;
    assert_eq!((wrong.status.as_u16(), &wrong.json()["invalid_ids"]), (400, &json!(["x"])));
    assert_eq!(server.post("/api/jobs/cancel", &json!({})).await.status, 400);
    let done = server.post("/api/jobs/cancel", &cancel(json!([another, third]))).await.json();
    assert_eq!(done, json!({ "cancelled": true }));
    assert_eq!(socket.next_of("execution_interrupted").await["prompt_id"], json!(third));
    let again = server.post(&format!("/api/jobs/{third}/cancel"), &json!({})).await.json();
    assert_eq!(again, json!({ "cancelled": false }));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_is_told_with_its_inputs() {
    let server = TestServer::start().await;
    let (id, messages) = server.run(one("Fail", "never")).await;
    let told = messages.iter().find(|m| m["type"] == "execution_error").unwrap();
    let data = &told["data"];
    assert_eq!(
        (&data["prompt_id"], &data["node_id"], &data["node_type"]),
        (&json!(id), &json!("1"), &json!("Fail"))
    );
    assert!(data["exception_message"].as_str().unwrap().contains("no: never"), "{data}");
    assert_eq!(data["exception_type"], "RuntimeError");
    assert_eq!(data["current_inputs"], json!({ "text": ["never"] }));
    assert!(!data["traceback"].as_array().unwrap().is_empty());
    assert_eq!((&data["executed"], &data["current_outputs"]), (&json!([]), &json!([])));
    let job = server.get(&format!("/api/jobs/{id}")).await.json();
    assert_eq!(job["status"], "failed");
    assert_eq!(job["execution_error"], *data);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_listed_in_parts_and_forgotten() {
    let server = TestServer::start().await;
    let mut ids = Vec::new();
    for text in ["a", "b"] {
        ids.push(server.run(one("Show", text)).await.0);
    }
    let mut third = one("Show", "c");
    third["extra_data"] = json!({ "extra_pnginfo": { "workflow": { "id": "third" } } });
    ids.push(server.run(third).await.0);
    ids.push(server.run(one("Fail", "d")).await.0);
    let keys = |history: Value| -> Vec<String> {
        // Read as text: values of JSON are ordered by key.
        history.as_object().unwrap().keys().cloned().collect()
    };
    let sorted = |ids: &[String]| {
        let mut ids = ids.to_vec();
        ids.sort();
        ids
    };
    assert_eq!(keys(server.get("/history").await.json()), sorted(&ids));
    assert_eq!(keys(server.get("/history?max_items=2").await.json()), sorted(&ids[2..]));
    assert_eq!(keys(server.get("/history?max_items=2&offset=1").await.json()), sorted(&ids[1..3]));
    assert_eq!(server.get("/history?max_items=x").await.status, 400);
    let text = String::from_utf8(server.get("/history").await.bytes).unwrap();
    let places: Vec<_> = ids.iter().map(|id| text.find(&format!("\"{id}\":{{")).unwrap()).collect();
    assert!(places.is_sorted(), "the earliest first: {text}");
    let jobs = |query: &str| {
        let path = format!("/api/jobs?{query}");
        let server = &server;
        async move {
            let page = server.get(&path).await.json();
            let jobs = page["jobs"].as_array().unwrap().iter();
            let ids: Vec<_> = jobs.map(|job| job["id"].as_str().unwrap().to_owned()).collect();
            (ids, page["pagination"].clone())
        }
    };
    let (listed, pagination) = jobs("sort_order=asc&limit=2&offset=1").await;
    assert_eq!(listed, ids[1..3]);
    assert_eq!(pagination, json!({ "offset": 1, "limit": 2, "total": 4, "has_more": true }));
    assert_eq!(jobs("status=failed,pending").await.0, ids[3..]);
    let none = json!({ "offset": 0, "limit": null, "total": 0, "has_more": false });
    assert_eq!(jobs("workflow_id=other").await, (Vec::new(), none));
    assert_eq!(jobs("workflow_id=third&status=completed").await.0, ids[2..3]);
    let page = server.get("/api/jobs?sort_by=execution_duration").await.json();
    let times = page["jobs"].as_array().unwrap().iter().map(|job| {
        job["execution_end_time"].as_i64().unwrap() - job["execution_start_time"].as_i64().unwrap()
    });
    assert!(times.is_sorted_by(|a, b| a >= b), "the longest first: {page}");
    for wrong in ["status=odd", "sort_by=x", "sort_order=x", "limit=0", "limit=x", "offset=x"] {
        assert_eq!(server.get(&format!("/api/jobs?{wrong}")).await.status, 400, "{wrong}");
    }
    assert_eq!(server.get("/api/jobs/no-id").await.status, 404);
    server.post("/history", &json!({ "delete": [ids[0], "x"] })).await;
    assert_eq!(keys(server.get("/history").await.json()), sorted(&ids[1..]));
    server.post("/history", &json!({ "clear": true })).await;
    assert_eq!(server.get("/history").await.json(), json!({}));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_comes_whole_and_in_order() {
    let server = TestServer::start().await;
    let queue = &server.state.queue;
    assert_eq!(server.get("/history").await.bytes, b"{}");
    let mut ids = Vec::new();
    for number in 0..150 {
        let id = uuid::Uuid::new_v4();
        let prompt = one("Show", &number.to_string())["prompt"].clone();
        let outputs = vec!["1".to_owned()];
        let job = NewJob { id, prompt: prompt.into(), outputs, ..NewJob::default() };
        queue.submit(&job).await.unwrap();
        ids.push(id.to_string());
    }
    let mut notices = queue.subscribe();
    while queue.remaining().await.unwrap() > 0 {
        notices.next().await.unwrap();
    }
    let text = String::from_utf8(server.get("/history").await.bytes).unwrap();
    let history: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(history.as_object().unwrap().len(), 150);
    let places: Vec<_> = ids.iter().map(|id| text.find(&format!("\"{id}\":{{")).unwrap()).collect();
    assert!(places.is_sorted(), "the earliest first");
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(history[id]["outputs"]["1"]["text"][0], json!(number.to_string()));
        assert_eq!(history[id]["prompt"][1], json!(id));
    }
    let one = server.get(&format!("/history/{}", ids[70])).await.json();
    assert_eq!(one[&ids[70]], history[&ids[70]]);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_runs_when_the_server_ends_runs_again() {
    let server = TestServer::with(|config| config.grace = std::time::Duration::ZERO).await;
    let mut socket = server.connect("clientId=me").await;
    let mut sent = one("Wait", "x");
    sent["client_id"] = json!("me");
    let running = server.queue(&sent).await;
    let waiting = server.queue(&one("Show", "y")).await;
    socket.next_of("executing").await;
    let ended = tokio::spawn(server.end());
    assert!(socket.next_of("notification").await["value"].is_string());
    let folder = ended.await.unwrap();
    let server = TestServer::on(folder, |_| {}).await;
    server.gate.open();
    // The later one is through: so is the earlier.
    let mut notices = server.state.queue.subscribe();
    for id in [&running, &waiting] {
        let id = id.parse().unwrap();
        while !server.state.queue.job(id).await.unwrap().unwrap().state.is_ended() {
            notices.next().await.unwrap();
        }
        let entry = server.get(&format!("/history/{id}")).await.json();
        assert_eq!(entry[id.to_string()]["status"]["status_str"], "success", "{entry}");
    }
    server.end().await;
}
