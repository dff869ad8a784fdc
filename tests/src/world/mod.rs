//! The World: the shipped packet code over ordinary collections, in memory, under a clock that tests set.

mod frame;
mod meanwhile;
mod tables;

pub use frame::{Frame, Summed};
pub use tables::{RouteTo, World};
