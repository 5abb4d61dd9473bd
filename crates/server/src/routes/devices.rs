//! The devices as they are now: what they hold, of which model, and what is free.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use distorch_runtime::devices::Hardware;
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use super::object_info::blocking;
use crate::error::ApiError;
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(devices), components(schemas(Devices, DeviceState, ModelState)))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/distorch/devices", get(devices))
}

/// The devices, `cpu` last.
#[derive(Serialize, ToSchema)]
struct Devices {
    devices: Vec<DeviceState>,
}

/// One device. All sizes are bytes.
#[derive(Serialize, ToSchema)]
struct DeviceState {
    /// Its name in this program.
    id: String,
    /// The hardware's name.
    name: String,
    /// Whether it is simulated.
    simulated: bool,
    /// How it is reached.
    api: String,
    /// All of its memory.
    total: u64,
    /// What is free of it now.
    free: u64,
    /// The weights at home there.
    resident: u64,
    /// The most that was loaded ahead of its use at once.
    window: u64,
    /// The most that computing took beside weights, or the plan's estimate of it.
    activations: u64,
    /// What its models were to hold and use there at most.
    planned: u64,
    /// The most that they held and used there.
    peak: u64,
    /// The components that are loaded, each with what it has there.
    models: Vec<ModelState>,
}

/// What a component of a model has on a device, in bytes.
#[derive(Serialize, ToSchema)]
struct ModelState {
    /// The file's name.
    model: String,
    /// `unet`, `clip` or `vae`.
    component: String,
    /// Its weights at home there.
    resident_bytes: u64,
    /// The most that was loaded ahead of its use at once.
    window_bytes: u64,
    /// The most that computing took beside weights, or the plan's estimate of it.
    activation_bytes: u64,
    /// What it was to hold and use there at most.
    planned_bytes: u64,
    /// The most that it held and used there.
    peak_bytes: u64,
}

/// What every device holds, of which model, and what is free.
#[utoipa::path(get, path = "/distorch/devices", responses((status = 200, body = Devices)))]
async fn devices(State(state): State<AppState>) -> Result<Json<Devices>, ApiError> {
    blocking(move || {
        let loaded = state.environment.session.models.stats();
        let models = |device| {
            let uses = loaded
                .iter()
                .flat_map(|(part, stats)| stats.devices.iter().map(move |held| (part, held)));
            let there = uses.filter(move |(_, held)| held.device == device);
            there.map(|(part, held)| ModelState {
                model: part.file().name.clone(),
                component: part.plan().component.clone(),
                resident_bytes: held.resident_bytes,
                window_bytes: held.window_bytes,
                activation_bytes: held.activation_bytes,
                planned_bytes: held.planned_bytes,
                peak_bytes: held.peak_bytes,
            })
        };
        let device = |hardware: &Hardware| {
            let info = &hardware.info;
            let models: Vec<ModelState> = models(info.id).collect();
            let sum = |bytes: fn(&ModelState) -> u64| {
                models.iter().map(bytes).fold(0, u64::saturating_add)
            };
            // Components compute one after the other: their windows and activations are not there at once.
            let most = |bytes: fn(&ModelState) -> u64| models.iter().map(bytes).max().unwrap_or(0);
            let free = state.environment.session.models.free_bytes(info.id);
            DeviceState {
                id: info.id.to_string(),
                name: info.name.clone(),
                simulated: info.simulated,
                api: hardware.api.clone(),
                total: info.total,
                free: free.unwrap_or(info.free).min(info.total),
                resident: sum(|model| model.resident_bytes),
                window: most(|model| model.window_bytes),
                activations: most(|model| model.activation_bytes),
                planned: sum(|model| model.planned_bytes),
                peak: sum(|model| model.peak_bytes),
                models,
            }
        };
        Json(Devices { devices: state.hardware.iter().map(device).collect() })
    })
    .await
}
