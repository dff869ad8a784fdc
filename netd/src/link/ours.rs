//! Devices, and which of them are ours: the prefix of a name is not enough, nor is an alias.

use netd_common::tuple::Mac;
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage,
};

use super::{GROUP, PREFIX};
use crate::reconcile::LinkName;

/// Whose a link of ours is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The bridge of a network.
    Network(String),
    /// A side of what joins a further bridge of a network to its first.
    Join {
        /// The network, and the further bridge's number.
        of: String,
        /// Whether it is the side at the further one.
        far: bool,
    },
    /// The host's side of an endpoint's veth pair.
    Endpoint(String),
    /// The VXLAN device of a UDP port.
    Tunnel(u16),
}

impl Owner {
    const NETWORK: &str = "netd network ";
    const JOIN: &str = "netd join ";
    const FAR: &str = " far";
    const ENDPOINT: &str = "netd endpoint ";
    const TUNNEL: &str = "netd tunnel ";

    /// The `ifalias` that says so.
    pub fn alias(&self) -> String {
        match self {
            Self::Network(owner) => format!("{}{owner}", Self::NETWORK),
            Self::Join { of, far } => format!("{}{of}{}", Self::JOIN, if *far { Self::FAR } else { "" }),
            Self::Endpoint(owner) => format!("{}{owner}", Self::ENDPOINT),
            Self::Tunnel(port) => format!("{}{port}", Self::TUNNEL),
        }
    }

    fn of(alias: &str) -> Option<Self> {
        let network = || alias.strip_prefix(Self::NETWORK).map(|owner| Self::Network(owner.to_owned()));
        let endpoint = || alias.strip_prefix(Self::ENDPOINT).map(|owner| Self::Endpoint(owner.to_owned()));
        let join = || {
            let of = alias.strip_prefix(Self::JOIN)?;
            let far = of.strip_suffix(Self::FAR);
            Some(Self::Join { of: far.unwrap_or(of).to_owned(), far: far.is_some() })
        };
        let tunnel = || alias.strip_prefix(Self::TUNNEL)?.parse().ok().map(Self::Tunnel);
        network().or_else(endpoint).or_else(join).or_else(tunnel)
    }

    fn kind(&self) -> InfoKind {
        match self {
            Self::Network(_) => InfoKind::Bridge,
            Self::Endpoint(_) | Self::Join { .. } => InfoKind::Veth,
            Self::Tunnel(_) => InfoKind::Vxlan,
        }
    }
}

/// An owner as messages name it.
pub fn quoted(owner: &Owner) -> String {
    match owner {
        Owner::Network(name) => format!("network {name}"),
        Owner::Join { of, .. } => format!("join of network {of}"),
        Owner::Endpoint(name) => format!("endpoint {name}"),
        Owner::Tunnel(port) => format!("tunnel of UDP port {port}"),
    }
}

/// A link that has the name of one to be made.
pub enum Existing {
    /// There is none.
    None,
    /// It is the very one.
    Ours(Box<Link>),
}

/// What a link is to an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// The owner's.
    Ours,
    /// Ours, of a creation that was cut off.
    HalfMade,
    /// Another's.
    Foreign,
}

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub index: u32,
    /// The one that netd gave it, where that is known.
    pub name: LinkName,
    /// The one that it has, where that is another.
    pub renamed: Option<LinkName>,
    pub alias: Option<String>,
    pub kind: Option<InfoKind>,
    pub group: u32,
    pub mac: Mac,
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
    /// Whether its packets have no link-layer header.
    pub layer3: bool,
    pub master: Option<u32>,
    /// Index of a veth's other side, in the namespace where that is.
    pub peer: Option<u32>,
    /// Number of that namespace, if it is another.
    pub peer_namespace: Option<i32>,
    /// UDP port of a VXLAN device.
    pub vxlan_port: Option<u16>,
    /// Whether it is a port between which and other such ports its bridge lets nothing through.
    pub apart: bool,
    /// Whether it is a port that gets what is for nobody its bridge knows.
    pub floods: bool,
    /// Whether its options as a bridge, as a port of one, or as a VXLAN device are those of ours. Of any other device, they are.
    pub options_hold: bool,
}

impl Link {
    /// Whose it is, if it is marked as ours in both ways.
    pub fn owner(&self) -> Option<Owner> {
        if !self.name.as_str().starts_with(PREFIX) {
            return None;
        }
        let owner = Owner::of(self.alias.as_deref()?)?;
        (self.kind.as_ref() == Some(&owner.kind())).then_some(owner)
    }

    /// Whether it was made by us and never got its alias.
    pub fn is_half_made(&self) -> bool {
        let kind = matches!(self.kind, Some(InfoKind::Bridge | InfoKind::Veth | InfoKind::Vxlan));
        kind && self.name.as_str().starts_with(PREFIX) && self.alias.is_none() && self.group == GROUP && !self.up
    }

    /// Whether it is marked as ours but for its name. That says little: another may have marks alike.
    pub fn is_ours_but_for_its_name(&self) -> bool {
        let owner = self.alias.as_deref().and_then(Owner::of);
        owner.is_some_and(|owner| self.kind == Some(owner.kind())) && self.group == GROUP
    }

    /// Whether it is marked as the owner's and has a name that none of ours has.
    fn is_ours_by_another_name(&self, owner: &Owner) -> bool {
        let marked = self.alias.as_deref() == Some(owner.alias().as_str()) && self.is_ours_but_for_its_name();
        marked && !self.name.as_str().starts_with(PREFIX)
    }

    /// The name that it has by now, if it is the owner's device of this name and has another.
    pub fn goes_for(&self, name: &LinkName, owner: &Owner) -> Option<LinkName> {
        if self.is_ours_by_another_name(owner) {
            return Some(self.name.clone());
        }
        self.renamed.clone().filter(|_| self.name == *name && self.owner().as_ref() == Some(owner))
    }

    /// What it is to `owner`.
    pub fn fit(&self, owner: &Owner) -> Fit {
        if self.owner().as_ref() == Some(owner) {
            return Fit::Ours;
        }
        if self.is_half_made() { Fit::HalfMade } else { Fit::Foreign }
    }

    /// The device that a message of the kernel tells of.
    pub fn of(message: LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            name: LinkName::new("?")?,
            renamed: None,
            alias: None,
            kind: None,
            group: 0,
            mac: Mac::default(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            layer3: is_layer3(message.header.link_layer_type),
            master: None,
            peer: None,
            peer_namespace: None,
            vxlan_port: None,
            apart: false,
            floods: false,
            options_hold: true,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = LinkName::new(name)?,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().map(Mac).unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(number),
                LinkAttribute::LinkInfo(infos) => {
                    link.options_hold = infos.iter().all(holds);
                    link.vxlan_port = infos.iter().find_map(vxlan_port);
                    link.apart = infos.iter().any(keeps_apart);
                    link.floods = infos.iter().any(floods);
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// Whether devices of this type send and receive packets from the IP header on, to programs too (`dev_is_mac_header_xmit` in
/// linux/if_arp.h, and PPP, whose two bytes the driver keeps to itself).
const fn is_layer3(kind: LinkLayerType) -> bool {
    use LinkLayerType as Type;
    matches!(
        kind,
        Type::None | Type::Rawip | Type::Ppp | Type::Tunnel | Type::Tunnel6 | Type::Sit | Type::Ipgre | Type::Ip6gre
    )
}

fn keeps_apart(info: &LinkInfo) -> bool {
    let LinkInfo::PortData(InfoPortData::BridgePort(options)) = info else { return false };
    options.iter().any(|option| matches!(option, InfoBridgePort::Isolated(true)))
}

fn floods(info: &LinkInfo) -> bool {
    let LinkInfo::PortData(InfoPortData::BridgePort(options)) = info else { return false };
    options.iter().any(|option| matches!(option, InfoBridgePort::UnicastFlood(true)))
}

/// A bridge of ours is no part of a tree and asks nobody who listens to what; its ports learn nothing. A VXLAN device of ours takes each packet's
/// VNI from a program, and learns nothing either.
fn holds(info: &LinkInfo) -> bool {
    match info {
        LinkInfo::Data(InfoData::Bridge(options)) => options.iter().all(|option| match option {
            InfoBridge::StpState(state) => *state == BridgeStpState::Disabled,
            InfoBridge::MulticastSnooping(on) => !on,
            _ => true,
        }),
        LinkInfo::Data(InfoData::Vxlan(options)) => {
            options.contains(&InfoVxlan::CollectMetadata(true)) && !options.contains(&InfoVxlan::Learning(true))
        }
        LinkInfo::PortData(InfoPortData::BridgePort(options)) => options.iter().all(|option| match option {
            InfoBridgePort::Learning(on) => !on,
            _ => true,
        }),
        _ => true,
    }
}

fn vxlan_port(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vxlan(options)) = info else { return None };
    options.iter().find_map(|option| match option {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    })
}
