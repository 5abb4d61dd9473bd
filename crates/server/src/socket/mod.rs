//! The clients of `/ws`, and the messages to them.

mod clients;
mod connection;
mod message;

pub use clients::{Audience, Clients, To};
pub use connection::routes;
pub use message::{Message, PictureFormat, Preview};
