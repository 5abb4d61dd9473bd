//! A server without a socket: requests go to its routes, and answers come back.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use distorch_allocation::Topology;
use distorch_checkpoint::folders::ModelFolders;
use distorch_queue::{Queue, QueueOptions};
use distorch_runtime::devices::{Hardware, survey};
use distorch_server::logs::LogBuffer;
use distorch_server::state::Parts;
use distorch_server::web::Web;
use distorch_server::{AppState, Config, routes};
use distorch_test_support::repository;
use distorch_workflow::{Environment, nodes};
use http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

/// A server in a folder of its own, with the shipped models.
pub struct App {
    /// Where `user/` and `output/` are, beside `models`, which is a list of the shipped ones.
    pub folder: TempDir,
    pub state: AppState,
    routes: Router,
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A server on the CPU and these simulated devices.
pub async fn app(simulated: &str) -> App {
    serving(simulated, |_| Web::Own).await
}

/// As [`app`], showing what `web` makes in the server's folder.
pub async fn serving(simulated: &str, web: impl FnOnce(&std::path::Path) -> Web) -> App {
    let folder = tempfile::tempdir().unwrap();
    let paths = folder.path().join("shipped.yaml");
    let shipped = repository().join("models");
    let shipped = serde_json::to_string(&shipped.join("checkpoints")).unwrap();
    std::fs::write(&paths, format!("shipped:\n  checkpoints: {shipped}\n")).unwrap();
    let hardware: Vec<Hardware> =
        survey().devices.into_iter().filter(|device| device.info.id.is_cpu()).collect();
    let real = hardware.iter().map(|device| device.info.clone()).collect();
    let topology = Topology::new(real).unwrap().simulate(simulated).unwrap();
    let declared = topology.devices().iter().filter(|info| info.simulated);
    let declared = declared.map(|info| Hardware { info: info.clone(), ..hardware[0].clone() });
    let hardware = declared.chain(hardware.iter().cloned()).collect();
    let folders = ModelFolders::new(folder.path(), &[paths]).unwrap();
    let address = format!("sqlite:{}", folder.path().join("queue.sqlite").display());
    let queue = Queue::open(&address, QueueOptions::default()).await.unwrap();
    let state = AppState::new(Parts {
        config: Config { web: web(folder.path()), ..Config::default() },
        environment: Arc::new(Environment::on(folders, topology)),
        hardware,
        registry: Arc::new(nodes::all()),
        queue,
        logs: LogBuffer::new(),
    });
    App { routes: routes::router(state.clone()), state, folder }
}

impl App {
    /// The answer to a request.
    pub async fn ask(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        self.ask_with(method, path, &[], body).await
    }

    /// As [`ask`](Self::ask), with headers.
    pub async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header("host", "127.0.0.1:8188");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// The answer to a GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    /// The answer to a POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, body.to_string()).await
    }

    /// A path in the server's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in the server's folder.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
