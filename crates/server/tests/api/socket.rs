//! The messages of `/ws`.

use serde_json::{Value, json};

use crate::server::{Heard, Socket, TestServer, example, one};

async fn opened(socket: &mut Socket) -> [Value; 2] {
    let mut first = Vec::new();
    while first.len() < 2 {
        if let Some(Heard::Json(message)) = socket.next().await {
            first.push(message);
        }
    }
    first.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_in_comfyuis_order() {
    let server = TestServer::start().await;
    let mut socket = server.connect("clientId=me").await;
    let [flags, status] = opened(&mut socket).await;
    assert_eq!(
        (&flags["type"], &flags["data"]["assets"]),
        (&json!("feature_flags"), &json!(false))
    );
    assert_eq!(flags["data"], server.get("/features").await.json());
    assert_eq!(status["data"]["sid"], "me");
    assert_eq!(status["data"]["status"]["exec_info"]["queue_remaining"], 0);
    let sent = json!({ "prompt": example(2), "client_id": "me" });
    let id = server.queue(&sent).await;
    let messages = socket.until_end(&id).await;
    let of = |kind: &str| -> Vec<&Value> {
        messages.iter().filter(|m| m["type"] == kind).map(|m| &m["data"]).collect()
    };
    let main = [
        "execution_start",
        "execution_cached",
        "executing",
        "progress",
        "executed",
        "execution_success",
    ];
    let mut kinds: Vec<_> = messages
        .iter()
        .filter_map(|m| m["type"].as_str())
        .filter(|kind| main.contains(kind))
        .collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "execution_start",
            "execution_cached",
            "executing",
            "progress",
            "executing",
            "executed",
            "execution_success",
            "executing"
        ]
    );
    // Each node before those that need it; all of the prompt's.
    let nodes: Vec<_> = of("executing").iter().map(|data| data["node"].as_str()).collect();
    let place = |node: &str| nodes.iter().position(|known| *known == Some(node)).unwrap();
    for (before, after) in [("4", "6"), ("6", "3"), ("7", "3"), ("5", "3"), ("3", "8"), ("8", "9")]
    {
        assert!(place(before) < place(after), "{nodes:?}");
    }
    assert_eq!(nodes.last(), Some(&None));
    let steps: Vec<_> =
        of("progress").iter().map(|data| (data["value"].clone(), data["max"].clone())).collect();
    assert_eq!(steps, [(json!(1), json!(2)), (json!(2), json!(2))]);
    let states = of("progress_state");
    let last = states.last().unwrap();
    assert!(last["nodes"].as_object().unwrap().values().all(|node| node["state"] == "finished"));
    let running = states.iter().find(|state| state["nodes"]["3"]["state"] == "running").unwrap();
    assert_eq!(running["nodes"]["3"]["real_node_id"], "3");
    // A second time everything is there already, and shown again.
    let id = server.queue(&sent).await;
    let again = socket.until_end(&id).await;
    let cached = again.iter().find(|m| m["type"] == "execution_cached").unwrap();
    assert_eq!(cached["data"]["nodes"], json!(["9"]));
    let first = of("executed")[0]["output"].clone();
    let shown = again.iter().find(|m| m["type"] == "executed").unwrap();
    assert_eq!(shown["data"]["output"], first);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_come_in_the_form_that_a_client_reads() {
    let server = TestServer::start().await;
    for (flags, kind) in [(json!({}), 1_u32), (json!({ "supports_preview_metadata": true }), 4)] {
        let mut socket = server.connect("clientId=me").await;
        opened(&mut socket).await;
        socket.say(&json!({ "type": "feature_flags", "data": flags })).await;
        socket.next_of("feature_flags").await;
        let mut prompt = example(2);
        prompt["3"]["inputs"]["seed"] = json!(kind);
        let id = server.queue(&json!({ "prompt": prompt, "client_id": "me" })).await;
        let bytes = loop {
            match socket.next().await.unwrap() {
                Heard::Binary(bytes) => break bytes,
                Heard::Json(_) => {}
            }
        };
        assert_eq!(bytes[..4], kind.to_be_bytes());
        let number = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let file = match kind {
            1 => {
                assert_eq!(number, 2, "a PNG");
                &bytes[8..]
            }
            _ => {
                let data: Value = serde_json::from_slice(&bytes[8..8 + number]).unwrap();
                assert_eq!((&data["node_id"], &data["prompt_id"]), (&json!("3"), &json!(id)));
                &bytes[8 + number..]
            }
        };
        // A pixel for each of the latent, which is an eighth of 64.
        assert_eq!(crate::server::png(file).1, [8, 8]);
        socket.until_end(&id).await;
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_sent_previews_where_its_prompt_asks_for_them() {
    let server = TestServer::start().await;
    // Without a decoder in `models/vae_approx`, `taesd` shows what the table does.
    for (method, comes) in [
        (Value::Null, false),
        (json!("auto"), true),
        (json!("taesd"), true),
        (json!("none"), false),
    ] {
        let mut socket = server.connect("clientId=me").await;
        let mut prompt = example(2);
        prompt["3"]["inputs"]["seed"] = json!(u8::from(comes));
        prompt["6"]["inputs"]["text"] = json!(method.to_string());
        let extra = json!({ "preview_method": method });
        let sent = json!({ "prompt": prompt, "client_id": "me", "extra_data": extra });
        server.queue(&sent).await;
        let (mut came, mut warned) = (false, false);
        loop {
            match socket.next().await.unwrap() {
                // A warning: the length of the node's id, the id, the text.
                Heard::Binary(bytes) if bytes[..4] == 3_u32.to_be_bytes() => {
                    assert_eq!(bytes[4..9], [0, 0, 0, 1, b'3']);
                    let text = std::str::from_utf8(&bytes[9..]).unwrap();
                    warned |= text.contains("`taesd_decoder`");
                }
                Heard::Binary(bytes) => came |= bytes[..4] == 1_u32.to_be_bytes(),
                Heard::Json(message) if message["type"] == "execution_success" => break,
                Heard::Json(_) => {}
            }
        }
        assert_eq!((came, warned), (comes, method == "taesd"), "{method}");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_again_hears_which_node_runs() {
    let server = TestServer::start().await;
    let mut socket = server.connect("clientId=me").await;
    let mut other = server.connect("clientId=other").await;
    let mut watcher = server.connect("clientId=third&watch=all").await;
    let mut sent = one("Wait", "x");
    sent["client_id"] = json!("me");
    let id = server.queue(&sent).await;
    socket.next_of("executing").await;
    assert_eq!(watcher.next_of("executing").await["prompt_id"], json!(id));
    let mut again = server.connect("clientId=me").await;
    // The older connection ends.
    while socket.next().await.is_some() {}
    let [_, status] = opened(&mut again).await;
    assert_eq!(status["data"]["status"]["exec_info"]["queue_remaining"], 1);
    let node = again.next_of("executing").await;
    assert_eq!(node, json!({ "node": "1", "display_node": "1", "prompt_id": id }));
    server.gate.open();
    again.until_end(&id).await;
    // Others hear how long the queue is, and nothing of the prompt.
    let mut heard = Vec::new();
    while heard.last() != Some(&json!(0)) || heard.len() < 2 {
        if let Some(Heard::Json(message)) = other.next().await {
            let kind = message["type"].as_str().unwrap();
            assert!(["feature_flags", "status"].contains(&kind), "{message}");
            if kind == "status" {
                heard.push(message["data"]["status"]["exec_info"]["queue_remaining"].clone());
            }
        }
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_to_those_that_ask_for_it() {
    let server = TestServer::start().await;
    let mut socket = server.connect("clientId=me").await;
    opened(&mut socket).await;
    let body = json!({ "clientId": "me", "enabled": true }).to_string();
    let request = server.request(reqwest::Method::PATCH, "/internal/logs/subscribe").body(body);
    assert_eq!(server.send(request).await.status, 200);
    server.state.logs.push("a line\n");
    let told = socket.next_of("logs").await;
    assert_eq!(told["entries"][0]["m"], "a line\n");
    let raw = server.get("/internal/logs/raw").await.json();
    assert_eq!(raw["entries"][0], told["entries"][0]);
    let text = server.get("/internal/logs").await.json();
    assert!(text.as_str().unwrap().ends_with(" - a line\n"), "{text}");
    server.end().await;
}
