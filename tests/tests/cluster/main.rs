//! Several hosts with a daemon each and a real etcd between them, in the Lab. Root only; `cargo xtask test` runs them.

mod apart;
mod as_a_bridge;
mod cards;
mod cluster;
mod core;
mod drivers;
mod encrypted;
mod lossy;
mod member;
mod mesh;
mod moving;
mod offload;
mod parting;
mod reach;
mod secured;
mod sharing;
mod sizes;
mod stale;
mod strangers;
mod within;
