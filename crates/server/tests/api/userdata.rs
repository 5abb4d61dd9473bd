//! The user's files.

use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use serde_json::{Value, json};

use crate::app::{App, app};

/// A server with three workflows, and a moment at which one of them was saved.
async fn with_files() -> App {
    let app = app("").await;
    app.write("user/default/workflows/a.json", b"{}");
    app.write("user/default/workflows/below/b c.json", b"[1]");
    app.write("user/default/other.txt", b"text");
    let file = std::fs::File::options()
        .write(true)
        .open(app.path("user/default/workflows/a.json"))
        .unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)).unwrap();
    app
}

#[tokio::test]
async fn a_listing_has_the_forms_that_comfyui_gives_it() {
    let app = with_files().await;
    let list = |query: &'static str| {
        let app = &app;
        async move { app.get(&format!("/userdata?{query}")).await.json() }
    };
    assert_eq!(list("dir=workflows").await, json!(["a.json"]));
    assert_eq!(list("dir=workflows&recurse=true").await, json!(["a.json", "below/b c.json"]));
    assert_eq!(
        list("dir=workflows&recurse=true&split=true").await,
        json!([["a.json", "a.json"], ["below/b c.json", "below", "b c.json"]])
    );
    let full = list("dir=workflows&recurse=true&full_info=true&split=true").await;
    assert_eq!(full[0]["path"], "a.json");
    assert_eq!(
        (&full[0]["size"], &full[0]["modified"]),
        (&json!(2), &json!(1_700_000_000_250_u64))
    );
    assert_eq!((&full[1]["path"], &full[1]["size"]), (&json!("below/b c.json"), &json!(3)));
    assert_eq!(app.get("/userdata").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(app.get("/userdata?dir=none").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_second_listing_has_folders_first_and_all_that_is_below() {
    let app = with_files().await;
    let all = app.get("/v2/userdata").await.json();
    let names: Vec<(&str, &str)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["type"].as_str().unwrap(), entry["path"].as_str().unwrap()))
        .collect();
    assert_eq!(
        names,
        [
            ("directory", "workflows/below"),
            ("directory", "workflows"),
            ("file", "workflows/a.json"),
            ("file", "workflows/below/b c.json"),
            ("file", "other.txt"),
        ]
    );
    assert_eq!((&all[2]["size"], &all[2]["modified"]), (&json!(2), &json!(1_700_000_000.25)));
    let below = app.get("/api/v2/userdata?path=workflows/below").await.json();
    assert_eq!(below[0]["path"], "workflows/below/b c.json");
    assert_eq!(app.get("/v2/userdata?path=none").await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.get("/v2/userdata?path=other.txt").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(app.get("/v2/userdata?path=../x").await.status, StatusCode::BAD_REQUEST);
    // Before anything is saved there is nothing, which is no error.
    assert_eq!(crate::app::app("").await.get("/v2/userdata").await.json(), json!([]));
}

#[tokio::test]
async fn files_are_written_read_moved_and_deleted() {
    let app = app("").await;
    let name = "/userdata/workflows%2Fnew%20one.json";
    let written = app.ask("POST", &format!("{name}?overwrite=false"), "{\"a\":1}").await;
    assert_eq!((written.status, written.json()), (StatusCode::OK, json!("workflows/new one.json")));
    let again = app.ask("POST", &format!("{name}?overwrite=false"), "x").await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    let read = app.get(name).await;
    assert_eq!((read.status, &read.body[..]), (StatusCode::OK, b"{\"a\":1}".as_slice()));
    // Never shown as a page, whatever is in it.
    assert_eq!(read.header("content-disposition"), "attachment");
    assert_eq!(read.header("x-content-type-options"), "nosniff");
    let full = app.ask("PUT", &format!("{name}?full_info=true"), "{}").await.json();
    assert_eq!((&full["path"], &full["size"]), (&json!("workflows/new one.json"), &json!(2)));
    assert!(full["modified"].is_u64() && full["created"].is_u64(), "{full}");

    app.write("user/default/workflows/there.json", b"there");
    let to = |dest: &str, query: &str| format!("{name}/move/workflows%2F{dest}.json{query}");
    let kept = app.ask("POST", &to("there", "?overwrite=false"), "").await;
    assert_eq!(kept.status, StatusCode::CONFLICT);
    let moved = app.ask("POST", &to("deep%2Fname", ""), "").await;
    assert_eq!(moved.json(), json!("workflows/deep/name.json"));
    assert_eq!(app.get(name).await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.ask("POST", &to("again", ""), "").await.status, StatusCode::NOT_FOUND);

    let gone = "/api/userdata/workflows%2Fdeep%2Fname.json";
    assert_eq!(app.ask("DELETE", gone, "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(app.ask("DELETE", gone, "").await.status, StatusCode::NOT_FOUND);
    // A folder is no file to be deleted.
    assert_eq!(app.ask("DELETE", "/userdata/workflows", "").await.status, StatusCode::NOT_FOUND);
    assert!(app.path("user/default/workflows/there.json").exists());
}

#[tokio::test]
async fn names_never_lead_out_of_the_users_folder() {
    let app = with_files().await;
    app.write("secret.txt", b"secret");
    #[cfg(unix)]
    std::os::unix::fs::symlink(app.folder.path(), app.path("user/default/link")).unwrap();
    for name in [
        "..%2F..%2Fsecret.txt",
        "%2e%2e%2f%2e%2e%2fsecret.txt",
        "..%5C..%5Csecret.txt",
        "workflows%2F..%2F..%2F..%2Fsecret.txt",
        "%2Fetc%2Fpasswd",
        "C:%5Csecret.txt",
        "%5C%5Cserver%5Cshare",
        "a%00b",
        "nul",
        #[cfg(unix)]
        "link%2Fsecret.txt",
    ] {
        for (method, path) in [
            ("GET", format!("/userdata/{name}")),
            ("POST", format!("/userdata/{name}")),
            ("DELETE", format!("/userdata/{name}")),
            ("POST", format!("/userdata/other.txt/move/{name}")),
            ("POST", format!("/userdata/{name}/move/stolen.txt")),
            ("GET", format!("/userdata?dir={name}")),
        ] {
            let answer = app.ask(method, &path, "x").await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
        }
    }
    assert_eq!(std::fs::read(app.path("secret.txt")).unwrap(), b"secret");
    assert_eq!(std::fs::read(app.path("user/default/other.txt")).unwrap(), b"text");
    let listed = app.get("/v2/userdata").await.json();
    assert!(!listed.to_string().contains("secret"), "{listed}");
}

#[tokio::test]
async fn styles_of_the_users_own_are_there_as_styles() {
    let app = app("").await;
    let none = app.get("/api/userdata/user.css").await;
    assert_eq!(
        (none.status, none.header("content-type"), none.body.len()),
        (StatusCode::OK, "text/css", 0)
    );
    app.write("user/default/user.css", b"body{}");
    let own = app.get("/api/userdata/user.css").await;
    assert_eq!(
        (own.header("content-disposition"), &own.body[..]),
        ("inline", b"body{}".as_slice())
    );
    let missing = app.get("/userdata/missing.json").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert!(matches!(missing.json(), Value::Object(_)));
}
