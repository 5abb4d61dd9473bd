//! Servers and workers that are killed: what they were asked for is made, once, and their clients hear of it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use futures::StreamExt;
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
    reqwest::Client::builder().no_proxy().build().unwrap()
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
    first.says("prompt begins");
    let second = worker("second");
    let started = client.until("progress").await;
    assert!(started.iter().any(|heard| heard["type"] == "execution_start"), "{started:?}");
    first.kill();
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
