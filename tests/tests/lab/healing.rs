//! Somebody breaks what netd made, while the daemon runs: it notices within two seconds, mends it, says what it was, and
//! touches nothing else.

use std::time::{Duration, Instant};

use netd_common::tables::LAYOUT;
use netd_tests::lab::{Container, NetdOptions, Offloads, traffic::PATIENCE};
use serde_json::Value;

use crate::{
    pinned,
    promise::Vigil,
    says::{self, inspected, text},
    town::{FRONT, INTERNET, Town, dial, wait_until},
};

/// How long it is waited for where the machine has much else to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// A town with a network `blue`, two containers in it, and things beside it that look like netd's and are not.
struct Play {
    web: Container,
    app: Container,
    bridge: String,
    veth: String,
    town: Town,
}

impl Play {
    fn new(options: NetdOptions) -> Self {
        let town = Town::with(Offloads::On, options);
        town.host.ip("link add ndb-00000000 type bridge");
        town.host.ip("link add ndv-00000000 type veth peer name ndv-00000001");
        town.host.ip("link add br0 type bridge");
        town.host.run(["ip", "link", "set", "br0", "alias", "netd network blue"]).ok();
        town.network("blue");
        let web = town.container("web", "blue", &["8080:80"]);
        let app = town.container("app", "blue", &[]);
        let bridge = text(&inspected(&town.netd, "network inspect blue"), "/bridge");
        let veth = port_of(&town, &web);
        Self { web, app, bridge, veth, town }
    }

    /// Breaks something with a command on the host, in which `BRIDGE` and `VETH` are those of the network and of `web`, and
    /// asserts that everything becomes as it was, and that netd says so in an event with these words.
    #[track_caller]
    fn mends(&self, command: &str, words: &str) {
        let command = command.replace("BRIDGE", &self.bridge).replace("VETH", &self.veth);
        self.mends_after(&command, words, || drop(self.town.host.run(["sh", "-c", &command]).ok()));
    }

    #[track_caller]
    fn mends_after(&self, what: &str, words: &str, broken: impl FnOnce()) {
        let before = self.town.host.snapshot().without(&["tcx", "filter", "pin"]);

        self.tells_after(what, &[words], broken);

        self.town.host.assert_as_in_but_for(&before, &["tcx", "filter", "pin"]);
        self.works();
    }

    /// Breaks something and asserts that netd, within the time that it promises, tells of a repair in each of these words.
    #[track_caller]
    fn tells_after(&self, what: &str, words: &[&str], broken: impl FnOnce()) {
        let named = |words: &&str| words.replace("BRIDGE", &self.bridge).replace("VETH", &self.veth);
        let words: Vec<String> = words.iter().map(named).collect();
        let before = self.repairs().len();

        broken();
        let vigil = Vigil::over(&self.town.netd);
        let began = Instant::now();
        let told = loop {
            let said = says::told(&self.town.netd, "type=repair").split_off(before);
            let of = |words: &String| said.iter().find(|(_, message)| message.contains(words)).map(|(time, _)| *time);
            if let Some(times) = words.iter().map(of).collect::<Option<Vec<_>>>() {
                break times.into_iter().max().expect("there are words");
            }
            assert!(began.elapsed() < DEADLINE, "after `{what}` nobody mends {words:?}, but: {said:?}");
        };
        println!("`{what}`, {words:?}:");
        vigil.assert_promise(told);
    }

    /// What netd says it has mended.
    fn repairs(&self) -> Vec<String> {
        says::told(&self.town.netd, "type=repair").into_iter().map(|(_, message)| message).collect()
    }

    #[track_caller]
    fn works(&self) {
        let web = says::address_of(&self.town.netd, "web");
        assert_eq!(self.app.pings(&web, 1, PATIENCE), 1, "containers reach each other");
        assert_eq!(self.web.pings(INTERNET, 1, PATIENCE), 1, "and the outside");
        assert_eq!(self.web.pings(&says::gateway_of(&self.town.netd, "blue"), 1, PATIENCE), 1, "and their gateway");
    }
}

/// The host's side of a container's `eth0`.
pub fn port_of(town: &Town, container: &Container) -> String {
    let inside: Value = serde_json::from_str(&container.ip("-j link show dev eth0")).expect("ip prints JSON");
    let index = inside[0]["link_index"].as_u64().expect("a veth names its other side");
    let links: Value = serde_json::from_str(&town.host.ip("-j link")).expect("ip prints JSON");
    let found = links.as_array().into_iter().flatten().find(|link| link["ifindex"].as_u64() == Some(index));
    text(found.expect("the other side is on the host"), "/ifname")
}

#[test]
fn a_bridge_is_mended() {
    let play = Play::new(NetdOptions::default());

    play.mends("ip link set BRIDGE address 02:00:00:00:00:99", "the bridge BRIDGE had the link-layer address");
    play.mends("ip link set BRIDGE mtu 1300", "the bridge BRIDGE had the MTU 1300, not 1500");
    play.mends("ip address flush dev BRIDGE scope global", "the bridge BRIDGE was down or without an address");
    play.mends("ip link set BRIDGE down", "the bridge BRIDGE was down or without an address");
    play.mends("ip address add 10.9.9.9/32 dev BRIDGE", "the bridge BRIDGE had 10.9.9.9/32");
    play.mends("ip link set BRIDGE type bridge stp_state 1", "the bridge BRIDGE had other options");
    play.mends("ip link set BRIDGE type bridge mcast_snooping 1", "the bridge BRIDGE had other options");
    play.mends("echo 1 > /proc/sys/net/ipv6/conf/BRIDGE/accept_ra", "the bridge BRIDGE had other options");
    play.mends("echo 0 > /proc/sys/net/ipv4/conf/BRIDGE/forwarding", "forwarding on for BRIDGE");
    play.mends("echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding", "forwarding on for eth0");
    play.mends("ip link set BRIDGE name gone0", "BRIDGE was called gone0");
}

/// Of a network of both families, beside the one that everything else is tried on.
#[test]
fn a_route_to_a_networks_subnet_is_put_back_on_the_bridge_and_in_a_container() {
    let play = Play::new(NetdOptions::default());
    play.town.netd.say("network create both --ipv6").ok();
    play.town.netd.say("network connect both web").ok();
    let both = inspected(&play.town.netd, "network inspect both");
    let bridge = text(&both, "/bridge");
    let interface = "eth1";
    for (family, subnet) in [(4, "/subnets/0/subnet"), (6, "/subnets/1/subnet")] {
        let subnet = text(&both, subnet);
        let words = format!("the bridge {bridge} had no route to {subnet}");
        play.mends(&format!("ip -{family} route del {subnet} dev {bridge}"), &words);

        let routes = || play.web.ip(&format!("-{family} route show dev {interface}"));
        let before = routes();
        let words = format!("which is {interface} inside, had no route to {subnet}");
        let del = format!("-{family} route del {subnet} dev {interface}");
        play.mends_after(&del, &words, || drop(play.web.ip(&del)));
        assert_eq!(routes(), before, "as the kernel had it");
    }
}

/// The real one, of Debian's package, told to manage what netd made.
#[test]
fn what_systemd_networkd_makes_of_netds_devices_is_mended_while_it_goes_on() {
    let play = Play::new(NetdOptions::default());
    let before = play.town.host.snapshot().without(&["tcx", "filter", "pin"]);
    let units = play.town.host.path("/run/systemd/network");
    std::fs::create_dir_all(&units).expect("a Lab's /run can be written");
    let bridge = format!(
        "[Match]\nName={}\n[Link]\nMACAddress=02:00:00:00:00:98\nMTUBytes=1400\n\
         [Network]\nAddress=198.18.9.1/24\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\n",
        play.bridge
    );
    let veth = format!("[Match]\nName={}\n[Link]\nMTUBytes=1300\n[Network]\nLinkLocalAddressing=no\n", play.veth);
    for (name, text) in [("10-bridge.network", bridge), ("20-veth.network", veth)] {
        std::fs::write(units.join(name), text).expect("a Lab's /run can be written");
    }

    // It waits for no udev where /sys cannot be written, as in a container.
    let script = "mount -o remount,bind,ro /sys && install -d -o systemd-network -g systemd-network /run/systemd/netif && \
                  exec /lib/systemd/systemd-networkd";
    let networkd = play.town.host.spawn(["unshare", "--mount", "sh", "-c", script]);

    let told =
        ["had the link-layer address 02:00:00:00:00:98", "had the MTU 1400", "198.18.9.1/24", "had other options"];
    let told = told.map(|words| format!("{} {words}", play.bridge)).into_iter().chain([play.veth.clone()]);
    for words in told {
        let (name, words) = words.split_once(' ').unwrap_or((&words, ""));
        let mended = || play.repairs().into_iter().find(|message| message.contains(name) && message.contains(words));
        let began = Instant::now();
        while mended().is_none() {
            let said = (play.repairs(), networkd.log());
            assert!(began.elapsed() < DEADLINE, "nobody mends `{words}` of {name}, but: {said:?}");
        }
        println!("{}", mended().unwrap_or_default());
    }
    // Of the veth netd keeps what it gave it; how it would make addresses that it is not to have is nobody's concern.
    let other = || {
        let difference = before.difference(&play.town.host.snapshot().without(&["tcx", "filter", "pin"]));
        difference.lines().filter(|line| line.contains(&play.bridge) || line.contains("mtu")).collect::<String>()
    };
    let began = Instant::now();
    while !other().is_empty() {
        assert!(began.elapsed() < DEADLINE, "{}{}", other(), networkd.log());
    }
    play.works();
    networkd.signal(nix::sys::signal::Signal::SIGTERM);
    networkd.wait();
}

#[test]
fn a_bridge_that_is_deleted_is_made_anew_with_its_ports() {
    let play = Play::new(NetdOptions::default());

    let command = format!("link del {}", play.bridge);
    play.tells_after(&command, &["the bridge BRIDGE was missing"], || drop(play.town.host.ip(&command)));

    play.works();
}

#[test]
fn a_veth_is_mended() {
    let play = Play::new(NetdOptions::default());

    play.mends("ip link set VETH down", "endpoint web: VETH");
    play.mends("ip link set VETH nomaster", "was no port of BRIDGE");
    play.mends("ip link set VETH mtu 1300", "had another MTU than 1500");
    play.mends("bridge link set dev VETH learning on", "had other options");
    play.mends("bridge link set dev VETH flood on", "had other options");
    let station = text(&inspected(&play.town.netd, "inspect web"), "/networks/0/mac");
    play.mends(&format!("bridge fdb del {station} dev VETH master"), "the bridge did not know its address");
    play.mends("ip link set VETH name gone0", "endpoint web: VETH was called gone0");

    // The bridge's own entries for groups are not the same afterwards: only what matters is compared.
    let no_ipv6 = format!("ipv6/conf/{}/disable_ipv6", play.veth);
    play.town.host.run(["sh", "-c", &format!("echo 0 > /proc/sys/net/{no_ipv6}")]).ok();
    wait_until("the veth is without IPv6 again", || play.town.host.sysctl(&no_ipv6).as_deref() == Some("1"));
}

#[test]
fn what_is_inside_a_container_is_mended() {
    let play = Play::new(NetdOptions::default());
    let address = says::address_of(&play.town.netd, "web");
    let inside = |words: &str| {
        let words = words.to_owned();
        move |play: &Play| drop(play.web.ip(&words))
    };
    for (broken, words) in [
        (format!("address del {address}/24 dev eth0"), "endpoint web: VETH"),
        ("route del default".to_owned(), "had other default routes"),
        ("link set eth0 down".to_owned(), "endpoint web: VETH"),
        ("link set eth0 address 02:00:00:00:00:99".to_owned(), "had the link-layer address 02:00:00:00:00:99"),
        ("link set eth0 mtu 1300".to_owned(), "had another MTU than 1500"),
    ] {
        play.mends_after(&broken, words, || inside(&broken)(&play));
    }
}

#[test]
fn a_veth_that_is_deleted_is_made_anew() {
    let play = Play::new(NetdOptions::default());

    let command = format!("link del {}", play.veth);
    let words = "endpoint web: VETH, which is eth0 inside, was missing";
    play.tells_after(&command, &[words], || drop(play.town.host.ip(&command)));

    play.works();
}

#[test]
fn an_interface_that_is_renamed_inside_its_container_is_made_anew_with_its_name() {
    let play = Play::new(NetdOptions::default());
    let before = play.web.ip("-br address show dev eth0");

    play.web.ip("link set eth0 down");
    play.web.ip("link set eth0 name gone0");
    let vigil = Vigil::over(&play.town.netd);

    wait_until("it has its name and its addresses", || {
        let listed = play.web.run(["ip", "-br", "address", "show", "dev", "eth0"]);
        listed.succeeded() && addresses(&listed.stdout) == addresses(&before)
    });
    assert!(play.web.ifindex("gone0").is_none(), "one interface an attachment");
    let says_so = |(_, message): &(_, String)| message.contains("which is eth0 inside, was missing");
    let told = || says::told(&play.town.netd, "type=repair").into_iter().find(says_so);
    wait_until("and netd says so", || told().is_some());
    vigil.assert_promise(told().expect("it has been told").0);
    play.works();
}

/// The addresses in a line of `ip -br address`, its own of the link aside.
fn addresses(line: &str) -> Vec<&str> {
    line.split_whitespace().skip(2).filter(|address| !address.starts_with("fe80:")).collect()
}

#[test]
fn a_program_that_somebody_detaches_is_attached_again() {
    let play = Play::new(NetdOptions::default().arguments(["--endpoint-attach", "tcx"]));
    let pins = format!("/sys/fs/bpf/netd/{LAYOUT}/links");
    for (hooks, device) in
        [(["from_uplink", "to_uplink"], "eth0"), (["from_container", "to_container"], play.veth.as_str())]
    {
        let index = play.town.host.ifindex(device).expect("it is there");
        for hook in hooks {
            let pin = play.town.host.path(format!("{pins}/{hook}@{index}"));
            let words = format!("the program {hook} was not on {device}");
            play.mends_after(&format!("detach {hook}"), &words, || pinned::detach(&pin));
            play.mends(&format!("rm {pins}/{hook}@{index}"), &words);
        }
    }
}

#[test]
fn a_program_for_sockets_of_the_host_that_somebody_detaches_is_attached_again() {
    let play = Play::new(NetdOptions::default());
    let echo = play.town.container("echo", "blue", &["8007:7"]);
    let _server = echo.echo_tcp(7);
    let pins = format!("/sys/fs/bpf/netd/{LAYOUT}/links");
    let says = |words: &str| play.town.host.run(dial(words)).stdout;
    for call in ["bind4", "connect4"] {
        let words = format!("the program {call} was not on the cgroup");
        let pin = play.town.host.path(format!("{pins}/{call}"));
        let works = || {
            assert_eq!(says("tcp 127.0.0.1:8007"), "127.0.0.1:8007 hello\n");
            assert_eq!(says("bind tcp 0.0.0.0:8007"), format!("error {}\n", nix::libc::EADDRINUSE));
        };
        play.mends_after(&format!("detach {call}"), &words, || pinned::detach(&pin));
        works();
        play.mends(&format!("rm {pins}/{call}"), &words);
        works();
    }

    let all = ["connect", "sendmsg", "recvmsg", "getpeername", "bind"].map(|call| format!("{pins}/{call}[46]"));
    play.mends(&format!("rm {}", all.join(" ")), "bind6");
    assert_eq!(says("tcp 127.0.0.1:8007"), "127.0.0.1:8007 hello\n");
}

#[test]
fn a_clsact_qdisc_that_somebody_deletes_is_made_again() {
    let play = Play::new(NetdOptions::default().variable("NETD_FORCE_CLSACT", "1"));

    play.mends("tc qdisc del dev VETH clsact", "the program from_container was not on VETH");
    play.mends("tc qdisc del dev eth0 clsact", "the program to_uplink was not on eth0");
}

#[test]
fn the_programs_that_containers_share_are_mended_for_all_and_taken_from_none_alone() {
    let play = Play::new(NetdOptions::default());
    let alone = play.town.host.run(["tc", "filter", "del", "dev", &play.veth, "egress"]);
    assert!(!alone.succeeded(), "the kernel takes a shared filter from no device alone: {alone}");

    play.mends(&format!("tc filter del block {}", 0x6e64_0002), "the program to_container was not on VETH");
    play.mends(&format!("tc filter del block {}", 0x6e64_0001), "the program from_container was not on VETH");
    let inside = || play.web.run(["tc", "qdisc", "del", "dev", "lo", "clsact"]).ok();
    play.mends_after("delete the clsact qdisc of lo", "open the resolver", || drop(inside()));
}

#[test]
fn entries_that_somebody_takes_out_of_the_maps_are_written_again() {
    let play = Play::new(NetdOptions::default());
    play.town.netd.say("publish web 8081:81,from=198.51.100.0/24").ok();
    let web = says::address_of(&play.town.netd, "web");
    let written = [
        ("DEVICES", "record the device VETH".to_owned()),
        ("ENDPOINTS", format!("record {web} of zone")),
        ("PUBLICATIONS", format!("publish 0.0.0.0:8080 as {web}:80")),
        ("SOURCES", "let in 198.51.100.0/24".to_owned()),
        ("HOST_ADDRESSES", format!("record the host's address {FRONT}")),
        ("SETTINGS", "write the settings".to_owned()),
    ];
    let words = written.each_ref().map(|(_, words)| words.as_str());

    play.tells_after("empty the maps", &words, || {
        for (map, _) in &written {
            pinned::empty(&play.town.host.path(format!("/sys/fs/bpf/netd/{LAYOUT}/maps/{map}")));
        }
    });

    play.works();
    let (_web, _limited) = (play.web.echo_tcp(80), play.web.echo_tcp(81));
    for port in [8080, 8081] {
        play.town.client.asks_tcp(&format!("{FRONT}:{port}"), PATIENCE).expect("clients are let in");
    }
}

#[test]
fn what_looks_like_netds_is_left_alone_and_a_container_that_is_gone_takes_its_things_along() {
    let play = Play::new(NetdOptions::default());
    let before = foreign(&play);

    play.mends("ip link set BRIDGE down", "the bridge BRIDGE");
    let veth = play.veth.clone();
    let Play { web, town, .. } = play;
    web.delete();
    wait_until("the veth goes with its container", || town.host.ifindex(&veth).is_none());
    wait_until("and its record", || !town.netd.say("status").stdout.contains(&veth));

    for (name, line) in before {
        assert_eq!(town.host.ip(&format!("-o link show dev {name}")), line);
    }
}

/// The devices that look like netd's, as `ip` shows them.
fn foreign(play: &Play) -> Vec<(&'static str, String)> {
    let names = ["ndb-00000000", "ndv-00000000", "ndv-00000001", "br0"];
    names.into_iter().map(|name| (name, play.town.host.ip(&format!("-o link show dev {name}")))).collect()
}
