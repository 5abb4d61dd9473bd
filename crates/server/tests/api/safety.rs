//! Who may come in, and how many.

use std::net::{IpAddr, Ipv4Addr};

use distorch_server::config::{Access, Config, Tls};
use distorch_server::serve::{ServeError, check_access};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{TestServer, one};

const TOKEN: &str = "0123456789abcdef";

#[test]
fn an_open_address_needs_a_token_or_a_word() {
    let config = |listen: [u8; 4], access: Access| Config {
        listen: IpAddr::V4(Ipv4Addr::from(listen)),
        access,
        ..Config::default()
    };
    assert!(check_access(&config([127, 0, 0, 1], Access::Loopback)).is_ok());
    let open = check_access(&config([0, 0, 0, 0], Access::Loopback));
    assert!(matches!(open, Err(ServeError::Open(_))));
    assert!(check_access(&config([0, 0, 0, 0], Access::Insecure)).is_ok());
    assert!(check_access(&config([0, 0, 0, 0], Access::Token(TOKEN.into()))).is_ok());
    let short = check_access(&config([0, 0, 0, 0], Access::Token("short".into())));
    assert!(matches!(short, Err(ServeError::ShortToken(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_may_not_use_the_server() {
    let server = TestServer::start().await;
    let own = server.url.clone();
    let port = own.rsplit(':').next().unwrap();
    let ask = |method: Method, headers: Vec<(&'static str, String)>| {
        let server = &server;
        async move {
            let body = one("Show", "x").to_string();
            let mut request = server.request(method.clone(), "/prompt");
            if method == Method::POST {
                request = request.body(body);
            }
            for (name, value) in headers {
                request = request.header(name, value);
            }
            server.send(request).await.status.as_u16()
        }
    };
    let local = format!("localhost:{port}");
    for (headers, status) in [
        (vec![("origin", own.clone())], 200),
        (vec![("host", local.clone()), ("origin", format!("http://{local}"))], 200),
        (vec![("host", "evil.example".to_owned())], 403),
        (vec![("host", format!("evil.example:{port}"))], 403),
        (vec![("host", "a b".to_owned())], 400),
        (vec![("origin", "http://evil.example".to_owned())], 403),
        (vec![("origin", "null".to_owned())], 403),
        (vec![("origin", format!("http://{local}"))], 403),
        (vec![("origin", "http://127.0.0.1:1".to_owned())], 403),
        (vec![("sec-fetch-site", "cross-site".to_owned())], 403),
        (vec![("sec-fetch-site", "same-site".to_owned())], 403),
        (vec![("sec-fetch-site", "same-origin".to_owned())], 200),
        (vec![("sec-fetch-site", "none".to_owned())], 200),
    ] {
        for method in [Method::GET, Method::POST] {
            let answered = ask(method.clone(), headers.clone()).await;
            assert_eq!(answered, status, "{method} {headers:?}");
        }
    }
    let link = vec![
        ("sec-fetch-site", "cross-site".to_owned()),
        ("sec-fetch-mode", "navigate".to_owned()),
    ];
    assert_eq!(ask(Method::GET, link.clone()).await, 200, "a link may lead here");
    assert_eq!(ask(Method::POST, link).await, 403, "a form may not");
    // A page may open a WebSocket anywhere, which nothing but the server hinders.
    let url = format!("{}/ws", own.replace("http", "ws"));
    let mut request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(url)
            .unwrap();
    request.headers_mut().insert("origin", "http://evil.example".parse().unwrap());
    let refused = tokio_tungstenite::connect_async(request).await.unwrap_err().to_string();
    assert!(refused.contains("403"), "{refused}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_carried_on_in_a_cookie() {
    let server = TestServer::with(|config| config.access = Access::Token(TOKEN.into())).await;
    assert_eq!(server.get("/healthz").await.status, 200);
    for path in [
        "/prompt",
        "/api/prompt",
        "/metrics",
        "/openapi.json",
        "/nothing",
        "/healthz/x",
        "/prompt?token=wrong",
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let bearer = |token: &str| {
        server.request(Method::GET, "/prompt").header("authorization", format!("Bearer {token}"))
    };
    assert_eq!(server.send(bearer(TOKEN)).await.status, 200);
    assert_eq!(server.send(bearer("0123456789abcdee")).await.status, 401);
    let opened = server.get(&format!("/prompt?token={TOKEN}")).await;
    assert_eq!(opened.status, 200);
    let cookie = opened.header("set-cookie").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let request = server.request(Method::GET, "/prompt").header("cookie", pair);
    assert_eq!(server.send(request).await.status, 200);
    let url = format!("{}/ws", server.url.replace("http", "ws"));
    assert!(tokio_tungstenite::connect_async(&url).await.is_err());
    let mut socket = server.connect(&format!("clientId=a&token={TOKEN}")).await;
    socket.next_of("status").await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_clients_and_connections_are_limited() {
    let server = TestServer::with(|config| {
        config.limits.queue_length = 1;
        config.limits.clients = 1;
        // Some may not be closed yet whose requests have ended.
        config.limits.connections = 8;
    })
    .await;
    let mut socket = server.connect("clientId=me").await;
    let mut sent = one("Wait", "x");
    sent["client_id"] = json!("me");
    let running = server.queue(&sent).await;
    socket.next_of("executing").await;
    server.queue(&sent).await;
    let full = server.post("/prompt", &sent).await;
    assert_eq!((full.status.as_u16(), &full.json()["error"]["type"]), (503, &json!("queue_full")));
    let url = format!("{}/ws?clientId=other", server.url.replace("http", "ws"));
    let refused = tokio_tungstenite::connect_async(&url).await.unwrap_err().to_string();
    assert!(refused.contains("503"), "{refused}");
    // Connections that say nothing: those beyond the limit are closed at once.
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut open = Vec::new();
    let mut closed = 0;
    for _ in 0..12 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let mut answer = [0; 1];
        let sent = stream.write_all(request.as_bytes()).await.is_ok();
        match sent && matches!(stream.read(&mut answer).await, Ok(1)) {
            true => open.push(stream),
            false => closed += 1,
        }
    }
    // One that has become a WebSocket counts among the clients.
    assert!(closed >= 4, "{} open, {closed} closed", open.len());
    drop(open);
    server.state.queue.clear_pending().await.unwrap();
    server.state.queue.cancel(running.parse().unwrap()).await.unwrap();
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_served_with_a_certificate() {
    let file = |name: &str| {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/tls").join(name)
    };
    let server = TestServer::with(|config| {
        config.tls = Some(Tls { certificate: file("cert.pem"), key: file("key.pem") });
    })
    .await;
    assert!(server.url.starts_with("https://"));
    let trusted =
        reqwest::Certificate::from_pem(&std::fs::read(file("cert.pem")).unwrap()).unwrap();
    let client =
        reqwest::Client::builder().no_proxy().add_root_certificate(trusted).build().unwrap();
    let answer = server.send(client.get(format!("{}/healthz", server.url))).await;
    assert_eq!(answer.json(), json!({ "status": "ok" }));
    // One that does not know the certificate does not talk.
    assert!(server.client.get(format!("{}/healthz", server.url)).send().await.is_err());
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_and_the_description_of_routes_are_there() {
    let server = TestServer::start().await;
    server.run(one("Show", "x")).await;
    let figures = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    for name in [
        "distorch_queue_remaining",
        "distorch_clients",
        "distorch_prompts_total",
        "distorch_device_bytes{device=\"cpu\"",
    ] {
        assert!(figures.contains(name), "{name}: {figures}");
    }
    let file = server.get("/openapi.json").await.json();
    let paths = file["paths"].as_object().unwrap();
    for path in [
        "/prompt",
        "/queue",
        "/history/{prompt_id}",
        "/jobs/{job_id}/cancel",
        "/view",
        "/upload/image",
        "/v1/images/generations",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    server.end().await;
}
