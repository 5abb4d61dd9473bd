//! Bodies that are read to their end, so that a client hears why a request is refused.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::runtime::Handle;

/// How long the rest of a refused body is read.
const LONGEST: Duration = Duration::from_secs(10);

/// Hands requests on with a body whose rest is read and thrown away if a handler does not read it.
///
/// A connection that is closed while its client still sends is reset, and with it the answer is lost: a client that
/// sends a file larger than allowed would not see status 413 but a broken connection.
pub async fn read_to_the_end(request: Request, next: Next) -> Response {
    next.run(request.map(|body| Body::new(Lingering { body }))).await
}

struct Lingering {
    body: Body,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let mut rest = std::mem::take(&mut self.body);
        runtime.spawn(tokio::time::timeout(LONGEST, async move {
            while let Some(Ok(_)) =
                std::future::poll_fn(|context| Pin::new(&mut rest).poll_frame(context)).await
            {
            }
        }));
    }
}
