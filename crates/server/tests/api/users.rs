//! Users and their settings.

use http::StatusCode;
use serde_json::{Value, json};

use crate::app::app;

#[tokio::test]
async fn there_is_one_user_whose_files_the_server_keeps() {
    let app = app("").await;
    assert_eq!(app.get("/users").await.json(), json!({ "storage": "server", "migrated": false }));
    app.write("user/default/comfy.settings.json", b"{}");
    assert_eq!(
        app.get("/api/users").await.json(),
        json!({ "storage": "server", "migrated": true })
    );
    let refused = app.post("/users", &json!({ "username": "a" })).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn settings_are_kept_by_name_and_what_is_not_named_stays() {
    let app = app("").await;
    assert_eq!(app.get("/settings").await.json(), json!({}));
    assert_eq!(app.get("/settings/a.b").await.json(), Value::Null);
    let set = app.post("/api/settings", &json!({ "a.b": [1, "x"], "c": false })).await;
    assert_eq!(set.status, StatusCode::OK);
    assert_eq!(app.post("/settings/c", &json!({ "d": null })).await.status, StatusCode::OK);
    assert_eq!(app.get("/settings").await.json(), json!({ "a.b": [1, "x"], "c": { "d": null } }));
    assert_eq!(app.get("/settings/a.b").await.json(), json!([1, "x"]));
    for body in ["[1]", "{", ""] {
        assert_eq!(
            app.ask("POST", "/settings", body).await.status,
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
}

/// Each change writes the whole file.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_change_at_once_are_all_kept() {
    let app = std::sync::Arc::new(app("").await);
    let changes = (0..20).map(|i| {
        let app = app.clone();
        tokio::spawn(async move { app.post(&format!("/settings/s{i}"), &json!(i)).await.status })
    });
    for change in changes.collect::<Vec<_>>() {
        assert_eq!(change.await.unwrap(), StatusCode::OK);
    }
    let expected: serde_json::Map<_, _> = (0..20).map(|i| (format!("s{i}"), json!(i))).collect();
    assert_eq!(app.get("/settings").await.json(), Value::Object(expected));
}
