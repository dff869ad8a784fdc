//! The words of `netd network …`.

use clap::{Args, Subcommand};

use super::{ListArgs, label, only_of, pair};

/// Of networks.
#[derive(Subcommand, Debug)]
pub enum NetworkCommand {
    /// Make a network
    Create(Box<NetworkCreateArgs>),
    /// List networks
    #[command(
        visible_alias = "list",
        mut_arg(
            "filters",
            only_of("name, id, driver, endpoint or internal (true or false), or with all these labels")
        )
    )]
    Ls(ListArgs),
    /// Show networks as JSON
    Inspect {
        /// The networks
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm {
        /// Do not mind one that does not exist
        #[arg(short, long)]
        force: bool,
        /// The networks
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Change a network while it lives
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["mtu", "from"]))]
    Set {
        /// The network
        name: String,
        /// In bytes, or `auto` for what the host's routes have
        #[arg(long, value_name = "N|auto", value_parser = mtu)]
        mtu: Option<Mtu>,
        /// Who may come to published ports that say nothing of it, from now on; `default` for whom the configuration lets in
        #[arg(long, value_name = "CIDR|default", value_delimiter = ',')]
        from: Vec<String>,
    },
    /// Give a network other addresses
    Renumber {
        /// The network
        name: String,
        /// Its addresses from then on; free ones unless given
        #[arg(long = "subnet", value_name = "CIDR")]
        subnets: Vec<String>,
        /// Give everybody in it another address too: what they have open ends
        #[arg(long)]
        recreate: bool,
        /// Insist on a subnet that the host uses
        #[arg(long)]
        force: bool,
    },
    /// Remove every network that nobody is in, but for `bridge`
    Prune {
        /// Only those with this label: label=KEY or label=KEY=VALUE
        #[arg(long = "filter", value_name = "K=V", value_parser = pair)]
        filters: Vec<(String, String)>,
        /// Nothing is asked, with it or without
        #[arg(short, long, hide = true)]
        force: bool,
    },
    /// Have an endpoint join one more network
    Connect(ConnectArgs),
    /// Have an endpoint leave a network
    Disconnect {
        /// The network
        #[arg(value_name = "NET")]
        network: String,
        /// The endpoint
        endpoint: String,
    },
}

/// Of an endpoint that joins a network.
#[derive(Args, Debug)]
pub struct ConnectArgs {
    /// The address to have there; a free one unless given
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// The IPv6 address to have there; a free one unless given
    #[arg(long, value_name = "IP")]
    pub ip6: Option<String>,
    /// One more name there
    #[arg(long = "alias", value_name = "NAME")]
    pub aliases: Vec<String>,
    /// Of several networks the one with the highest is the way out; 0 unless given
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub gw_priority: Option<i32>,
    /// The network, or a NETSPEC
    #[arg(value_name = "NET")]
    pub network: String,
    /// The endpoint
    pub endpoint: String,
}

/// Of a network to be made.
#[derive(Args, Debug)]
pub struct NetworkCreateArgs {
    /// Its name
    pub name: String,
    /// What it is made of
    #[arg(short, long, default_value = "bridge", value_parser = ["bridge", "overlay", "vxlan"])]
    pub driver: String,
    /// Of driver vxlan: the number of the segment, 1 to 16777215
    #[arg(long, value_name = "N")]
    pub vni: Option<u32>,
    /// Of driver vxlan: the address of another host in the segment, once for each
    #[arg(long = "peer", value_name = "IP")]
    pub peers: Vec<String>,
    /// Of driver vxlan: the UDP port; 4789 unless given
    #[arg(long, value_name = "P")]
    pub vxlan_port: Option<u16>,
    /// Of driver overlay: what goes between nodes is encrypted (IPsec ESP)
    #[arg(long)]
    pub encrypted: bool,
    /// Its addresses, IPv4 or IPv6, once for each; a free /24 of 10.176.0.0/12 unless given
    #[arg(long = "subnet", value_name = "CIDR")]
    pub subnets: Vec<String>,
    /// Both IPv4 and IPv6; a free /64 of this host's unique local addresses unless an IPv6 subnet is given
    #[arg(long)]
    pub ipv6: bool,
    /// The host's address in a subnet; the first unless given
    #[arg(long = "gateway", value_name = "IP")]
    pub gateways: Vec<String>,
    /// Where automatic addresses of a subnet come from
    #[arg(long = "ip-range", value_name = "CIDR")]
    pub ip_ranges: Vec<String>,
    /// An address never to give out
    #[arg(long = "aux-address", value_name = "NAME=IP", value_parser = pair)]
    pub aux_addresses: Vec<(String, String)>,
    /// What its containers leave as; the uplink's own address unless given
    #[arg(long = "snat-ip", value_name = "IP")]
    pub snat_ips: Vec<String>,
    /// No way out, and none in
    #[arg(long)]
    pub internal: bool,
    /// What its gateway does: nat, nat-unprotected, routed or isolated; of one family with ipv4= or ipv6= before it. nat unless
    /// given, but routed for global IPv6 addresses
    #[arg(long = "gateway-mode", value_name = "[FAMILY=]MODE")]
    pub gateway_modes: Vec<String>,
    /// Its containers reach one another only as `allow` says
    #[arg(long)]
    pub no_icc: bool,
    /// What leaves it keeps its address
    #[arg(long)]
    pub no_masquerade: bool,
    /// In bytes; what the host's routes have, and following them, unless given
    #[arg(long, value_name = "N")]
    pub mtu: Option<u32>,
    /// As Docker's bridge driver has them: com.docker.network.driver.mtu=N and others
    #[arg(short, long = "opt", value_name = "K=V", value_parser = label)]
    pub options: Vec<(String, String)>,
    /// A DNS server for what is no container's name; the host's unless given
    #[arg(long = "dns", value_name = "IP")]
    pub dns: Vec<String>,
    /// Who may come to its containers' published ports that say nothing of it; everybody unless given or configured
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub from: Vec<String>,
    /// Yours to choose
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Insist on a subnet that the host uses or, of driver overlay, another node; one whose own network has it has no part in this one
    #[arg(long)]
    pub force: bool,
}

/// An MTU or the word for the host's.
#[derive(Clone, Copy, Debug)]
pub struct Mtu(pub Option<u32>);

fn mtu(text: &str) -> Result<Mtu, String> {
    if text == "auto" {
        return Ok(Mtu(None));
    }
    text.parse().map(|mtu| Mtu(Some(mtu))).map_err(|_| "it is neither `auto` nor a number of bytes".to_owned())
}
