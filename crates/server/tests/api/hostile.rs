//! Requests that nobody should send. None may fail the server: each is answered, and none with 500.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use axum::body::Body;
use distorch_server::{Config, routes};
use distorch_test_support::seeded;
use futures::FutureExt;
use http::Request;
use tower::ServiceExt;

use crate::server::{Gate, TestServer, one, state};

/// How many requests are sent.
const REQUESTS: usize = 10_000;

/// Numbers that follow from a name.
struct Dice(u64);

impl Dice {
    /// Knuth's MMIX generator, its upper bits.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.roll(list.len())]
    }
}

const PATHS: &[&str] = &[
    "/prompt",
    "/api/prompt",
    "/queue",
    "/history",
    "/history/x",
    "/interrupt",
    "/free",
    "/api/jobs",
    "/api/jobs/x",
    "/api/jobs/x/cancel",
    "/api/jobs/cancel",
    "/view",
    "/upload/image",
    "/upload/mask",
    "/object_info",
    "/object_info/x",
    "/system_stats",
    "/models/x",
    "/experiment/models/checkpoints",
    "/embeddings",
    "/features",
    "/internal/logs/subscribe",
    "/internal/files/x",
    "/internal/folder_paths",
    "/view_metadata/checkpoints",
    "/v1/images/generations",
    "/ws",
    "/metrics",
    "/openapi.json",
    "/..%2f..%2fetc",
    "//",
    "/api/api/prompt",
    "/%00",
    "/prompt/",
    "/history/%ff%fe",
    "/models/..%2f..",
];
const METHODS: &[&str] =
    &["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"];
const QUERIES: &[&str] = &[
    "",
    "filename=..%2F..%2Fetc%2Fpasswd",
    "filename=%00",
    "filename=a&subfolder=%2e%2e%2f",
    "max_items=-1",
    "max_items=99999999999999999999",
    "offset=-5",
    "limit=0",
    "clientId=%ff",
    "token=x",
    "%%%",
    "a=b&a=b&a",
    "filename=a.png&type=..",
    "preview=webp;-1&filename=a.png",
    "status=,,,",
    "limit=1e9",
    "channel=%F0%9F%92%A9",
    "filename=C:%5C&type=input",
    "sort_by[]=x",
    "max_items=1&max_items=2",
];
const BODIES: &[&str] = &[
    "",
    "{",
    "null",
    "[]",
    "0",
    "\"x\"",
    "{\"prompt\":{}}",
    "{\"prompt\":null}",
    "{\"prompt\":[[[[[[[[]]]]]]]]}",
    "{\"prompt\":{\"1\":{\"class_type\":\"KSampler\",\"inputs\":{\"model\":[\"1\",0]}}}}",
    "{\"prompt\":{\"1\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"1\",99999999999999999999]}}}}",
    "{\"prompt\":{\"1\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"2\",-1]}}}}",
    "{\"prompt\":{\"1\":{\"class_type\":[],\"inputs\":[]}}}",
    "{\"prompt\":{\"\":{\"class_type\":\"\",\"inputs\":{\"\":\"\"}}}}",
    "{\"prompt\":{\"1\":{\"class_type\":\"EmptyLatentImage\",\"inputs\":{\"width\":1e308,\"height\":-1,\"batch_size\":1e99}}}}",
    "{\"prompt\":{\"1\":{\"class_type\":\"LoadImage\",\"inputs\":{\"image\":\"../../etc/passwd\"}},\"2\":{\"class_type\":\"PreviewImage\",\"inputs\":{\"images\":[\"1\",0]}}}}",
    "{\"delete\":[null,{},[],\"x\",1e400]}",
    "{\"delete\":\"x\"}",
    "{\"clear\":\"yes\"}",
    "{\"job_ids\":[{}]}",
    "{\"prompt_id\":{}}",
    "{\"unload_models\":[]}",
    "{\"clientId\":5}",
    "{\"model\":\"../x\",\"prompt\":\"y\"}",
    "{\"model\":\"tiny-shapes.safetensors\",\"prompt\":\"y\",\"size\":\"99999999x99999999\",\"n\":4294967296}",
    "{\"number\":\"NaN\",\"prompt\":{}}",
    "{\"a\":\"\\ud800\"}",
    "\u{feff}{}",
    "{\"prompt\":{\"1\":NaN}}",
    "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"../a\"\r\n\r\nx\r\n--x--\r\n",
    "--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nx",
    "--x\r\n\r\n\r\n--x--",
    "--x",
];
const HEADERS: &[(&str, &str)] = &[
    ("content-type", "application/json"),
    ("content-type", "multipart/form-data; boundary=x"),
    ("content-type", "multipart/form-data"),
    ("content-type", "\u{1}"),
    ("content-length", "5"),
    ("transfer-encoding", "chunked"),
    ("range", "bytes=9999999999999999999-"),
    ("range", "bytes=-"),
    ("accept-encoding", "gzip;q=-1"),
    ("origin", "http://evil.example"),
    ("host", "evil.example"),
    ("host", "127.0.0.1"),
    ("authorization", "Bearer "),
    ("cookie", "distorch_token=;=;"),
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "x"),
    ("if-modified-since", "x"),
    ("expect", "100-continue"),
];

/// What kind of answer a status is.
fn kind(status: u16) -> &'static str {
    match status {
        200..=299 => "done",
        300..=399 => "elsewhere",
        400 => "not as expected",
        401 | 403 => "not allowed",
        404 => "not there",
        405 => "not with this method",
        413 => "too large",
        503 => "too much",
        status if status < 500 => "other faults of the client",
        _ => "faults of the server",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_requests_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let app = routes::router(state(folder.path(), &gate, Config::default()).await);
    let mut dice = Dice(seeded::fnv1a64(b"hostile requests"));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..REQUESTS {
        let (path, query) = (dice.of(PATHS), dice.of(QUERIES));
        let mut body = dice.of(BODIES).as_bytes().to_vec();
        // Some are cut, some have a byte changed, some are nested deeply.
        match dice.roll(8) {
            0 => body.truncate(dice.roll(body.len() + 1)),
            1 if !body.is_empty() => {
                let place = dice.roll(body.len());
                body[place] = dice.roll(256) as u8;
            }
            2 => body = [vec![b'['; 1 + dice.roll(5000)], body].concat(),
            _ => {}
        }
        let mut request =
            Request::builder().method(dice.of(METHODS)).uri(format!("{path}?{query}"));
        let mut has_host = false;
        for _ in 0..dice.roll(4) {
            let (name, value) = HEADERS[dice.roll(HEADERS.len())];
            has_host |= name == "host";
            if let Ok(value) = http::HeaderValue::from_str(value) {
                request = request.header(name, value);
            }
        }
        if !has_host {
            request = request.header("host", "localhost:8188");
        }
        let Ok(request) = request.body(Body::from(body.clone())) else { continue };
        let told = format!("{number}: {request:?} {}", String::from_utf8_lossy(&body));
        let answer = AssertUnwindSafe(app.clone().oneshot(request)).catch_unwind().await;
        let status =
            answer.unwrap_or_else(|_| panic!("a panic at {told}")).unwrap().status().as_u16();
        assert!(status < 500 || status == 503, "{status} at {told}");
        *kinds.entry(kind(status)).or_default() += 1;
    }
    println!("{kinds:?}");
    // All kinds of answers were met, so these requests reach what they are meant for.
    for kind in ["done", "not as expected", "not allowed", "not there", "not with this method"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 100), "{kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_requests_do_no_harm() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = TestServer::start().await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut dice = Dice(seeded::fnv1a64(b"hostile bytes"));
    for _ in 0..200 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut bytes: Vec<u8> = (0..dice.roll(400)).map(|_| dice.roll(256) as u8).collect();
        if dice.roll(2) == 0 {
            bytes = [b"GET /ws HTTP/1.1\r\nHost: localhost\r\n".to_vec(), bytes].concat();
        }
        // It may close before all is there.
        if stream.write_all(&bytes).await.is_ok() && stream.shutdown().await.is_ok() {
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);
            assert!(!answer.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&answer));
        }
    }
    let (id, _) = server.run(one("Show", "still there")).await;
    assert_eq!(
        server.get(&format!("/history/{id}")).await.json()[&id]["outputs"]["1"]["text"][0],
        "still there"
    );
    server.end().await;
}
