//! The Lab: hosts, wires and containers made of namespaces. The World, the same in memory, and the suites are beside it.

pub mod lab;
