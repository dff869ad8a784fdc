//! The Lab and the World.
