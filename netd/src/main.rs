//! netd: container networking with TC/XDP eBPF programs.
mod api;
mod cli;
mod daemon;
mod ipam;
mod model;
mod plan;
mod reconcile;
mod reserve;
mod store;

fn main() -> std::process::ExitCode {
    cli::main()
}
