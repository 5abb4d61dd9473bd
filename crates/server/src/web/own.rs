//! The page of our own, which is in the program.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use rust_embed::Embed;

#[derive(Embed)]
#[folder = "web/"]
struct Files;

/// What the page may load: what is here, and nothing from elsewhere. Pictures that it has received or is about to save
/// are blobs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page's file at a request's path.
pub(super) fn file(request: &Request) -> Option<Response> {
    let path = request.uri().path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let file = Files::get(path)?;
    let hash: String =
        file.metadata.sha256_hash().iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{hash}\"");
    let kind = match file.metadata.mimetype() {
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        other => other.to_owned(),
    };
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        // Asked for each time, so that another version of the program shows its own page.
        (CACHE_CONTROL, "no-cache".to_owned()),
        (ETAG, tag.clone()),
    ];
    let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    Some(match known.is_some_and(|known| known.split(',').any(|each| each.trim() == tag)) {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, Body::from(file.data.into_owned())).into_response(),
    })
}
