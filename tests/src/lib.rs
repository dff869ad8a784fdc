//! Where netd is proved: the [`packets`] and the [`world`], one host's packet code in memory, and the suites that use it.

pub mod packets;
pub mod scene;
pub mod world;
