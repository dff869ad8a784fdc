//! netd: container networking with TC/XDP eBPF programs.
mod dataplane;
mod holder;
mod host;
mod link;
mod netns;
mod reconcile;
#[cfg(test)]
mod testing;
mod uninstall;

fn main() {}
