//! Servers and workers that are killed: what they were asked for is made, once, and their clients hear of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{postgres, root};

/// A process of the program, which is killed with the test.
struct Process {
    child: Child,
    /// The lines of its log.
    lines: Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin("distorch"))
            .args(args)
            .arg("--base-dir")
            .arg(root())
            .args(["--output-dir", "output", "--input-dir", "input", "--log-format", "json"])
            .current_dir(folder)
            .env_remove("COMFYUI_PATH")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines() {
                let Ok(line) = line else { return };
                // Nobody may listen any more.
                drop(tell.send(line));
            }
        });
        Self { child, lines }
    }

    /// Waits until the log says something, and returns that line's message and the prompt that it is about.
    fn says(&self, what: &str) -> (String, String) {
        let mut before = Vec::new();
        for line in &self.lines {
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            let field = |name: &str| entry["fields"][name].as_str().unwrap_or_default().to_owned();
            let message = field("message");
            if message.contains(what) {
                return (message, field("prompt"));
            }
            before.push(line);
        }
        panic!("it ended before it said {what:?}: {before:#?}");
    }

    /// The address that a server listens on.
    fn url(&self) -> String {
        self.says("listening on").0.split_whitespace().last().unwrap().to_owned()
    }

    /// Ends it without a warning: signal 9.
    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client that hears what happens to its prompts.
struct Client {
    url: String,
    id: String,
    http: reqwest::Client,
    socket: Socket,
}

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

impl Client {
    async fn connect(http: &reqwest::Client, url: &str, id: &str) -> Self {
        let address = format!("{}/ws?clientId={id}", url.replace("http", "ws"));
        let (socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
        Self { url: url.to_owned(), id: id.to_owned(), http: http.clone(), socket }
    }

    async fn queue(&self, prompt: &Value) -> String {
        let body = json!({ "prompt": prompt, "client_id": self.id }).to_string();
        let answer = self.http.post(format!("{}/prompt", self.url)).body(body).send().await;
        let answer: Value =
            serde_json::from_slice(&answer.unwrap().bytes().await.unwrap()).unwrap();
        answer["prompt_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The next message; `None` where the server is gone.
    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await?.ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).unwrap()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// The messages up to one of this type.
    async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.next().await.expect("the server is gone"));
            if heard.last().unwrap()["type"] == kind {
                return heard;
            }
        }
    }
}

fn http() -> reqwest::Client {
    // Only the first counts.
    drop(rustls::crypto::ring::default_provider().install_default());
    // Each request has a connection: one that is kept may be closed at the other end as it is used again.
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
}

async fn get(http: &reqwest::Client, url: &str) -> Vec<u8> {
    let answer = http.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{url}");
    answer.bytes().await.unwrap().to_vec()
}

fn pixels(file: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

/// The shipped example in small, with enough steps to be in the middle of them.
fn example() -> Value {
    let text = std::fs::read_to_string(root().join("examples/txt2img_distorch2.json")).unwrap();
    let mut prompt: Value = serde_json::from_str(&text).unwrap();
    prompt["3"]["inputs"]["steps"] = json!(60);
    prompt["5"]["inputs"]["width"] = json!(64);
    prompt["5"]["inputs"]["height"] = json!(64);
    prompt
}

/// The picture that `distorch run` makes of a prompt.
fn run_alone(prompt: &Value) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prompt.json"), prompt.to_string()).unwrap();
    let output = Command::new(assert_cmd::cargo::cargo_bin("distorch"))
        .args(["run", "prompt.json", "--output-dir", "output", "--base-dir"])
        .arg(root())
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::read(folder.path().join("output/txt2img_00001_.png")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_worker_makes_what_a_killed_one_was_at() {
    let Some(database) = postgres::shared() else { return };
    let address = database.database("killed");
    let folder = tempfile::tempdir().unwrap();
    let (path, http) = (folder.path(), http());
    let queue = ["--queue", &address, "--lease", "4"];
    let front = [&["serve", "--no-worker", "--port", "0"], &queue[..]].concat();
    let front = Process::start(path, &front);
    let url = front.url();
    let worker = |name| {
        let args = [&["worker", "--worker-name", name], &queue[..]].concat();
        let worker = Process::start(path, &args);
        worker.says("working as");
        worker
    };
    let mut first = worker("first");
    let mut client = Client::connect(&http, &url, "client").await;
    let id = client.queue(&example()).await;
    let started = client.until("progress").await;
    assert!(started.iter().any(|heard| heard["type"] == "execution_start"), "{started:?}");
    first.kill();
    let second = worker("second");
    second.says("prompt begins");
    let heard = client.until("execution_success").await;
    // All steps of the second attempt, from the first on.
    let again = heard.iter().rposition(|heard| heard["type"] == "execution_start").unwrap();
    let steps = heard[again..].iter().filter(|heard| heard["type"] == "progress");
    let steps: Vec<_> = steps.map(|heard| heard["data"]["value"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=60).collect::<Vec<_>>());
    let ended = client.until("executing").await;
    assert!(ended.last().unwrap()["data"]["node"].is_null(), "{ended:?}");
    let history: Value =
        serde_json::from_slice(&get(&http, &format!("{url}/history")).await).unwrap();
    assert_eq!(history.as_object().unwrap().len(), 1);
    let entry = &history[&id];
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let name = entry["outputs"]["9"]["images"][0]["filename"].as_str().unwrap();
    let served = get(&http, &format!("{url}/view?filename={name}")).await;
    assert!(pixels(&served) == pixels(&run_alone(&example())));
}

/// A picture of one colour, which needs no model.
fn colour(colour: usize) -> Value {
    json!({
        "1": { "class_type": "EmptyImage",
               "inputs": { "width": 8, "height": 8, "batch_size": 1, "color": colour } },
        "2": { "class_type": "SaveImage", "inputs": { "images": ["1", 0], "filename_prefix": "c" } },
    })
}

/// What a client is told of the prompts that end, up to so many.
async fn told_of(mut client: Client, count: usize) -> (Client, Vec<String>) {
    let mut told = Vec::new();
    while told.len() < count {
        let heard = client.next().await.expect("the server is gone");
        if heard["type"] == "execution_success" {
            told.push(heard["data"]["prompt_id"].as_str().unwrap().to_owned());
        }
    }
    (client, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_no_prompt_of_its_clients() {
    const CLIENTS: usize = 50;
    const EACH: usize = 2;
    let folder = tempfile::tempdir().unwrap();
    let (path, http) = (folder.path(), http());
    let serve = || {
        let args = ["serve", "--port", "0", "--queue", "sqlite:queue.sqlite"];
        let server = Process::start(path, &args);
        let url = server.url();
        (server, url)
    };
    let (mut server, url) = serve();
    let names: Vec<String> = (0..CLIENTS).map(|client| format!("client-{client}")).collect();
    let clients = join_all(names.iter().map(|name| Client::connect(&http, &url, name))).await;
    // The colour of each prompt.
    let mut wanted = BTreeMap::new();
    let queue_all = async |client: &Client, first: usize| {
        let colours = (first..).take(EACH);
        let queued = colours.map(async |number| (client.queue(&colour(number)).await, number));
        join_all(queued).await
    };
    let numbered = || clients.iter().zip((0..).step_by(EACH));
    let queued = join_all(numbered().map(|(client, first)| queue_all(client, first))).await;
    wanted.extend(queued.iter().flatten().cloned());
    assert_eq!(wanted.len(), CLIENTS * EACH);
    // Each hears of its own, of each once.
    let told = join_all(clients.into_iter().map(|client| told_of(client, EACH))).await;
    let (clients, told): (Vec<Client>, Vec<Vec<String>>) = told.into_iter().unzip();
    for (mut told, queued) in told.into_iter().zip(queued) {
        let mut own: Vec<String> = queued.into_iter().map(|(id, _)| id).collect();
        told.sort();
        own.sort();
        assert_eq!(told, own);
    }
    // As many again; the server is killed in the middle of one that takes longer.
    let mut long = None;
    for (client, first) in clients.iter().zip((CLIENTS * EACH..).step_by(EACH)) {
        wanted.extend(queue_all(client, first).await);
        if first == CLIENTS * EACH + 20 {
            long = Some(client.queue(&example()).await);
        }
    }
    let long = long.unwrap();
    while server.says("prompt begins").1 != long {}
    server.kill();
    for mut client in clients {
        while client.next().await.is_some() {}
    }
    let (_server, url) = serve();
    let mut watcher = Client::connect(&http, &url, "watcher").await;
    let remaining =
        |heard: &Value| heard["data"]["status"]["exec_info"]["queue_remaining"].as_u64();
    while remaining(watcher.until("status").await.last().unwrap()) != Some(0) {}
    let history: Value =
        serde_json::from_slice(&get(&http, &format!("{url}/history")).await).unwrap();
    let history = history.as_object().unwrap();
    assert_eq!(history.len(), 2 * CLIENTS * EACH + 1);
    let pictures = |id: &str, node: &str| {
        let entry = &history[id];
        assert_eq!(entry["status"]["status_str"], "success", "{entry}");
        let images = entry["outputs"][node]["images"].as_array().unwrap();
        assert_eq!(images.len(), 1, "{entry}");
        let name = images[0]["filename"].as_str().unwrap();
        pixels(&std::fs::read(path.join("output").join(name)).unwrap())
    };
    assert!(pictures(&long, "9") == pixels(&run_alone(&example())));
    for (id, colour) in &wanted {
        let expected = [16, 8, 0].map(|shift| (colour >> shift) as u8);
        assert_eq!(pictures(id, "2")[..3], expected, "{colour}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_file_as_if_they_were_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, http) = (folder.path(), http());
    let queue = ["--queue", "sqlite:queue.sqlite"];
    let front = [&["serve", "--no-worker", "--port", "0"], &queue[..]].concat();
    let front = Process::start(path, &front);
    let url = front.url();
    let worker = Process::start(path, &[&["worker"], &queue[..]].concat());
    worker.says("working as");
    let mut client = Client::connect(&http, &url, "client").await;
    let id = client.queue(&example()).await;
    let heard = client.until("execution_success").await;
    let steps = heard.iter().filter(|heard| heard["type"] == "progress");
    let steps: Vec<_> = steps.map(|heard| heard["data"]["value"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=60).collect::<Vec<_>>());
    let history: Value =
        serde_json::from_slice(&get(&http, &format!("{url}/history")).await).unwrap();
    let name = history[&id]["outputs"]["9"]["images"][0]["filename"].as_str().unwrap();
    let served = get(&http, &format!("{url}/view?filename={name}")).await;
    assert!(pixels(&served) == pixels(&run_alone(&example())));

    // A client of OpenAI's API has its picture from the worker too: the one that a server by itself makes.
    let asked = json!({
        "model": "tiny-shapes.safetensors", "prompt": "a red circle", "size": "64x64", "steps": 2, "seed": 7,
    });
    let made = async |url: &str| {
        let asked = http.post(format!("{url}/v1/images/generations")).body(asked.to_string());
        let made = asked.send().await.unwrap().bytes().await.unwrap();
        let made: Value = serde_json::from_slice(&made).unwrap();
        let link = made["data"][0]["url"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        pixels(&get(&http, &link).await)
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let alone = Process::start(
        elsewhere.path(),
        &["serve", "--port", "0", "--queue", "sqlite:queue.sqlite"],
    );
    assert!(made(&url).await == made(&alone.url()).await);
}
