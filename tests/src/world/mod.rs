//! The World: the shipped packet code over ordinary collections, in memory, under a clock that tests set.

mod driver;
mod frame;
mod host;
mod meanwhile;
mod tables;

pub use frame::{Frame, Summed};
pub use host::{RouteTo, World};
