//! One client's connection.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{self, CloseFrame, WebSocket, WebSocketUpgrade, close_code};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::clients::Entry;
use super::message::Message;
use crate::error::ApiError;
use crate::request::Query;
use crate::routes::system;
use crate::state::AppState;

/// Bytes of a client's message; what clients say are flags.
const MOST_BYTES: usize = 1 << 20;

/// Bytes of a client's id; browsers' are 36 characters.
const LONGEST_ID: usize = 128;

/// How long a message may take to be sent before a client is given up.
const SEND: Duration = Duration::from_secs(30);

/// How often a client that says nothing is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

/// The route `/ws`.
pub fn routes() -> Router<AppState> {
    Router::new().route("/ws", get(connect))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    #[serde(rename = "clientId")]
    client_id: String,
    /// `all`: what is meant for other clients comes too.
    watch: String,
}

/// Opens a WebSocket. A client that comes again with its id goes on where it was.
async fn connect(
    State(state): State<AppState>,
    Query(asked): Query<Asked>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if asked.client_id.len() > LONGEST_ID {
        return ApiError::bad_request("`clientId` is too long").into_response();
    }
    let id = match asked.client_id.as_str() {
        "" => Uuid::new_v4().simple().to_string(),
        id => id.to_owned(),
    };
    // Some clients queue before they connect, and take an empty queue for the end.
    state.count_queue().await;
    let entered = state.clients.enter(&id, asked.watch == "all", || greeting(&state, &id));
    let Some(entry) = entered else {
        let text = "there are as many clients as this server takes; `--max-clients` sets the limit";
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let upgrade = upgrade.max_message_size(MOST_BYTES).max_frame_size(MOST_BYTES);
    upgrade.on_upgrade(move |socket| serve(socket, state, entry))
}

async fn serve(mut socket: WebSocket, state: AppState, entry: Entry) {
    let mut pings = tokio::time::interval(PING);
    let mut answered = true;
    pings.tick().await;
    loop {
        tokio::select! {
            message = entry.outbox.next() => {
                let Some(message) = message else { break };
                let frame = message.frame(entry.can("supports_preview_metadata"));
                match tokio::time::timeout(SEND, socket.send(frame)).await {
                    Ok(Ok(())) => {}
                    _ => return,
                }
            }
            received = socket.recv() => match received {
                Some(Ok(ws::Message::Text(text))) => {
                    answered = true;
                    heard(&state, &entry, &text);
                }
                Some(Ok(ws::Message::Close(_))) | Some(Err(_)) | None => return,
                Some(Ok(_)) => answered = true,
            },
            _ = pings.tick() => {
                let ping = socket.send(ws::Message::Ping(Default::default()));
                if !answered || !matches!(tokio::time::timeout(SEND, ping).await, Ok(Ok(()))) {
                    return;
                }
                answered = false;
            }
        }
    }
    let reason = "taken over by a newer connection, too slow, or the server ends".into();
    let close = ws::Message::Close(Some(CloseFrame { code: close_code::POLICY, reason }));
    // It may be gone already.
    drop(tokio::time::timeout(SEND, socket.send(close)).await);
}

/// What a client is told first: what the server can do, how long the queue is, and which of its nodes runs.
fn greeting(state: &AppState, id: &str) -> Vec<Message> {
    let flags = Value::Object(system::flags(state));
    let status = json!({ "status": state.queue_status(), "sid": id });
    let mut messages =
        vec![Message::json("feature_flags", &flags), Message::json("status", &status)];
    let nodes = state.running.nodes_of(id);
    messages.extend(nodes.iter().map(|node| Message::json("executing", node)));
    messages
}

/// What a client says: at first, what it can do.
fn heard(state: &AppState, entry: &Entry, text: &str) {
    let Ok(mut said) = serde_json::from_str::<Value>(text) else { return };
    if said["type"] == "feature_flags" {
        entry.set_flags(said["data"].take());
        let flags = Value::Object(system::flags(state));
        entry.outbox.push(Message::json("feature_flags", &flags));
    }
}
