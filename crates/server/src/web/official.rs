//! ComfyUI's official frontend, from the folder that it is unpacked in.

use std::path::Path;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use tower::ServiceExt;
use tower_http::services::ServeDir;

use super::Frontend;

/// What the frontend may load. It has scripts in its page and compiles some; what it would ask of other machines
/// (accounts, telemetry, news) is refused.
const POLICY: &str = "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; \
                      style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; \
                      font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; \
                      frame-src 'self'; object-src 'none'; base-uri 'self'; frame-ancestors 'self'";

/// The frontend's file at a request's path.
pub(super) async fn file(frontend: &Frontend, request: Request) -> Option<Response> {
    let path = request.uri().path();
    // Styles of the user's own, which the page asks for whether they are there or not.
    if path == "/user.css" {
        return Some(([(CONTENT_TYPE, "text/css")], "").into_response());
    }
    // Names of what was built from a file have its hash in them.
    let kept = path.starts_with("/assets/");
    let mut response = serve(&frontend.root, request).await?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    let cache = if kept { "public, max-age=31536000, immutable" } else { "no-cache" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    Some(response)
}

/// The file below a folder at a request's path; a folder stands for the `index.html` in it.
pub(crate) async fn serve(folder: &Path, request: Request) -> Option<Response> {
    // Without a file to fall back to, it fails only where the file system does, which it answers.
    let Ok(response) = ServeDir::new(folder).oneshot(request).await;
    match response.status() {
        StatusCode::NOT_FOUND => None,
        _ => Some(response.map(Body::new)),
    }
}
