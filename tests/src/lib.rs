//! Where netd is proved: the [`lab`], hosts made of namespaces; [`packets`] and the [`world`], one host's packet code in
//! memory, with the [`story`] that is told in it; and the suites that use them.

pub mod lab;
pub mod packets;
pub mod scene;
pub mod story;
pub mod world;
