#![doc = include_str!("../README.md")]

pub use distorch_pipeline::diffusion::conditioning::Guidance;
pub use distorch_pipeline::error::{Argument, PipelineError};
pub use distorch_pipeline::events::{Event, EventSink, Phase, RunEvent, RunId, Silent};
pub use distorch_pipeline::image::{Mask, Pictures};
pub use distorch_pipeline::preview::Preview;
pub use distorch_pipeline::request::{
    ComponentPlacement, Generated, Generation, ImageToImage, Lora, ModelSource, Placement,
    TextToImage,
};
pub use distorch_pipeline::run::CancelToken;
pub use distorch_pipeline::session::{Session, SessionError};
pub use distorch_pipeline::{Latent, Run};

pub use distorch_allocation as allocation;
pub use distorch_allocation::{Allocation, DeviceId, Donors, Plan, Topology, VirtualVram};
pub use distorch_checkpoint as checkpoint;
pub use distorch_checkpoint::folders::ModelFolders;
pub use distorch_models as models;
pub use distorch_pipeline as pipeline;
pub use distorch_runtime as runtime;
pub use distorch_sampling as sampling;
pub use distorch_workflow as workflow;
