//! Everything a packet can experience in netd, and every map's key and value.
//!
//! The same code runs in the kernel, monomorphised over the skb and the BPF maps by `netd-ebpf`, and in plain tests over a
//! `Vec<u8>` and ordinary collections. Nothing here performs IO, keeps state of its own, allocates or panics.
//!
//! Reading order: [`hooks`] has one function per place where a packet meets us; [`conntrack`] and [`nat`] are what they
//! lean on; [`tables`] and [`packet`] are the seams to the world.
#![no_std]
#![forbid(unsafe_code)]

pub mod chapter;
pub mod checksum;
pub mod conntrack;
pub mod dns;
pub mod evict;
pub mod firewall;
pub mod forward;
pub mod fragment;
pub mod frame;
pub mod guard;
pub mod hooks;
pub mod icc;
pub mod icmp;
pub mod nat;
pub mod neighbour;
pub mod overlay;
pub mod packet;
pub mod parse;
pub mod policy;
pub mod publish;
pub mod sock;
pub mod tables;
pub mod tuple;
pub mod verdict;
