#![doc = include_str!("../README.md")]

mod database;
mod error;
mod hold;
mod job;
mod json;
mod notice;
mod options;
mod queue;
mod retry;
mod routing;

pub use error::Error;
pub use hold::Hold;
pub use job::{
    Attempt, Cancelled, Claimed, Event, Job, JobFilter, JobPage, JobResult, LeaseStatus, NewJob,
    Outcome, Payload, Record, SortBy, SortOrder, State, Status,
};
pub use json::Json;
pub use notice::{Notice, NoticeKind, Notices};
pub use options::QueueOptions;
pub use queue::{HistoryPages, Queue};
pub use routing::{ALL_DEVICES, DEFAULT_DEVICE, Requirements, Worker};
