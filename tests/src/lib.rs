//! Where netd is proved: the [`lab`], hosts made of namespaces; [`packets`] and the [`world`], one host's packet code in
//! memory; and the suites that use them.

pub mod lab;
pub mod packets;
pub mod scene;
pub mod world;
