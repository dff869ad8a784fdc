//! The daemon's door: HTTP/1.1 and JSON on a unix socket, and the client that the command line is.

mod client;
mod events;
mod server;
#[cfg(test)]
mod tests;

pub use client::{CallError, Client};
pub use server::{listen, router};

/// A refusal or a failure on the wire.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct ErrorBody {
    /// One line.
    error: String,
}
