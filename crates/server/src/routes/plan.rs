//! The live plan: where the layers of a checkpoint would go, without loading it.

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use utoipa::OpenApi;

use super::object_info::blocking;
use crate::error::ApiError;
use crate::live_plan::{Answer, Asked, Failed, Problem, answer};
use crate::request::JsonBody;
use crate::state::AppState;

/// This topic's part of the OpenAPI file.
#[derive(OpenApi)]
#[openapi(paths(plan), components(schemas(Asked, Failed, Problem)))]
pub struct Api;

/// This topic's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/distorch/plan", post(plan))
}

/// The plan of each component for the inputs of `CheckpointLoaderAdvancedDisTorch2MultiGPU`, and what each device
/// needs. Inputs that cannot be are no failure of the request: the answer has `errors` instead of a plan.
#[utoipa::path(post, path = "/distorch/plan", request_body = Asked, responses(
    (status = 200, description = "`model`, `fits`, `devices`, `components`; or `errors`"), (status = 400)))]
async fn plan(
    State(state): State<AppState>,
    JsonBody(asked): JsonBody<Asked>,
) -> Result<Json<Answer>, ApiError> {
    blocking(move || answer(&state.environment.session, &asked)).await.map(Json)
}
