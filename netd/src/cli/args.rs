//! The words of the command line. What they mean is read by the daemon, so that every door says the same of them.

mod cluster;
mod network;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{firewall::Mode, model::PublishMode};

pub use cluster::{ClusterArgs, NodeCommand, OverlayCommand, PsArgs};
pub use network::{ConnectArgs, NetworkCommand, NetworkCreateArgs};

use crate::config::{EndpointAttach, XdpWish};

/// Gives containers their network with eBPF programs.
#[derive(Parser, Debug)]
#[command(name = "netd", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the daemon in the foreground
    Daemon(DaemonArgs),
    /// Make, show and remove networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Attach a container that exists to networks
    Attach(AttachArgs),
    /// Detach a container from all of its networks
    Detach {
        /// The endpoint
        name: String,
    },
    /// Open ports of the host to a container
    Publish(PublishArgs),
    /// Close ports of the host again
    Unpublish(PortsArgs),
    /// Let an endpoint open something to another of a network that keeps them apart
    Allow(AllowanceArgs),
    /// Take back what an endpoint may open to another: everything unless a port is given
    Deny(AllowanceArgs),
    /// Run a command in a network namespace of its own
    Run(RunArgs),
    /// Run a command in the network namespace of an endpoint
    Exec {
        /// The endpoint
        name: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// List endpoints
    #[command(mut_arg(
        "filters",
        only_of("name, id, network or state, or with all these labels (with --all-nodes: node, name, id or network)")
    ))]
    Ps(PsArgs),
    /// Show the published ports of an endpoint
    Port {
        /// The endpoint
        name: String,
        /// A port in the container
        #[arg(value_name = "PORT[/PROTO]")]
        port: Option<String>,
    },
    /// Show endpoints as JSON
    Inspect {
        /// The endpoints
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove endpoints
    Rm {
        /// End a process that still runs
        #[arg(short, long)]
        force: bool,
        /// The endpoints
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Show, drain and remove nodes of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Compare what every node forwards with what it should
    #[command(subcommand)]
    Overlay(OverlayCommand),
    /// List flows
    ///
    /// Packets and bytes are not counted for each flow: that would be a write for every packet to memory that processors share. An
    /// interface's own counters (`ip -s link`) tell what a container sent and got, `netd status` and `netd drops` what became of it.
    Flows(FlowsArgs),
    /// Show what was dropped, by hook and reason
    #[command(mut_arg("filters", only_of("hook or reason")))]
    Drops(ListArgs),
    /// Make the networks of a Compose file, and run the commands of its services in them
    Up {
        /// The file; compose.yaml or another of Compose's names in this directory unless given
        #[arg(short, long)]
        file: Option<PathBuf>,
    },
    /// Take away what `up` made of a Compose file
    Down {
        /// The file; compose.yaml or another of Compose's names in this directory unless given
        #[arg(short, long)]
        file: Option<PathBuf>,
    },
    /// Show what happens, as it happens
    Events(EventsArgs),
    /// Show how the daemon is
    Status {
        /// How to print
        #[arg(long, default_value = "table")]
        format: Format,
    },
    /// Show who can reach what: every published port, its addresses and its sources
    Exposure {
        /// How to print
        #[arg(long, default_value = "table")]
        format: Format,
    },
    /// Look for what is not as it should be, and say what to do
    Doctor {
        /// How to print
        #[arg(long, default_value = "table")]
        format: Format,
    },
    /// Take away every program, map, link and file of netd
    Uninstall(UninstallArgs),
    /// Print what a shell reads to complete these words
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, as roff, of netd or of one of its commands
    Man {
        /// The words of the command: `network create`
        command: Vec<String>,
    },
    /// Show the version
    Version,

    /// Starts the command of `run` when told to
    #[command(name = "__start", hide = true)]
    Start(StartArgs),
    /// Removes an endpoint when its process ends
    #[command(name = "__supervise", hide = true)]
    Supervise {
        /// The endpoint
        name: String,
    },
}

/// How a listing is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// An array.
    Json,
}

/// Of the daemon.
#[derive(Args, Debug)]
pub struct DaemonArgs {
    /// What is configured; /etc/netd/netd.toml, if it is there, unless given
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the store is; /var/lib/netd unless given or configured
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the socket netd.sock is; /run/netd unless given or configured
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where maps and links are pinned; /sys/fs/bpf/netd unless given or configured
    #[arg(long, value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,
    /// The cgroup2 directory whose processes reach published ports by the host's addresses, or `none`; without it cgroup2's root
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Whether the drivers of uplinks drop whom `from=` denies and pass ports of the mesh on; auto unless given or configured
    #[arg(long)]
    pub xdp: Option<XdpWish>,
    /// By what devices of containers get their programs: filters that all share (clsact, the default), or a link each (tcx), see netd.toml
    #[arg(long, value_name = "MANNER")]
    pub endpoint_attach: Option<EndpointAttach>,
    /// A device towards the outside; without any, each that looks like it
    #[arg(long = "uplink", value_name = "IF")]
    pub uplinks: Vec<String>,
    /// Whether flows are shown to the host's own firewall: where it has rules that could stop them (aware, the default), not at all
    /// (full), or every packet (off)
    #[arg(long)]
    pub firewall: Option<Mode>,
    /// Several hosts.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Of `uninstall`.
#[derive(Args, Debug)]
pub struct UninstallArgs {
    /// Where the store is; where neither a daemon nor /etc/netd/netd.toml says otherwise, /var/lib/netd
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where maps and links are pinned; where neither a daemon nor /etc/netd/netd.toml says otherwise, /sys/fs/bpf/netd
    #[arg(long, value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,
}

/// Of an endpoint to be attached.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("sandbox").required(true).args(["netns", "pid"]))]
pub struct AttachArgs {
    /// Its name
    pub name: String,
    /// Path of its network namespace
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// A process in its network namespace
    #[arg(long)]
    pub pid: Option<u32>,
    /// How it is connected.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// How an endpoint is connected.
#[derive(Args, Debug)]
pub struct ConnectionArgs {
    /// A network to join: NET[:ip=IP,ip6=IP,mac=MAC,ifname=IF,alias=NAME,gw-priority=N] or name=NET,ip=IP,…; `bridge` without
    /// any; or alone: none, and with `run` host or container:NAME
    #[arg(long = "network", value_name = "NETSPEC")]
    pub networks: Vec<String>,
    /// A port to publish: [[HOSTIP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp|sctp][,from=CIDR[,CIDR]…]
    #[arg(short = 'p', long = "publish", value_name = "SPEC")]
    pub ports: Vec<String>,
    /// On which hosts of the cluster: the container's own, or every one
    #[arg(long, value_name = "MODE", default_value = "host")]
    pub publish_mode: PublishMode,
    /// Yours to choose
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// A DNS server for what is no container's name; those of its networks or the host's unless given
    #[arg(long = "dns", value_name = "IP")]
    pub dns: Vec<String>,
}

/// Ports of an endpoint.
#[derive(Args, Debug)]
pub struct PortsArgs {
    /// The endpoint
    pub name: String,
    /// [[HOSTIP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp|sctp][,from=CIDR[,CIDR]…]
    #[arg(required = true, value_name = "SPEC")]
    pub ports: Vec<String>,
}

/// Of `publish`.
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// Which ports of which endpoint.
    #[command(flatten)]
    pub which: PortsArgs,
    /// On which hosts of the cluster: the container's own, or every one
    #[arg(long, value_name = "MODE", default_value = "host")]
    pub publish_mode: PublishMode,
}

/// What an endpoint may open to another.
#[derive(Args, Debug)]
pub struct AllowanceArgs {
    /// The endpoint that opens; SRC@NODE if other nodes have one of that name
    #[arg(value_name = "SRC[@NODE]")]
    pub from: String,
    /// To which endpoint, and what of it; everything unless a port is given
    #[arg(value_name = "DST[@NODE][:PORT[/PROTO]]")]
    pub to: String,
}

/// Of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Its name; a random one unless given
    #[arg(long)]
    pub name: Option<String>,
    /// How it is connected.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Leave it running, its output in the run directory's logs
    #[arg(short, long)]
    pub detach: bool,
    /// Remove the endpoint when the command ends
    #[arg(long)]
    pub rm: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Of the hidden starter.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// Path of the network namespace to enter; the host's unless given
    #[arg(long)]
    pub netns: Option<PathBuf>,
    /// Where the files are that say how names are found
    #[arg(long)]
    pub etc: Option<PathBuf>,
    /// File descriptor that a byte comes on when the network is there
    pub go: i32,
    /// File descriptor on which to say why the command could not be started
    pub told: i32,
    /// Begin a session of its own
    #[arg(long)]
    pub session: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Of a listing.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// How to print
    #[arg(long, default_value = "table")]
    pub format: Format,
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
    /// Only those that match
    #[arg(short, long = "filter", value_name = "K=V", value_parser = pair)]
    pub filters: Vec<(String, String)>,
}

/// Of `events`.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// From then on, of those that the daemon still has: RFC 3339, seconds since 1970, or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until then, and no longer
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only of this type, action, network, endpoint or node; several of one key are alternatives
    #[arg(short, long = "filter", value_name = "K=V", value_parser = pair)]
    pub filters: Vec<(String, String)>,
    /// How to print: a line each, as words or as an object
    #[arg(long, default_value = "table")]
    pub format: Format,
}

/// Of `flows`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct FlowsArgs {
    /// What to do with them; to list them where it is not said
    #[command(subcommand)]
    pub task: Option<FlowsTask>,
    /// How to print
    #[arg(long, default_value = "table")]
    pub format: Format,
    /// Only those with this network, container, address or range of addresses, port, protocol or state; several of one key are alternatives
    #[arg(short, long = "filter", value_name = "K=V", value_parser = pair)]
    pub filters: Vec<(String, String)>,
    /// The same without the -f
    #[arg(value_name = "K=V", value_parser = pair)]
    pub more_filters: Vec<(String, String)>,
}

/// What to do with flows.
#[derive(Subcommand, Debug)]
pub enum FlowsTask {
    /// End flows: what is sent on them from then on is as if it were the first packet
    Rm {
        /// Those with this network, container, address or range of addresses, port, protocol or state: several of one key are alternatives, and all keys must hold
        #[arg(value_name = "K=V", value_parser = pair, required = true)]
        filters: Vec<(String, String)>,
    },
}

/// The help of a listing's filters.
fn only_of(keys: &'static str) -> impl Fn(clap::Arg) -> clap::Arg {
    move |filters| filters.help(format!("Only of this {keys}; several of one key are alternatives"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is not KEY=VALUE")?;
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

fn label(text: &str) -> Result<(String, String), String> {
    if text.contains('=') { pair(text) } else { pair(&format!("{text}=")) }
}
