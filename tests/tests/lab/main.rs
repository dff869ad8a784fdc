//! The suites that run in the Lab: real namespaces, real programs, real traffic. Root only; `cargo xtask test` runs them.

mod addressing;
mod cases;
mod clsact;
mod compose;
mod connecting;
mod core;
mod edges;
mod events;
mod healing;
mod ipv6;
mod lifecycle;
mod loaded;
mod many;
mod mtu;
mod names;
mod pinned;
mod ports;
mod publishing;
mod refusals;
mod running;
mod says;
mod service;
mod survival;
mod the_lab;
mod town;
mod uninstall;
