//! What the daemon tells of networks and endpoints, in the shapes that the JSON has.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{is_alive, moment::rfc3339};
use crate::{
    model::{
        Allowance, Endpoint, GatewayMode, Mode, Model, Network, PortPublication, Protocol, PublishMode, Segment,
        Subnet, format_mac,
    },
    plan::there,
    reconcile::HostFacts,
};

/// A network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkView {
    pub name: String,
    pub id: String,
    pub driver: String,
    /// Of a network that spans hosts.
    #[serde(default)]
    pub segment: Option<Segment>,
    pub subnets: Vec<SubnetView>,
    /// What its containers leave as, where that is not the uplink's address.
    #[serde(default)]
    pub snat_ips: Vec<IpAddr>,
    pub internal: bool,
    /// Whether its containers reach one another without an allowance.
    pub icc: bool,
    /// Whether what leaves it does so by the host's address, where its gateway's mode says so.
    pub masquerade: bool,
    pub mtu: u32,
    /// Whether the MTU is that of the host's routes.
    pub mtu_follows: bool,
    pub options: BTreeMap<String, String>,
    pub dns: Vec<IpAddr>,
    /// Who may come to ports that say nothing of it; where it is empty, whom the configuration lets in.
    #[serde(default)]
    pub from: Vec<IpNet>,
    pub labels: BTreeMap<String, String>,
    pub created: String,
    pub endpoints: Vec<String>,
    pub bridge: String,
    pub zone: u16,
}

/// A subnet of a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubnetView {
    pub subnet: IpNet,
    pub gateway: IpAddr,
    /// What its gateway does.
    pub gateway_mode: GatewayMode,
    pub ip_range: Option<IpNet>,
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// An endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointView {
    /// Unique.
    pub name: String,
    /// Unique.
    pub id: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Whether netd's command line made the namespace.
    pub netns_made: bool,
    /// Whose that is: `own`, `host` or `container:NAME`.
    pub mode: String,
    /// `running` or `exited` with the process it stands for; `attached` where none is known; `gone` without its namespace:
    /// [`EndpointView::STATES`].
    pub state: String,
    /// The process it stands for.
    pub pid: Option<u32>,
    /// When that started: clock ticks since the machine did.
    pub pid_started: Option<u64>,
    /// What netd started in it.
    pub command: Vec<String>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// Its places in networks.
    pub networks: Vec<AttachmentView>,
    /// Its published ports, a range as one.
    pub ports: Vec<PortView>,
    /// Who may open what to it, where a network keeps its containers apart.
    #[serde(default)]
    pub allows: Vec<AllowanceView>,
    /// Servers for what is no name of its networks; the networks' or the host's where there are none.
    pub dns: Vec<IpAddr>,
    /// What of the request that this answers is not as its author may think, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// RFC 3339.
    pub created: String,
}

/// An endpoint's place in a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttachmentView {
    pub network: String,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: String,
    pub ifname: String,
    /// More names there.
    pub aliases: Vec<String>,
    /// The way out is by the highest.
    pub gw_priority: i32,
    pub veth: String,
}

/// What an endpoint may open to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AllowanceView {
    pub from: String,
    /// Everything where there is none.
    pub port: Option<u16>,
    pub proto: Option<Protocol>,
}

/// A published port, or `count` consecutive ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortView {
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub port: u16,
    pub count: u16,
    pub proto: Protocol,
    /// Who may come; where it is empty, whom the network lets in.
    pub from: Vec<IpNet>,
    /// What of the host's INPUT chains would deny it from outside, which they do not see.
    #[serde(default)]
    pub input: Option<String>,
    /// On which hosts it is published.
    #[serde(default)]
    pub publish_mode: PublishMode,
}

/// A network as it is told.
pub fn network_view(model: &Model, network: &Network) -> NetworkView {
    NetworkView {
        name: network.name.to_string(),
        id: network.id.clone(),
        driver: network.driver.name().to_owned(),
        segment: network.driver.segment().cloned(),
        subnets: network.subnets.iter().map(subnet_view).collect(),
        snat_ips: network.snat_ips.clone(),
        internal: network.internal,
        icc: !network.no_icc,
        masquerade: !network.no_masquerade,
        mtu: network.mtu,
        mtu_follows: network.mtu_follows,
        options: network.options.clone(),
        dns: network.dns.clone(),
        from: network.from.clone(),
        labels: network.labels.clone(),
        created: rfc3339(network.created),
        endpoints: model.attachments_of(&network.name).map(|(endpoint, _)| endpoint.name.to_string()).collect(),
        bridge: network.bridge().to_string(),
        zone: network.zone,
    }
}

fn subnet_view(subnet: &Subnet) -> SubnetView {
    SubnetView {
        subnet: subnet.subnet,
        gateway: subnet.gateway,
        gateway_mode: subnet.mode(),
        ip_range: subnet.ip_range,
        aux_addresses: subnet.aux_addresses.clone(),
    }
}

/// An endpoint as it is told.
pub fn endpoint_view(endpoint: &Endpoint, facts: &HostFacts) -> EndpointView {
    let networks = endpoint.attachments.iter().map(|attachment| AttachmentView {
        network: attachment.network.to_string(),
        ip: attachment.ip,
        ip6: attachment.ip6,
        mac: format_mac(attachment.mac),
        ifname: attachment.ifname.to_string(),
        aliases: attachment.aliases.iter().map(ToString::to_string).collect(),
        gw_priority: attachment.gw_priority,
        veth: attachment.veth().to_string(),
    });
    EndpointView {
        name: endpoint.name.to_string(),
        id: endpoint.id.clone(),
        netns: endpoint.netns.clone(),
        netns_made: endpoint.netns_made,
        mode: endpoint.mode.to_string(),
        state: state_of(endpoint, facts).to_owned(),
        pid: endpoint.process.as_ref().map(|process| process.pid),
        pid_started: endpoint.process.as_ref().map(|process| process.started),
        command: endpoint.command.clone(),
        labels: endpoint.labels.clone(),
        networks: networks.collect(),
        ports: endpoint.publications.iter().map(|publication| port_view(publication, facts)).collect(),
        allows: endpoint.allows.iter().map(allowance_view).collect(),
        dns: endpoint.dns.clone(),
        warnings: Vec::new(),
        created: rfc3339(endpoint.created),
    }
}

impl EndpointView {
    /// What an endpoint can be.
    pub const STATES: [&str; 4] = ["attached", "running", "exited", "gone"];
}

fn state_of(endpoint: &Endpoint, facts: &HostFacts) -> &'static str {
    match &endpoint.process {
        Some(process) if is_alive(process) => "running",
        _ if endpoint.mode == Mode::Host => "exited",
        _ if there(endpoint, facts).is_none() => "gone",
        Some(_) => "exited",
        None => "attached",
    }
}

fn allowance_view(allowance: &Allowance) -> AllowanceView {
    let (port, proto) = allowance.port.unzip();
    AllowanceView { from: allowance.from.to_string(), port, proto }
}

fn port_view(publication: &PortPublication, facts: &HostFacts) -> PortView {
    let PortPublication { host_ip, direct, host_port, port, count, protocol, from, mesh } = publication.clone();
    let publish_mode = if mesh { PublishMode::Mesh } else { PublishMode::Host };
    let uplinks = facts.uplinks.keys().map(ToString::to_string);
    let denial = || facts.firewall.denial_at_input(uplinks, host_ip, protocol.number(), host_port);
    let input = if direct || host_ip.is_loopback() { None } else { denial() };
    PortView { host_ip, host_port, port, count, proto: protocol, from, input, publish_mode }
}
