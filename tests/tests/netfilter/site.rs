//! The ground that both contenders stand on: two containers in a host, a router beyond it, and a peer far away. One site's host
//! runs netd, the other's has the kernel's own masquerade and DNAT; all else is equal, addresses too.
//!
//! ```text
//! a 10.99.0.2 ┐                                            ┌ 198.51.100.1 ── 198.51.100.2  far (and 203.0.113.0/25)
//! b 10.99.0.3 ┴ host 192.0.2.1 ── 192.0.2.2 router (+ ICMP) ┴ 198.51.101.1 ── 198.51.101.2  far, by a link of 1280 bytes
//! ```

use netd_tests::lab::{Container, Host, Lab, Netd, Node, Offloads};

/// The address that containers leave as, and at which they are published.
pub const HOST: &str = "192.0.2.1";
/// The router's address towards the host: the source of its errors.
pub const ROUTER: &str = "192.0.2.2";
/// The peer.
pub const FAR: &str = "198.51.100.2";
/// The peer, by a link that takes 1280 bytes.
pub const FAR_NARROW: &str = "198.51.101.2";
/// The peer, by a route of the host that takes 1300 bytes, whatever else is found out.
pub const FAR_BY_NARROW_ROUTE: &str = "203.0.113.1";
/// The peer, by a route of the host that takes 1300 bytes unless something else is found out.
pub const FAR_BY_ADVISED_ROUTE: &str = "203.0.113.2";
/// An address whose packets reach the peer and that no socket of it answers for.
pub const FAR_RAW: &str = "203.0.113.77";
/// The peer, by way of the host for what the router itself sends: what comes back from there goes on to the peer.
pub const IN_TRANSIT: &str = "203.0.113.99";
/// Containers, and the gateway of their network.
pub const A: &str = "10.99.0.2";
/// The other container.
pub const B: &str = "10.99.0.3";
/// What the containers' network calls its gateway.
pub const GATEWAY: &str = "10.99.0.1";

/// Destinations that the router has an opinion of.
pub const UNREACHABLE: &str = "203.0.113.129";
/// Administratively prohibited.
pub const PROHIBITED: &str = "203.0.113.145";
/// Gone without a word.
pub const BLACKHOLE: &str = "203.0.113.161";

/// The same places in IPv6.
const SIXES: [(&str, &str); 11] = [
    (HOST, "2001:db8:1::1"),
    (ROUTER, "2001:db8:1::2"),
    (FAR, "2001:db8:2::2"),
    (FAR_NARROW, "2001:db8:3::2"),
    (FAR_BY_NARROW_ROUTE, "2001:db8:113::1"),
    (UNREACHABLE, "2001:db8:f0::1"),
    (PROHIBITED, "2001:db8:f1::1"),
    (BLACKHOLE, "2001:db8:f2::1"),
    (A, "fd00:99::2"),
    (B, "fd00:99::3"),
    (GATEWAY, "fd00:99::1"),
];

/// The IPv6 address of a place that an IPv4 address names.
pub fn six(address: &str) -> &'static str {
    let found = SIXES.iter().find(|(four, _)| *four == address);
    found.unwrap_or_else(|| panic!("{address} has no counterpart")).1
}

/// Published ports on the host: of `a` (ports 80 by TCP and 90 by UDP), of `b` (raw packets).
pub const PUBLISHED: [(u16, &str, u16, &str); 4] =
    [(8001, A, 80, "tcp"), (8002, A, 90, "udp"), (8004, B, 1000, "tcp"), (8005, B, 1000, "udp")];

/// A mark on packets that a test sends itself; what the kernel says unasked in their names is held back.
pub const OWN: u32 = 1;

/// Ordered so that the daemon goes before what it runs on.
pub struct Site {
    pub netd: Option<Netd>,
    pub a: Container,
    pub b: Container,
    pub host: Host,
    pub far: Host,
    pub router: Host,
    pub lab: Lab,
}

impl Site {
    /// With netd.
    pub fn netd() -> Self {
        let (lab, host, router, far) = ground();
        let netd = host.netd();
        netd.say("network create blue --subnet 10.99.0.0/24 --subnet fd00:99::/64 --ipv6 --mtu 1500").ok();
        let [a, b] = [("a", A), ("b", B)].map(|(name, address)| {
            let container = host.container(name);
            let (netns, network) = (container.netns(), format!("name=blue,ip={address},ip6={}", six(address)));
            let ports = PUBLISHED.iter().filter(|(_, of, ..)| *of == address);
            let ports: Vec<_> = ports.map(|(on, _, port, protocol)| format!("{on}:{port}/{protocol}")).collect();
            let words = ["attach", name, "--netns", &netns, "--network", &network];
            netd.run(words.into_iter().chain(ports.iter().flat_map(|port| ["-p", port]))).ok();
            container
        });
        Self { netd: Some(netd), a, b, host, far, router, lab }.settled()
    }

    /// With a bridge and netfilter's rules, as Docker makes them.
    pub fn netfilter() -> Self {
        let (lab, host, router, far) = ground();
        host.ip("link add br0 type bridge");
        host.ip(&format!("address add {GATEWAY}/24 dev br0"));
        host.ip(&format!("address add {}/64 dev br0 nodad", six(GATEWAY)));
        host.ip("link set br0 up");
        let [a, b] = [("a", A), ("b", B)].map(|(name, address)| {
            let container = host.container(name);
            host.ip(&format!("link add veth-{name} type veth peer name eth0 netns {name}"));
            host.ip(&format!("link set veth-{name} master br0 up"));
            container.ip(&format!("address add {address}/24 dev eth0"));
            container.ip(&format!("address add {}/64 dev eth0 nodad", six(address)));
            container.ip("link set eth0 up");
            container.default_route(GATEWAY);
            container.ip(&format!("-6 route add default via {}", six(GATEWAY)));
            container
        });
        for (command, subnet) in [("iptables", "10.99.0.0/24"), ("ip6tables", "fd00:99::/64")] {
            rule(&host, command, &format!("-t nat -A POSTROUTING -s {subnet} ! -o br0 -j MASQUERADE"));
            rule(&host, command, "-A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
            rule(&host, command, "-A FORWARD -i br0 -j ACCEPT");
            rule(&host, command, "-P FORWARD DROP");
        }
        for (on, address, port, protocol) in PUBLISHED {
            let six = six(address);
            for (command, address, to) in
                [("iptables", address, format!("{address}:{port}")), ("ip6tables", six, format!("[{six}]:{port}"))]
            {
                let of = format!("-p {protocol} --dport");
                let local = "-m addrtype --dst-type LOCAL";
                rule(&host, command, &format!("-t nat -A PREROUTING {of} {on} {local} -j DNAT --to-destination {to}"));
                // Docker from version 28 on: a container's own address is not to be reached from outside.
                rule(&host, command, &format!("-t raw -A PREROUTING -d {address} ! -i br0 -j DROP"));
                rule(&host, command, &format!("-A FORWARD -o br0 -d {address} {of} {port} -j ACCEPT"));
            }
        }
        set(&host, "net/ipv6/conf/all/forwarding", "1");
        set(&host, "net/ipv4/ip_forward", "1");
        Self { netd: None, a, b, host, far, router, lab }.settled()
    }

    fn settled(self) -> Self {
        for container in [&self.a, &self.b] {
            // So that what is captured is what a wire would carry.
            Offloads::Off.apply(container, "eth0");
            unlimit_errors(container);
        }
        // Raw endpoints speak for themselves.
        self.b.run(["nft", "add table ip quiet"]).ok();
        self.b.run(["nft", "add chain ip quiet out { type filter hook output priority 0; }"]).ok();
        self.b.run(["nft", &format!("add rule ip quiet out meta mark != {OWN} ip protocol {{ tcp, icmp }} drop")]).ok();
        self
    }
}

fn ground() -> (Lab, Host, Host, Host) {
    let lab = Lab::new();
    let (host, router, far) = (lab.host("host"), lab.host("router"), lab.host("far"));
    lab.wire(Offloads::Off).from(&host, "eth0", "192.0.2.1/24").to(&router, "eth0", "192.0.2.2/24");
    lab.wire(Offloads::Off).from(&router, "eth1", "198.51.100.1/24").to(&far, "eth0", "198.51.100.2/24");
    lab.wire(Offloads::Off).from(&router, "eth2", "198.51.101.1/24").to(&far, "eth1", "198.51.101.2/24");
    for (host, interface) in [(&router, "eth2"), (&far, "eth1")] {
        host.ip(&format!("link set {interface} mtu 1280"));
    }
    set(&router, "net/ipv4/ip_forward", "1");
    host.default_route(ROUTER);
    far.default_route("198.51.100.1");
    for (address, mtu) in [(FAR_BY_NARROW_ROUTE, "lock 1300"), (FAR_BY_ADVISED_ROUTE, "1300")] {
        host.ip(&format!("route add {address}/32 via {ROUTER} mtu {mtu}"));
        far.ip(&format!("address add {address}/32 dev lo"));
    }
    router.ip("route add 203.0.113.0/24 via 198.51.100.2");
    router.ip(&format!("route add 10.99.0.0/24 via {HOST}"));
    router.ip(&format!("route add {IN_TRANSIT} via {HOST} table 99"));
    router.ip(&format!("rule add iif lo to {IN_TRANSIT} lookup 99"));
    object(&router);
    pave(&host, &router, &far);
    for host in [&host, &router, &far] {
        unlimit_errors(host);
    }
    (lab, host, router, far)
}

/// Has the router refuse what goes to some destinations. By rules: the errors of a route that is unreachable are limited to one a
/// second, for all of the machine.
fn object(router: &Host) {
    router.run(["nft", "add table inet objections"]).ok();
    router.run(["nft", "add chain inet objections forward { type filter hook forward priority 0; }"]).ok();
    for (address, what) in [
        (UNREACHABLE, ["reject with icmp host-unreachable", "reject with icmpv6 no-route"]),
        (PROHIBITED, ["reject with icmp admin-prohibited", "reject with icmpv6 admin-prohibited"]),
        (BLACKHOLE, ["drop", "drop"]),
    ] {
        for (what, to) in what.into_iter().zip([format!("ip daddr {address}"), format!("ip6 daddr {}", six(address))]) {
            router.run(["nft", &format!("add rule inet objections forward {to} {what}")]).ok();
        }
    }
}

/// The same in IPv6.
fn pave(host: &Host, router: &Host, far: &Host) {
    let give = |node: &Host, address: &str, device: &str| node.ip(&format!("address add {address} dev {device} nodad"));
    give(host, "2001:db8:1::1/64", "eth0");
    give(router, "2001:db8:1::2/64", "eth0");
    give(router, "2001:db8:2::1/64", "eth1");
    give(router, "2001:db8:3::1/64", "eth2");
    give(far, "2001:db8:2::2/64", "eth0");
    give(far, "2001:db8:3::2/64", "eth1");
    give(far, "2001:db8:113::1/128", "lo");
    set(router, "net/ipv6/conf/all/forwarding", "1");
    host.ip("-6 route add default via 2001:db8:1::2");
    host.ip("-6 route add 2001:db8:113::1/128 via 2001:db8:1::2 mtu lock 1300");
    far.ip("-6 route add default via 2001:db8:2::1");
    for subnet in ["113", "f0", "f1", "f2"] {
        router.ip(&format!("-6 route add 2001:db8:{subnet}::/64 via 2001:db8:2::2"));
    }
    router.ip("-6 route add fd00:99::/64 via 2001:db8:1::1");
}

/// Has a node forget what it was told about ways by IPv4; by IPv6 it does not before its time.
pub fn forget_ways(node: &Node) {
    set(node, "net/ipv4/route/flush", "1");
}

/// Lets a kernel send as many ICMP errors as there is reason for.
fn unlimit_errors(node: &Node) {
    set(node, "net/ipv4/icmp_ratelimit", "0");
    set(node, "net/ipv6/icmp/ratelimit", "0");
    // Before kernel 6.12 these are the machine's, and nobody's to change here.
    for sysctl in ["icmp_msgs_per_sec", "icmp_msgs_burst"] {
        if node.sysctl(&format!("ipv4/{sysctl}")).is_some() {
            set(node, &format!("net/ipv4/{sysctl}"), "1000000");
        }
    }
}

fn rule(host: &Host, command: &str, rule: &str) {
    host.run(std::iter::once(command).chain(rule.split_whitespace())).ok();
}

fn set(node: &Node, sysctl: &str, value: &str) {
    node.enter(|| std::fs::write(format!("/proc/sys/{sysctl}"), value))
        .unwrap_or_else(|error| panic!("{sysctl} of {}: {error}", node.name()));
}
