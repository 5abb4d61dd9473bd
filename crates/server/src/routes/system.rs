//! What the machine is, what is held where, and what this server can do.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use distorch_runtime::devices::{Hardware, host_memory};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::object_info::blocking;
use crate::error::ApiError;
use crate::state::AppState;

/// The release of ComfyUI whose interface this is.
pub const COMFYUI_VERSION: &str = "0.38.1";

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(system_stats, features))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/system_stats", get(system_stats)).route("/features", get(features))
}

/// The machine and its devices: memory in bytes, and of every loaded model what was planned and held where.
#[utoipa::path(get, path = "/system_stats",
    responses((status = 200, description = "`system`, `devices`, and `models` that are loaded")))]
async fn system_stats(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    blocking(move || stats(&state)).await.map(Json)
}

fn stats(state: &AppState) -> Value {
    let ram = host_memory();
    let models = &state.environment.session.models;
    let loaded = models.stats();
    let device = |hardware: &Hardware| {
        let info = &hardware.info;
        let held = || {
            let uses = loaded.iter().flat_map(|(_, stats)| &stats.devices);
            uses.filter(|held| held.device == info.id)
        };
        let free = models.free_bytes(info.id).unwrap_or(info.free).min(info.total);
        let resident: u64 = held().map(|held| held.resident_bytes).sum();
        json!({
            "name": format!("{} {}", info.id, info.name).trim(),
            "type": info.id.kind().name(),
            "index": (!info.id.kind().is_single()).then(|| info.id.index()),
            "vram_total": info.total,
            "vram_free": free,
            "torch_vram_total": resident,
            "torch_vram_free": 0,
            "device": info.id.to_string(),
            "api": hardware.api,
            "simulated": info.simulated,
            "bandwidth": info.bandwidth,
            "resident_bytes": resident,
            "planned_bytes": held().map(|held| held.planned_bytes).sum::<u64>(),
            "peak_bytes": held().map(|held| held.peak_bytes).sum::<u64>(),
            "window_bytes": held().map(|held| held.window_bytes).sum::<u64>(),
        })
    };
    // The device that computes by default comes first, as clients that read the first expect.
    let first = state.environment.session.topology().default_compute();
    let (mut devices, others): (Vec<_>, Vec<_>) =
        state.hardware.iter().partition(|hardware| hardware.info.id == first);
    devices.extend(others);
    let parts = loaded.iter().map(|(part, stats)| {
        json!({
            "component": part.plan().component,
            "compute_device": part.compute_device().to_string(),
            "stats": stats,
        })
    });
    json!({
        "system": {
            "os": std::env::consts::OS,
            "ram_total": ram.total,
            "ram_free": ram.free,
            "comfyui_version": COMFYUI_VERSION,
            "required_frontend_version": null,
            "installed_templates_version": null,
            "required_templates_version": null,
            "python_version": "none: this is distorch",
            "pytorch_version": "none: this is distorch",
            "embedded_python": false,
            "deploy_environment": "local",
            "argv": ["distorch", "serve"],
            "distorch_version": env!("CARGO_PKG_VERSION"),
        },
        "devices": devices.into_iter().map(device).collect::<Vec<_>>(),
        "models": parts.collect::<Vec<_>>(),
    })
}

/// What this server can do, as the first message on `/ws` says too.
#[utoipa::path(get, path = "/features", responses((status = 200, description = "Flags by name")))]
async fn features(State(state): State<AppState>) -> Json<Value> {
    Json(Value::Object(flags(&state)))
}

/// The flags of features, with ComfyUI's names.
pub fn flags(state: &AppState) -> Map<String, Value> {
    let flags = [
        ("supports_preview_metadata", json!(true)),
        ("supports_model_type_tags", json!(false)),
        ("max_upload_size", json!(state.config.limits.upload_bytes)),
        ("extension", json!({ "manager": { "supports_v4": false } })),
        ("node_replacements", json!(false)),
        ("assets", json!(false)),
    ];
    flags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
