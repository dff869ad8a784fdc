//! The Compose file, read as it is: the part of it that is about networks and the commands in them.
//!
//! From text to a [`File`], from a file to a [`Project`] of what should exist, and from that and what exists to
//! [`Changes`]. What the file says beyond that is told as a warning where it is about something else than networks, and
//! refused by its name where it is not.
//!
//! Invariant: nothing here performs IO.

mod changes;
mod file;
mod interpolate;
mod project;
mod section;
mod service;

pub use changes::{changes, departures};
pub use file::File;
pub use project::{PROJECT, PlannedNetwork, PlannedService, Project};

use thiserror::Error;

use crate::model::Rejection;

/// Why a file is not what netd can do.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ComposeError {
    #[error("{0}")]
    NotYaml(String),
    #[error("{place}: {why}")]
    Wrong { place: String, why: String },
    #[error("{place}: netd does not know `{key}`")]
    UnknownKey { place: String, key: String },
    #[error("{place}: {rejection}")]
    Refused { place: String, rejection: Rejection },
    #[error("services depend on one another in a circle: {}", .0.join(" → "))]
    Circle(Vec<String>),
    #[error("there is no network {0}, which the file calls external: make it first")]
    NoExternalNetwork(String),
    #[error("{what} {name} exists already and is not of project {project}")]
    Foreign { what: &'static str, name: String, project: String },
    #[error("network {0} is not as the file says any more: `netd down`, then `netd up`")]
    NetworkDiffers(String),
}

impl ComposeError {
    fn wrong(place: &str, why: impl Into<String>) -> Self {
        let place = if place.is_empty() { "the file" } else { place };
        Self::Wrong { place: place.to_owned(), why: why.into() }
    }
}
