//! What browsers are shown: a page of our own, or ComfyUI's official frontend.

pub mod find;
mod official;
mod own;

pub use find::{Frontend, FrontendError};
pub(crate) use official::serve;

use axum::extract::Request;
use axum::response::Response;

/// What browsers are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Web {
    /// The page of our own.
    #[default]
    Own,
    /// ComfyUI's frontend, unpacked in a folder.
    Official(Frontend),
}

impl Web {
    /// The file that a request is for; `None` where there is none.
    pub(crate) async fn file(&self, request: Request) -> Option<Response> {
        match self {
            Web::Own => own::file(&request),
            Web::Official(frontend) => official::file(frontend, request).await,
        }
    }
}
