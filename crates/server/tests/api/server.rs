//! A server on a port of its own, and a client of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use distorch_allocation::Topology;
use distorch_checkpoint::folders::ModelFolders;
use distorch_queue::{Queue, QueueOptions};
use distorch_runtime::devices;
use distorch_server::logs::LogBuffer;
use distorch_server::{AppState, Config, Server, state};
use distorch_test_support::repository;
use distorch_workflow::signature::{Input, Node, Output};
use distorch_workflow::value::{Type, Value as NodeValue};
use distorch_workflow::{Environment, NodeError, Registry, nodes};
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

/// A node that waits until the test says so, or its prompt is stopped.
const WAIT: Node = Node {
    class: "Wait",
    title: "Wait",
    category: "test",
    about: "Waits.",
    inputs: &[Input::string("text", "")],
    outputs: &[Output::new(Type::String)],
    is_output: true,
    ..Node::EMPTY
};

/// A node that fails.
const FAIL: Node = Node {
    class: "Fail",
    title: "Fail",
    category: "test",
    about: "Fails.",
    inputs: &[Input::string("text", "")],
    outputs: &[],
    is_output: true,
    run: |_, inputs| Err(NodeError::failed(format!("no: {}", inputs.text("text")?))),
    ..Node::EMPTY
};

/// A node that shows a text.
const SHOW: Node = Node {
    class: "Show",
    title: "Show",
    category: "test",
    about: "Shows a text.",
    inputs: &[Input::string("text", "")],
    outputs: &[],
    is_output: true,
    run: |context, inputs| {
        context.show("text", vec![json!(inputs.text("text")?)]);
        Ok(Vec::new())
    },
    ..Node::EMPTY
};

/// What holds the nodes that wait.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets them go on, now and later.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self, stopped: impl Fn() -> bool) {
        let mut open = self.0.0.lock().unwrap();
        while !*open && !stopped() {
            let look = std::time::Duration::from_millis(5);
            open = self.0.1.wait_timeout(open, look).unwrap().0;
        }
    }
}

/// Opens a gate once it is dropped, with a test that fails too: what waits there would keep its thread, its turn to
/// compute, and the runtime that ends with the test.
pub struct OpensAtEnd(pub Gate);

impl Drop for OpensAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A server, its folders, and a client.
pub struct TestServer {
    pub folder: Arc<TempDir>,
    pub state: AppState,
    pub url: String,
    pub gate: Gate,
    pub client: reqwest::Client,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _opens: OpensAtEnd,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The state of a server on these folders.
pub async fn state(folder: &Path, gate: &Gate, config: Config) -> AppState {
    let address = format!("sqlite:{}", folder.join("queue.sqlite").display());
    state_on(&address, folder, gate, config).await
}

/// The same, with the queue at an address.
pub async fn state_on(address: &str, folder: &Path, gate: &Gate, config: Config) -> AppState {
    state_with(address, "", folder, gate, config).await
}

/// The same, with simulated devices beside the CPU.
pub async fn state_with(
    address: &str,
    simulated: &str,
    folder: &Path,
    gate: &Gate,
    config: Config,
) -> AppState {
    let real = devices::survey().devices.into_iter().filter(|device| device.info.id.is_cpu());
    let hardware: Vec<_> = real.collect();
    let topology = Topology::new(hardware.iter().map(|device| device.info.clone()).collect());
    let topology = match simulated {
        "" => topology.unwrap(),
        devices => topology.unwrap().simulate(devices).unwrap(),
    };
    let folders = ModelFolders::new(&repository(), &[]).unwrap();
    let mut environment = Environment::on(folders, topology);
    environment.input_dir = folder.join("input");
    environment.output_dir = folder.join("output");
    environment.temp_dir = folder.join("temp");
    for dir in [&environment.input_dir, &environment.output_dir, &environment.temp_dir] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let options =
        QueueOptions { max_pending: config.limits.queue_length as u64, ..QueueOptions::default() };
    let queue = Queue::open(address, options).await.unwrap();
    let parts = state::Parts {
        config,
        environment: Arc::new(environment),
        hardware,
        registry: Arc::new(registry(gate)),
        queue,
        logs: LogBuffer::new(),
    };
    AppState::new(parts)
}

fn registry(gate: &Gate) -> Registry {
    let gate = gate.clone();
    nodes::all().with(FAIL).with(SHOW).with_work(WAIT, move |context, inputs| {
        gate.wait(|| context.run().cancelled());
        context.run().check()?;
        Ok(vec![NodeValue::String(inputs.text("text")?.into())])
    })
}

impl TestServer {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), change).await
    }

    /// A server on folders that another had before.
    pub async fn on(folder: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Self {
        // Only the first counts.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut config = Config { port: 0, ..Config::default() };
        change(&mut config);
        let gate = Gate::default();
        let state = state(folder.path(), &gate, config).await;
        Self::of(folder, state, gate).await
    }

    /// A server with a state.
    pub async fn of(folder: Arc<TempDir>, state: AppState, gate: Gate) -> Self {
        let server = Server::bind(state.clone()).await.unwrap();
        let url = server.url();
        let (end, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            server.run(async move { drop(ended.await) }).await.unwrap();
        });
        // Each request has a connection: one that is kept may be closed at the other end as it is used again.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        let client = client.build().unwrap();
        let opens = OpensAtEnd(gate.clone());
        Self { folder, state, url, gate, client, end, task, _opens: opens }
    }

    /// Ends the server as a signal does, and returns its folders.
    pub async fn end(self) -> Arc<TempDir> {
        drop(self.end);
        self.task.await.unwrap();
        self.folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        Answer { status, headers, bytes: answer.bytes().await.unwrap().to_vec() }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).body(body.to_string())).await
    }

    /// Queues a prompt, and returns its id.
    pub async fn queue(&self, sent: &Value) -> String {
        let answer = self.post("/prompt", sent).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["prompt_id"].as_str().unwrap().to_owned()
    }

    pub async fn connect(&self, query: &str) -> Socket {
        let url = format!("{}/ws?{query}", self.url.replace("http", "ws"));
        Socket::of(tokio_tungstenite::connect_async(url).await.unwrap().0)
    }

    /// Runs a prompt to its end, and returns its id and the messages of its client.
    pub async fn run(&self, mut sent: Value) -> (String, Vec<Value>) {
        let client = uuid::Uuid::new_v4().to_string();
        let mut socket = self.connect(&format!("clientId={client}")).await;
        sent["client_id"] = json!(client);
        let id = self.queue(&sent).await;
        let messages = socket.until_end(&id).await;
        (id, messages)
    }
}

type Stream =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A WebSocket. It is read all the time: the server asks whether clients are there, however long a test does other things.
pub struct Socket {
    to: SplitSink<Stream, Message>,
    heard: UnboundedReceiver<Heard>,
    reader: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A message.
#[derive(Debug)]
pub enum Heard {
    Json(Value),
    Binary(Vec<u8>),
}

impl Socket {
    fn of(stream: Stream) -> Self {
        let (to, mut from) = stream.split();
        let (tell, heard) = mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            while let Some(Ok(message)) = from.next().await {
                let heard = match message {
                    Message::Text(text) => Heard::Json(serde_json::from_str(&text).unwrap()),
                    Message::Binary(bytes) => Heard::Binary(bytes.to_vec()),
                    Message::Close(_) => return,
                    _ => continue,
                };
                if tell.send(heard).is_err() {
                    return;
                }
            }
        });
        Self { to, heard, reader }
    }

    pub async fn say(&mut self, said: &Value) {
        self.to.send(Message::Text(said.to_string().into())).await.unwrap();
    }

    /// The next message; `None` where the server closed.
    pub async fn next(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }

    /// The data of the next message of a type.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            match self.next().await.expect("the server closed") {
                Heard::Json(mut message) if message["type"] == kind => {
                    return message["data"].take();
                }
                _ => {}
            }
        }
    }

    /// Waits until a node of a prompt runs.
    pub async fn until_runs(&mut self, prompt: &str, node: &str) {
        loop {
            // The end of an earlier prompt has no node.
            let told = self.next_of("executing").await;
            if told["prompt_id"] == prompt && told["node"] == node {
                return;
            }
        }
    }

    /// All JSON messages up to the end of a prompt.
    pub async fn until_end(&mut self, prompt: &str) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            if let Heard::Json(message) = self.next().await.expect("the server closed") {
                let data = &message["data"];
                let ends = message["type"] == "executing"
                    && data["node"].is_null()
                    && data["prompt_id"] == prompt;
                all.push(message);
                if ends {
                    return all;
                }
            }
        }
    }
}

/// The shipped example as small as it goes.
pub fn example(steps: u32) -> Value {
    let path = repository().join("examples/txt2img_distorch2.json");
    let mut prompt: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    prompt["3"]["inputs"]["steps"] = json!(steps);
    prompt["5"]["inputs"]["width"] = json!(64);
    prompt["5"]["inputs"]["height"] = json!(64);
    prompt
}

/// A prompt of one node.
pub fn one(class: &str, text: &str) -> Value {
    json!({ "prompt": { "1": { "class_type": class, "inputs": { "text": text } } } })
}

/// The pixels of a PNG file, and its texts.
pub fn png(file: &[u8]) -> (Vec<u8>, [u32; 2], Vec<(String, String)>) {
    let decoder = png::Decoder::new(std::io::Cursor::new(file));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter();
    let texts = latin.map(|text| (text.keyword.clone(), text.text.clone())).collect();
    (pixels, [frame.width, frame.height], texts)
}
