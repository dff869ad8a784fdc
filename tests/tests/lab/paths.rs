//! Ways with a narrow link on them, and ways that are looked at hop by hop: what routers say about a container's packets reaches
//! it, and what the host says about them is said by the gateway.
//!
//! ```text
//! host 192.0.2.1 ── internet ══ narrow, 1300 bytes ══ beyond ── far 198.18.1.2
//! ```

use std::{io, net::IpAddr, os::fd::AsRawFd};

use netd_tests::lab::{Container, Host, NetdOptions, Node, Offloads, traffic::PATIENCE};
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt},
};

use crate::{
    says,
    town::{HOST, NEIGHBOUR, Town, wait_until},
};

const HOST6: &str = "2001:db8:1::1";
const SECOND: &str = "192.0.2.50/24";
const SECOND6: &str = "2001:db8:1::50/64";
const NEIGHBOUR6: &str = "2001:db8:1::2";
const FAR: &str = "198.18.1.2";
const FAR6: &str = "2001:db8:f1::2";

#[test]
fn a_container_that_sends_learns_of_a_narrow_link_beyond_its_host() {
    for kind in Offloads::BOTH {
        let play = Play::new(kind);
        let (app, server) = (play.container("app", &[]), play.far.serve_bulk(9000));

        for far in [FAR, FAR6] {
            assert_eq!(way_mtu(&app, far), None, "{far}");
            app.transfers(&at(far, 9000), 500_000);
            assert_eq!(way_mtu(&app, far), Some(1300), "{far}");
        }
        assert!(server.peers().iter().all(|peer| [HOST, HOST6].contains(&peer.to_string().as_str())));
        play.town.lab.assert_no_checksum_errors();
    }
}

#[test]
fn so_does_one_that_answers_at_a_published_port() {
    for kind in Offloads::BOTH {
        let play = Play::new(kind);
        let web = play.container("web", &["9000:9000"]);
        let server = web.serve_bulk(9000);

        for (host, far) in [(HOST, FAR), (HOST6, FAR6)] {
            play.far.transfers(&at(host, 9000), 500_000);
            assert_eq!(way_mtu(&web, far), Some(1300), "{far}");
        }
        assert!(server.peers().iter().all(|peer| [FAR, FAR6].contains(&peer.to_string().as_str())));
        play.town.lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_client_outside_learns_that_the_network_of_a_published_port_is_narrower_than_its_way() {
    for kind in Offloads::BOTH {
        let play = Play::new(kind);
        play.town.netd.say("network create slim --ipv6 --mtu 1280").ok();
        let web = play.town.container("web", "slim", &["9000:9000", "8007:7/udp"]);
        let (server, echo) = (web.serve_bulk(9000), web.echo_udp(7));
        // The container says that it takes segments as large as the wire does, as one does that a tunnel begins in.
        announces_large_segments(&web);

        for (host, far) in [(HOST, FAR), (HOST6, FAR6)] {
            assert_eq!(way_mtu(&play.far, host), None, "{host}");
            play.far.transfers(&at(host, 9000), 500_000);
            assert_eq!(way_mtu(&play.far, host), Some(1280), "{host}");
            assert_eq!(play.far.asks_udp(&at(host, 8007), 3, 1400, PATIENCE), 3, "datagrams to {host} come in parts");
            assert!(server.peers().iter().any(|peer| peer.to_string() == far));
        }
        assert!(echo.peers().iter().all(|peer| [FAR, FAR6].contains(&peer.to_string().as_str())));
        play.town.lab.assert_no_checksum_errors();
    }
}

#[test]
fn where_the_uplink_is_narrower_than_the_network_the_gateway_says_so() {
    for kind in Offloads::BOTH {
        let play = Play::new(kind);
        let server = play.far.serve_bulk(9000);
        for (node, device) in [(&play.town.host, "eth0"), (&play.town.internet, "eth0")] {
            node.ip(&format!("link set {device} mtu 1290"));
        }

        // What it has learned of the way back itself does not have its next peers send less.
        announces_large_segments(&play.far);

        learns_of_its_gateway(&play, &play.container("app", &[]));
        // So it is where the host's firewall is asked.
        let rules = "table inet guard { chain forward { type filter hook forward priority 0; counter; }; }";
        play.town.host.run(["nft", rules]).ok();
        let firewall = || play.town.netd.json("status")["firewall"].clone();
        wait_until("the rules are seen", || firewall()["shown"] == true);
        let before = says::number(&firewall(), "/by_stack");
        learns_of_its_gateway(&play, &play.container("asked", &[]));

        assert!(says::number(&firewall(), "/by_stack") > before);
        assert!(server.peers().iter().all(|peer| [HOST, HOST6].contains(&peer.to_string().as_str())));
        play.town.lab.assert_no_checksum_errors();
    }
}

/// A container that sends more than the uplink takes is told so by its gateway, and nobody else, and what it sends arrives.
#[track_caller]
fn learns_of_its_gateway(play: &Play, app: &Container) {
    let network = says::inspected(&play.town.netd, "network inspect blue");
    let heard = Overheard::by(app);
    for (i, far) in [FAR, FAR6].into_iter().enumerate() {
        app.transfers(&at(far, 9000), 500_000);
        let said = heard.too_big();
        assert_eq!(way_mtu(app, far), Some(1290), "{far}");
        let gateway: IpAddr = says::text(&network, &format!("/subnets/{i}/gateway")).parse().expect("an address");
        let mac = gateway_mac(app, gateway);
        assert!(said.contains(&(mac, gateway, 1290)), "{gateway} at {mac:02x?} says 1290: {said:02x?}");
        assert!(said.iter().all(|(by, from, mtu)| (*by, *from, *mtu) == (mac, gateway, 1290)), "{said:02x?}");
    }
}

#[test]
fn the_gateway_is_hop_one_and_every_router_is_named() {
    let play = Play::new(Offloads::Off);
    // Of the host's addresses its kernel speaks as the first of IPv4, and as the last that came of IPv6.
    for second in [SECOND, SECOND6] {
        play.town.host.ip(&format!("address add {second} dev eth0 nodad"));
    }
    let app = play.container("app", &["8009:9/udp"]);
    let network = says::inspected(&play.town.netd, "network inspect blue");
    let gateway = |i| says::text(&network, &format!("/subnets/{i}/gateway"));
    let hops = |node: &Node, target: &str| -> Vec<String> {
        let hops = node.traces(target, PATIENCE);
        hops.into_iter().map(|hop| hop.map_or("-".to_owned(), |hop| hop.to_string())).collect()
    };

    assert_eq!(hops(&app, &at(FAR, 33_434)), [&gateway(0), NEIGHBOUR, "198.18.0.2", FAR]);
    assert_eq!(hops(&app, &at(FAR6, 33_434)), [&gateway(1), NEIGHBOUR6, "2001:db8:f0::2", FAR6]);
    // From outside the way ends where the host's name is heard: what the last hop says, and the container, it says in that.
    assert_eq!(hops(&play.far, &at(HOST, 8009)), ["198.18.1.1", "198.18.0.1", HOST]);
    assert_eq!(hops(&play.far, &at(HOST6, 8009)), ["2001:db8:f1::1", "2001:db8:f0::1", HOST6]);
    // So it is by each address of the host, whichever it would speak as itself.
    for (second, before) in [(SECOND, ["198.18.1.1", "198.18.0.1"]), (SECOND6, ["2001:db8:f1::1", "2001:db8:f0::1"])] {
        let (second, _) = second.split_once('/').expect("a prefix");
        assert_eq!(hops(&play.far, &at(second, 8009)), [&before[..], &[second]].concat());
    }
    play.town.lab.assert_no_checksum_errors();
}

/// Has a node tell its peers to send segments as large as a wire takes.
fn announces_large_segments(node: &Node) {
    for family in ["-4", "-6"] {
        let route = node.ip(&format!("{family} route show default"));
        node.ip(&format!("{family} route change {} advmss 1440", route.trim()));
    }
}

struct Play {
    town: Town,
    far: Host,
    _beyond: Host,
}

impl Play {
    fn new(kind: Offloads) -> Self {
        let town = Town::with(kind, NetdOptions::default());
        let (beyond, far) = (town.lab.host("beyond"), town.lab.host("far"));
        town.lab.wire(kind).from(&town.internet, "eth1", "198.18.0.1/24").to(&beyond, "eth0", "198.18.0.2/24");
        town.lab.wire(kind).from(&beyond, "eth1", "198.18.1.1/24").to(&far, "eth0", FAR_ON_LINK);
        for (node, address, device) in [
            (&town.host, "2001:db8:1::1/64", "eth0"),
            (&town.internet, "2001:db8:1::2/64", "eth0"),
            (&town.internet, "2001:db8:f0::1/64", "eth1"),
            (&beyond, "2001:db8:f0::2/64", "eth0"),
            (&beyond, "2001:db8:f1::1/64", "eth1"),
            (&far, "2001:db8:f1::2/64", "eth0"),
        ] {
            node.ip(&format!("address add {address} dev {device} nodad"));
        }
        for router in [&town.internet, &beyond] {
            // Routers say all that they have to say.
            let settings = "echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding; \
                            echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit";
            router.run(["sh", "-c", &format!("cd /proc/sys/net; {settings}")]).ok();
        }
        for (node, route) in [
            (&town.host, format!("-6 route add default via {NEIGHBOUR6}")),
            (&town.internet, "route add 198.18.1.0/24 via 198.18.0.2".to_owned()),
            (&town.internet, "-6 route add 2001:db8:f1::/64 via 2001:db8:f0::2".to_owned()),
            (&beyond, "route add default via 198.18.0.1".to_owned()),
            (&beyond, "-6 route add default via 2001:db8:f0::1".to_owned()),
            (&far, "route add default via 198.18.1.1".to_owned()),
            (&far, "-6 route add default via 2001:db8:f1::1".to_owned()),
        ] {
            node.ip(&route);
        }
        town.internet.ip("link set eth1 mtu 1300");
        beyond.ip("link set eth0 mtu 1300");
        let uplinks = || town.netd.json("status")["uplinks"].to_string();
        wait_until("the daemon sees the address", || uplinks().contains(HOST6));
        town.netd.say("network create blue --ipv6 --mtu 1500").ok();
        Self { town, far, _beyond: beyond }
    }

    fn container(&self, name: &str, ports: &[&str]) -> Container {
        self.town.container(name, "blue", ports)
    }
}

const FAR_ON_LINK: &str = "198.18.1.2/24";

fn at(address: &str, port: u16) -> String {
    let address: IpAddr = address.parse().expect("an address");
    std::net::SocketAddr::new(address, port).to_string()
}

/// The MTU that a node has learned of the way to an address.
fn way_mtu(node: &Node, address: &str) -> Option<u64> {
    let shown = node.ip(&format!("route get {address}"));
    shown.split_whitespace().skip_while(|word| *word != "mtu").nth(1)?.parse().ok()
}

/// The link-layer address that a container knows its gateway by.
fn gateway_mac(container: &Container, gateway: IpAddr) -> [u8; 6] {
    let shown = container.ip(&format!("neigh show {gateway}"));
    let mac = shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).expect("it is known");
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
    bytes.try_into().expect("six bytes")
}

/// Every frame that comes to a container.
struct Overheard(std::net::UdpSocket);

impl Overheard {
    fn by(container: &Container) -> Self {
        let all = SockProtocol::EthAll;
        let made = container.enter(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, all));
        let made = made.expect("root overhears");
        // Room for all of it: nobody reads meanwhile.
        setsockopt(&made, sockopt::RcvBufForce, &(64 << 20)).expect("root may");
        // The standard library has the call to receive on its UDP type, which is the same for every datagram socket.
        Self(made.into())
    }

    /// Who has said that a packet was too big: by their link-layer address, their address, and the MTU.
    fn too_big(&self) -> Vec<([u8; 6], IpAddr, u32)> {
        let mut said = Vec::new();
        let mut frame = [0_u8; 65_536];
        loop {
            // SAFETY: the buffer is as long as told.
            let length = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
            let Ok(length) = usize::try_from(length) else {
                assert_eq!(io::Error::last_os_error().kind(), io::ErrorKind::WouldBlock);
                return said;
            };
            said.extend(told(&frame[..length]));
        }
    }
}

fn told(frame: &[u8]) -> Option<([u8; 6], IpAddr, u32)> {
    let by = frame[6..12].try_into().ok()?;
    match (&frame[12..14], frame.get(14)?) {
        ([0x08, 0x00], 0x45) if frame[23] == 1 && frame[34..36] == [3, 4] => {
            let from = <[u8; 4]>::try_from(&frame[26..30]).ok()?;
            Some((by, from.into(), u16::from_be_bytes([frame[40], frame[41]]).into()))
        }
        ([0x86, 0xdd], _) if frame[20] == 58 && frame[54] == 2 => {
            let from = <[u8; 16]>::try_from(&frame[22..38]).ok()?;
            Some((by, from.into(), u32::from_be_bytes(frame[58..62].try_into().ok()?)))
        }
        _ => None,
    }
}
