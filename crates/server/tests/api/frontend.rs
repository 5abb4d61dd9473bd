//! The official frontend's files, and what it asks beyond running prompts. A few made-up files stand for it.

use std::fs;

use distorch_server::web::{Frontend, Web};
use http::StatusCode;
use serde_json::json;

use crate::app::{App, app, serving};

/// A server that shows a frontend with its packages beside it.
async fn official() -> App {
    serving("", |folder| {
        let site = folder.join("site");
        for (name, text) in [
            ("comfyui_frontend_package/static/index.html", "<p>the frontend"),
            ("comfyui_frontend_package/static/assets/index-1a2b.js", "let a"),
            ("comfyui_frontend_package/static/extensions/core/shim.js", ""),
            ("comfyui_frontend_package/static/extensions/pack/js/more.js", ""),
            ("comfyui_frontend_package/static/extensions/pack/readme.md", ""),
            ("comfyui_workflow_templates_json/templates/index.json", "[1]"),
            ("comfyui_workflow_templates_json/secret.json", "secret"),
            ("comfyui_embedded_docs/docs/KSampler/en.md", "# KSampler"),
        ] {
            let path = site.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Web::Official(Frontend::at(&site).unwrap())
    })
    .await
}

#[tokio::test]
async fn the_frontend_is_shown_and_may_ask_this_server_only() {
    let app = official().await;
    let page = app.get("/").await;
    assert_eq!((page.status, &page.body[..]), (StatusCode::OK, b"<p>the frontend".as_slice()));
    assert_eq!(page.header("cache-control"), "no-cache");
    let policy = page.header("content-security-policy");
    assert!(policy.contains("connect-src 'self' data: blob:;"), "{policy}");
    // What was built has a hash in its name and never changes.
    let asset = app.get("/assets/index-1a2b.js").await;
    assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(
        (app.get("/user.css").await.status, app.get("/user.css").await.body.len()),
        (StatusCode::OK, 0)
    );
    for path in ["/none", "/assets/none.js", "/..%2Fsecret", "/%2e%2e/x", "/api/index.html"] {
        assert_eq!(app.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn what_lies_beside_the_frontend_is_served() {
    let app = official().await;
    assert_eq!(app.get("/api/extensions").await.json(), json!(["/extensions/pack/js/more.js"]));
    assert_eq!(app.get("/extensions/pack/js/more.js").await.status, StatusCode::OK);
    assert_eq!(app.get("/templates/index.json").await.json(), json!([1]));
    assert_eq!(&app.get("/docs/KSampler/en.md").await.body[..], b"# KSampler");
    for path in [
        "/templates/none.json",
        "/templates/..%2Fsecret.json",
        "/docs/None/en.md",
        "/docs/..%2F..%2Fx",
    ] {
        assert_eq!(app.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn what_no_pack_of_nodes_brings_is_empty() {
    let app = app("").await;
    for path in ["/workflow_templates", "/global_subgraphs", "/node_replacements", "/i18n"] {
        assert_eq!(app.get(path).await.json(), json!({}), "{path}");
        assert_eq!(app.get(&format!("/api{path}")).await.json(), json!({}), "{path}");
    }
    assert_eq!(app.get("/extensions").await.json(), json!([]));
    assert_eq!(app.get("/global_subgraphs/a").await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.get("/templates/index.json").await.status, StatusCode::NOT_FOUND);
}
