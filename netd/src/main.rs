//! netd: container networking with TC/XDP eBPF programs.
mod reconcile;

fn main() {}
