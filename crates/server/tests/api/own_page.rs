//! The page of our own.

use std::collections::BTreeSet;

use http::StatusCode;

use crate::app::{App, app};

/// What a file of the page refers to: what stands between a mark and a quote.
fn references(text: &str, marks: &[&str]) -> Vec<String> {
    let after = marks.iter().flat_map(|mark| text.split(mark).skip(1));
    after.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

/// Every file of the page, found from its links and imports.
async fn files(app: &App) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next = vec!["/".to_owned()];
    while let Some(path) = next.pop() {
        if !found.insert(path.clone()) {
            continue;
        }
        let answer = app.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let links = references(&text, &["href=\"", "src=\""])
            .into_iter()
            .filter(|link| !link.starts_with('#'));
        next.extend(links.map(|link| format!("/{link}")));
        next.extend(
            references(&text, &["from \"./"]).into_iter().map(|name| format!("/js/{name}")),
        );
    }
    found
}

#[tokio::test]
async fn all_that_the_page_refers_to_is_in_the_program_and_nothing_is_elsewhere() {
    let app = app("").await;
    let files = files(&app).await;
    for file in ["/css/tokens.css", "/js/main.js", "/js/strip.js", "/icon.svg"] {
        assert!(files.contains(file), "{file} of {files:?}");
    }
    for file in files {
        let answer = app.get(&file).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let addresses =
            text.matches("://").count() - text.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(addresses, 0, "{file} names another machine");
        let policy = answer.header("content-security-policy");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(rule), "{file}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn files_have_their_kinds_and_are_sent_once() {
    let app = app("").await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/js/main.js", "text/javascript; charset=utf-8"),
        ("/css/base.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.header("content-type"), kind, "{path}");
        let tag = answer.header("etag").to_owned();
        let known = app.ask_with("GET", path, &[("if-none-match", &tag)], "").await;
        assert_eq!((known.status, known.body.len()), (StatusCode::NOT_MODIFIED, 0), "{path}");
        let other = app.ask_with("GET", path, &[("if-none-match", "\"0\"")], "").await;
        assert_eq!(other.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn what_is_no_file_of_the_page_is_not_found() {
    let app = app("").await;
    for path in
        ["/none", "/js/", "/js/..%2Findex.html", "/..%2FCargo.toml", "/api/index.html", "/api/"]
    {
        assert_eq!(app.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(app.ask("POST", "/index.html", "x").await.status, StatusCode::NOT_FOUND);
}
