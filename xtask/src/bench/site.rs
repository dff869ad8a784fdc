//! Contenders, the paths that packets take, and the site of one contender: a host, containers, and a client outside.
//!
//! ```text
//! outside 192.0.2.2 ── eth0 192.0.2.1  host  ── web (serves), app
//! ```

use std::{
    any::Any,
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    sync::Arc,
};

use anyhow::{Context, Result};
use netd_tests::lab::{Container, Host, Lab, Netd, Node, Offloads};

use super::{
    contenders, docker, floor,
    load::Ends,
    overlay, peers,
    server::{PORT, Server},
};

/// The host's address towards the client outside.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The client outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The host's port that leads to the container `web`.
pub const PUBLISHED: u16 = 8000;
/// The subnet of containers.
pub const SUBNET: &str = "10.88.0.0/24";
/// The bridge's address in it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The container that serves.
pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
/// The container that asks.
pub const APP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);

/// Who connects containers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Contender {
    /// Nobody: one veth pair between client and server, which is the limit
    Veth,
    /// Two programs that redirect and do nothing else
    Redirect,
    /// The same two, which besides look each packet's flow up and put two entries for each new one, in a hash of the kernel's
    Tracking,
    /// This project
    Netd,
    /// The same with `--endpoint-attach tcx`, where devices of containers are on the way alone, and what they take to come and to go
    NetdTcx,
    /// A Linux bridge, container to container only
    Bridge,
    /// A Linux bridge with the rules that Docker writes
    Iptables,
    /// The CNI plugins bridge, host-local and portmap
    Cni,
    /// Podman's netavark
    Netavark,
    /// Docker's engine, with --engines
    Docker,
    /// A bridge with a VXLAN device on each of two hosts, overlay only
    Vxlan,
}

impl Contender {
    /// All, in the order of every table.
    pub const ALL: [Self; 11] = [
        Self::Veth,
        Self::Redirect,
        Self::Tracking,
        Self::Netd,
        Self::NetdTcx,
        Self::Bridge,
        Self::Iptables,
        Self::Cni,
        Self::Netavark,
        Self::Docker,
        Self::Vxlan,
    ];
    /// Those that netd is compared with, the limit and what cannot be beaten aside.
    pub const PEERS: [Self; 6] = [Self::Bridge, Self::Iptables, Self::Cni, Self::Netavark, Self::Docker, Self::Vxlan];

    /// Its name in commands, tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Redirect => "redirect",
            Self::Tracking => "tracking",
            Self::Netd => "netd",
            Self::NetdTcx => "netd-tcx",
            Self::Bridge => "bridge",
            Self::Iptables => "iptables",
            Self::Cni => "cni",
            Self::Netavark => "netavark",
            Self::Docker => "docker",
            Self::Vxlan => "vxlan",
        }
    }

    /// Whether it can take this path at all.
    pub fn takes(self, path: Path) -> bool {
        match self {
            Self::Veth | Self::Netd | Self::Docker => true,
            Self::Redirect | Self::Tracking => path == Path::Masquerade || path == Path::Published,
            Self::NetdTcx => path == Path::ContainerToContainer || path == Path::Host,
            Self::Bridge => path == Path::ContainerToContainer,
            Self::Iptables | Self::Cni | Self::Netavark => path != Path::Overlay,
            Self::Vxlan => path == Path::Overlay,
        }
    }

    /// Whether packets keep their addresses and ports on paths where others translate them.
    const fn translates_nothing(self) -> bool {
        matches!(self, Self::Redirect | Self::Tracking)
    }
}

/// The way of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Path {
    /// From a container to another one of its network
    #[value(name = "c2c")]
    ContainerToContainer,
    /// From a container to the client outside, with the host's address
    Masquerade,
    /// From the client outside to a published port
    Published,
    /// From the host itself to a port published on its address
    Host,
    /// From the host itself to the same port on 127.0.0.1
    Loopback,
    /// From a container to a port that another one of its network has published on the host's address
    Hairpin,
    /// From a container to another one of its network on another host
    Overlay,
}

impl Path {
    /// All, in the order of every table.
    pub const ALL: [Self; 7] = [
        Self::ContainerToContainer,
        Self::Masquerade,
        Self::Published,
        Self::Host,
        Self::Loopback,
        Self::Hairpin,
        Self::Overlay,
    ];

    /// Whether the host itself dials, past its bridge.
    pub const fn is_from_host(self) -> bool {
        matches!(self, Self::Host | Self::Loopback)
    }

    /// Its name in commands, tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContainerToContainer => "c2c",
            Self::Masquerade => "masquerade",
            Self::Published => "published",
            Self::Host => "host",
            Self::Loopback => "loopback",
            Self::Hairpin => "hairpin",
            Self::Overlay => "overlay",
        }
    }
}

/// Programs that have to live as long as what they serve: daemons, proxies.
pub type Companions = Vec<Box<dyn Any>>;

/// Where a contender is measured. Everything in it ends with it; fields go in the order they end.
pub struct Site {
    /// Whose.
    pub contender: Contender,
    /// Its paths.
    pub paths: BTreeMap<Path, Ends>,
    /// The daemons of its hosts, if it is netd's.
    pub netds: Vec<Netd>,
    _companions: Companions,
    _links: Vec<OwnedFd>,
    /// Its host.
    _host: Host,
    _lab: Lab,
}

impl Site {
    /// Those of a contender for these paths, servers included: one host has them all, but that between two hosts.
    pub fn of_contender(contender: Contender, paths: &[Path]) -> Result<Vec<Self>> {
        let taken: Vec<_> = paths.iter().filter(|path| contender.takes(**path)).collect();
        // The limit is the same everywhere.
        let far = |path: &Path| *path == Path::Overlay && contender != Contender::Veth;
        let mut sites = Vec::new();
        if taken.iter().any(|path| !far(path)) {
            sites.push(Self::on_one_host(contender)?);
        }
        if taken.iter().any(|path| far(path)) {
            sites.push(
                overlay::site(contender)
                    .with_context(|| format!("cannot lay out two hosts of {}", contender.name()))?,
            );
        }
        Ok(sites)
    }

    /// One without a daemon or others of its kind.
    pub fn of(contender: Contender, paths: impl IntoIterator<Item = (Path, Ends)>, host: Host, lab: Lab) -> Self {
        let paths = paths.into_iter().collect();
        Self {
            contender,
            paths,
            netds: Vec::new(),
            _companions: Vec::new(),
            _links: Vec::new(),
            _host: host,
            _lab: lab,
        }
    }

    /// With daemons whose programs are counted.
    pub fn with_netds(self, netds: Vec<Netd>) -> Self {
        Self { netds, ..self }
    }

    /// With programs that it needs.
    pub fn with_companions(self, companions: Companions) -> Self {
        Self { _companions: companions, ..self }
    }

    /// Waits until netd has done what can wait after what it was asked for.
    pub fn settle(&self) -> Result<()> {
        self.netds.iter().try_for_each(contenders::settle)
    }

    fn on_one_host(contender: Contender) -> Result<Self> {
        let lay = || -> Result<Self> {
            let lab = Lab::new();
            let host = lab.host(contender.name());
            if contender == Contender::Veth {
                return limit(lab, host);
            }
            let outside = lab.host("outside");
            lab.wire(Offloads::On).from(&host, "eth0", &format!("{HOST}/24")).to(
                &outside,
                "eth0",
                &format!("{OUTSIDE}/24"),
            );
            let (furnished, links) = if contender.translates_nothing() {
                floor::furnish(&host, &outside, contender == Contender::Tracking)?
            } else {
                (furnished(contender, &host)?, Vec::new())
            };
            let paths = paths(contender, &furnished, &host, &outside)?;
            let Furnished { netd, companions, .. } = furnished;
            let netds = netd.into_iter().collect();
            Ok(Self { netds, _companions: companions, _links: links, ..Self::of(contender, paths, host, lab) })
        };
        lay().with_context(|| format!("cannot lay out the site of {}", contender.name()))
    }
}

/// What a contender has made of a host.
pub struct Furnished {
    /// The container that serves.
    pub web: Container,
    /// Its address.
    pub web_address: Ipv4Addr,
    /// The container that asks.
    pub app: Container,
    /// What serves them: proxies of its ports, an engine.
    pub companions: Companions,
    /// The daemon, if it is netd.
    pub netd: Option<Netd>,
}

impl Furnished {
    /// Containers with the addresses of this module.
    pub fn by_hand(web: Container, app: Container) -> Self {
        Self { web, web_address: WEB, app, companions: Vec::new(), netd: None }
    }
}

fn furnished(contender: Contender, host: &Host) -> Result<Furnished> {
    match contender {
        Contender::Netd => contenders::netd(host, &[]),
        Contender::NetdTcx => contenders::netd(host, &contenders::TCX),
        Contender::Iptables => contenders::docker_like(host),
        Contender::Cni => peers::cni(host),
        Contender::Netavark => peers::netavark(host),
        Contender::Docker => docker::furnish(host),
        Contender::Veth | Contender::Redirect | Contender::Tracking | Contender::Bridge | Contender::Vxlan => {
            Ok(contenders::bridge(host))
        }
    }
}

fn paths(contender: Contender, furnished: &Furnished, host: &Host, outside: &Host) -> Result<BTreeMap<Path, Ends>> {
    let (web, app, host): (&Node, &Node, &Node) = (&furnished.web, &furnished.app, host);
    widen_ports(app)?;
    widen_ports(outside)?;
    // The host's own range stays: whose port masquerade may keep depends on it.
    give_ports_again(host)?;
    let [in_web, at_outside] = [web, outside].map(|node| Server::new(node).map(Arc::new));
    let (in_web, at_outside) = (in_web?, at_outside?);
    let ends = |client: &Node, server: &Arc<Server>, address, port| Ends {
        client: client.clone(),
        apart: false,
        to: SocketAddrV4::new(address, port),
        server: Arc::clone(server),
    };
    // Where nothing is translated, the client outside knows the container's address.
    let published = if contender.translates_nothing() {
        ends(outside, &in_web, furnished.web_address, PORT)
    } else {
        ends(outside, &in_web, HOST, PUBLISHED)
    };
    // What a process of the host does is told by its control group.
    let by_host = |address| Ends { apart: true, ..ends(host, &in_web, address, PUBLISHED) };
    let all = [
        (Path::Host, by_host(HOST)),
        (Path::Loopback, by_host(Ipv4Addr::LOCALHOST)),
        (Path::Hairpin, ends(app, &in_web, HOST, PUBLISHED)),
        (Path::ContainerToContainer, ends(app, &in_web, furnished.web_address, PORT)),
        (Path::Masquerade, ends(app, &at_outside, OUTSIDE, PORT)),
        (Path::Published, published),
    ];
    Ok(all.into_iter().filter(|(path, _)| contender.takes(*path)).collect())
}

/// Two hosts and one wire, which every path of the others is compared with.
fn limit(lab: Lab, host: Host) -> Result<Site> {
    let server = lab.host("outside");
    lab.wire(Offloads::On).from(&host, "eth0", &format!("{HOST}/24")).to(&server, "eth0", &format!("{OUTSIDE}/24"));
    widen_ports(&host)?;
    let node: &Node = &host;
    let ends = Ends {
        client: node.clone(),
        apart: false,
        to: SocketAddrV4::new(OUTSIDE, PORT),
        server: Arc::new(Server::new(&server)?),
    };
    let apart = |path| path == Path::Host || path == Path::Loopback;
    let paths = Path::ALL.map(|path| (path, Ends { apart: apart(path), ..ends.clone() }));
    Ok(Site::of(Contender::Veth, paths, host, lab))
}

/// Ports of closed connections rest for a minute. A client that has few would wait for them, and hide what is measured.
pub fn widen_ports(client: &Node) -> Result<()> {
    set(client, "ip_local_port_range", "1024 65535")?;
    give_ports_again(client)
}

/// Those that rest are given to a later connection after a second.
fn give_ports_again(client: &Node) -> Result<()> {
    set(client, "tcp_tw_reuse", "1")
}

fn set(node: &Node, name: &str, value: &str) -> Result<()> {
    let file = format!("/proc/sys/net/ipv4/{name}");
    node.enter(|| fs::write(file, value)).with_context(|| format!("cannot set {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_bridge_is_measured_between_containers_only() {
        for path in Path::ALL {
            let takes: Vec<_> = Contender::ALL.into_iter().filter(|contender| !contender.takes(path)).collect();
            let bridge_stays_away = takes.contains(&Contender::Bridge);
            assert_eq!(bridge_stays_away, path != Path::ContainerToContainer, "{path:?}");
            assert!(!takes.contains(&Contender::Veth), "{path:?}");
        }
    }

    #[test]
    fn names_in_tables_are_those_of_the_command_line() {
        use clap::ValueEnum;
        for contender in Contender::ALL {
            assert_eq!(Contender::from_str(contender.name(), false), Ok(contender));
        }
        for path in Path::ALL {
            assert_eq!(Path::from_str(path.name(), false), Ok(path));
        }
    }
}
