//! netd: container networking with TC/XDP eBPF programs.
mod api;
mod cli;
mod cluster;
mod compose;
mod config;
mod daemon;
mod dataplane;
mod dns;
mod doctor;
mod etcd;
mod exposure;
mod firewall;
mod holder;
mod host;
mod ipam;
mod link;
mod membership;
mod model;
mod netns;
mod plan;
mod reconcile;
mod relay;
mod reserve;
mod resolver;
mod store;
#[cfg(test)]
mod testing;
mod uninstall;

fn main() -> std::process::ExitCode {
    cli::main()
}
