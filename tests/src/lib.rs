//! Where netd is proved: the [`lab`], hosts made of namespaces; [`packets`], [`neighbours`] and the [`world`], one host's packet code in
//! memory, with the [`story`] that is told in it and the [`mesh`] of two; the [`kernel`], the programs on the same packets; and the suites that use them.

pub mod kernel;
pub mod lab;
pub mod mesh;
pub mod neighbours;
pub mod packets;
pub mod paths;
pub mod reach;
pub mod scene;
pub mod schedule;
pub mod story;
pub mod world;
