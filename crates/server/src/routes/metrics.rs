//! Figures for Prometheus.

use std::sync::OnceLock;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use utoipa::OpenApi;

use super::object_info::blocking;
use crate::error::ApiError;
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(figures))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    recorder();
    Router::new().route("/metrics", get(figures))
}

/// What counts, once in a process; `None` where the program counts elsewhere.
fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().ok()).as_ref()
}

/// Figures of this process in Prometheus' text format: prompts, requests, clients, memory of devices.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Figures")))]
async fn figures(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let handle = recorder()
        .ok_or_else(|| ApiError::not_found("this program keeps its figures somewhere else"))?;
    let remaining = state.queue.remaining().await.map_err(ApiError::internal)?;
    metrics::gauge!("distorch_queue_remaining").set(remaining as f64);
    metrics::gauge!("distorch_prompts_running").set(state.running.count() as f64);
    metrics::gauge!("distorch_clients").set(state.clients.count() as f64);
    let text = blocking(move || {
        let models = &state.environment.session.models;
        let loaded = models.stats();
        for hardware in &state.hardware {
            let info = &hardware.info;
            let device = info.id.to_string();
            let uses = loaded.iter().flat_map(|(_, stats)| &stats.devices);
            let resident: u64 =
                uses.filter(|held| held.device == info.id).map(|held| held.resident_bytes).sum();
            let free = models.free_bytes(info.id).unwrap_or(info.free);
            for (state, bytes) in [("total", info.total), ("free", free), ("resident", resident)] {
                let labels = [("device", device.clone()), ("kind", state.to_owned())];
                metrics::gauge!("distorch_device_bytes", &labels).set(bytes as f64);
            }
        }
        handle.run_upkeep();
        handle.render()
    });
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text.await?))
}
