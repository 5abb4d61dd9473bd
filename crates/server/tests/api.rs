//! The server as its clients meet it: over its port, with the shipped checkpoint.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "api/server.rs"]
mod server;

#[path = "api/app.rs"]
mod app;
#[path = "api/devices.rs"]
mod devices;
#[path = "api/files.rs"]
mod files;
#[path = "api/frontend.rs"]
mod frontend;
#[path = "api/gallery.rs"]
mod gallery;
#[path = "api/hostile.rs"]
mod hostile;
#[path = "api/models.rs"]
mod models;
#[path = "api/openai.rs"]
mod openai;
#[path = "api/own_page.rs"]
mod own_page;
#[path = "api/plan.rs"]
mod plan;
#[path = "api/prompts.rs"]
mod prompts;
#[path = "api/safety.rs"]
mod safety;
#[path = "api/side_by_side.rs"]
mod side_by_side;
#[path = "api/socket.rs"]
mod socket;
#[path = "api/userdata.rs"]
mod userdata;
#[path = "api/users.rs"]
mod users;
#[path = "api/workers.rs"]
mod workers;

#[allow(dead_code)] // The queue's tests restart it too.
#[path = "../../queue/tests/queue/postgres.rs"]
mod postgres;
