//! The words of several hosts.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};

use super::{Format, ListArgs, only_of};

/// Of a daemon among others.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    /// This host's name among the nodes; its own unless given or configured
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The address by which the other nodes reach this one
    #[arg(long, value_name = "IP")]
    pub vtep: Option<IpAddr>,
    /// UDP port of the tunnels between nodes; 4789 unless given or configured
    #[arg(long, value_name = "P")]
    pub vxlan_port: Option<u16>,
    /// A member of the etcd that the nodes share, once for each
    #[arg(long = "etcd", value_name = "URL")]
    pub etcd: Vec<String>,
    /// Certificate of who signed etcd's own, as PEM
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// This host's certificate for etcd, as PEM
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// The key of that certificate, as PEM
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// Who this host is for etcd
    #[arg(long, value_name = "USER")]
    pub etcd_user: Option<String>,
    /// A file whose first line is that user's password
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
}

/// What to do with nodes.
#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List nodes
    #[command(mut_arg("filters", only_of("name or state")))]
    Ls(ListArgs),
    /// Show nodes as JSON
    Inspect {
        /// The nodes
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let nodes take no more endpoints of networks of several hosts
    Drain {
        /// Let them take some again
        #[arg(long)]
        undo: bool,
        /// The nodes
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Forget nodes that are down: the addresses of their endpoints are free again
    Rm {
        /// The nodes
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// What to do with networks of several hosts.
#[derive(Subcommand, Debug)]
pub enum OverlayCommand {
    /// Ask every node where it sends packets, whom it lets in and what it publishes, and say what is not as etcd says; exit 1 if
    /// something is not. What a node keeps of others that are not back yet is said too, and is no difference
    Verify {
        /// How to print
        #[arg(long, default_value = "table")]
        format: Format,
    },
    /// Change the keys of encrypted networks, while traffic flows; they change by themselves once a day
    Rekey,
}

/// Of `ps`.
#[derive(Args, Debug)]
pub struct PsArgs {
    /// Those of every node of the cluster
    #[arg(long)]
    pub all_nodes: bool,
    /// How they are listed.
    #[command(flatten)]
    pub list: ListArgs,
}
