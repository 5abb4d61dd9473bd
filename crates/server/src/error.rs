//! What is answered where something is wrong.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

/// An answer that is no success.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Value,
}

impl ApiError {
    /// An error of a prompt, in the shape that ComfyUI's clients read.
    pub fn prompt(kind: &str, message: impl Into<String>, details: impl Into<String>) -> Self {
        let (message, details): (String, String) = (message.into(), details.into());
        let error =
            json!({ "type": kind, "message": message, "details": details, "extra_info": {} });
        Self::with_body(StatusCode::BAD_REQUEST, json!({ "error": error, "node_errors": {} }))
    }

    /// An error with a body of its own.
    pub fn with_body(status: StatusCode, body: Value) -> Self {
        Self { status, body }
    }

    /// An error of a few words: `{"error": "…"}`.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, body: json!({ "error": text.into() }) }
    }

    /// The request cannot be read or makes no sense.
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// What was asked for is not there.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The request may not do that.
    pub fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }

    /// A fault of this program, which goes to the log; clients read that there was one.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!("{error}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed; its log says why")
    }

    /// What is wrong, in words.
    pub fn message(&self) -> String {
        let error = &self.body["error"];
        let part = |name: &str| error[name].as_str().filter(|text| !text.is_empty());
        let text = match (error.as_str(), part("message"), part("details")) {
            (Some(text), ..) | (None, Some(text), None) => text.to_owned(),
            (None, Some(message), Some(details)) => format!("{message}: {details}"),
            (None, None, _) => self.status.to_string(),
        };
        let nodes =
            self.body["node_errors"].as_object().into_iter().flat_map(|nodes| nodes.values());
        let errors = nodes.flat_map(|node| node["errors"].as_array().into_iter().flatten());
        let told = errors.filter_map(|error| {
            Some(format!("{}: {}", error["message"].as_str()?, error["details"].as_str()?))
        });
        std::iter::once(text).chain(told).collect::<Vec<_>>().join("; ")
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
