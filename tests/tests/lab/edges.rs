//! Situations that other dataplanes have stumbled over, where only a kernel can show them. `tests/CASES.md` numbers them.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use netd_tests::lab::{
    Container, Node, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    ipv6, says,
    town::{CLIENT, FRONT, HOST, INTERNET, Town},
};

#[test]
fn a_client_that_never_pauses_is_heard_by_whoever_has_the_port() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    // One socket, and no silence in which its flow could expire.
    let client = town.client.enter(|| UdpSocket::bind((CLIENT, 5000)).expect("the port is free"));
    let enough = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&enough);
    let sending = thread::spawn(move || {
        for _ in 0..300_000 {
            // Refused now and then, where nobody listens.
            let _ = client.send_to(b"is anybody there?", (FRONT, 8007));
            thread::sleep(Duration::from_millis(2));
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    thread::sleep(Duration::from_millis(50));

    for name in ["first", "second", "third"] {
        // Each is gone before the next comes, which may have its address or another.
        let container = town.container(name, "blue", &["8007:7/udp"]);
        assert!(hears(&container, 7), "the {name} container hears the client within {PATIENCE:?}");
        town.netd.say(&format!("detach {name}")).ok();
        container.delete();
    }

    enough.store(true, Ordering::Relaxed);
    sending.join().expect("sending does not panic");
}

#[test]
fn peers_of_a_container_that_is_gone_are_told_so() {
    for kind in Offloads::BOTH {
        let town = Town::new(kind);
        town.network("blue");
        let web = town.container("web", "blue", &["8080:80"]);
        let _inside = web.echo_tcp(80);
        let outside = town.internet.enter(|| TcpListener::bind((INTERNET, 7)).expect("the port is free"));
        let mut outward = web.connect(&format!("{INTERNET}:7"), PATIENCE).expect("the container gets out");
        outward.write_all(b"?").expect("it is connected");
        let (mut server, _) = outside.accept().expect("it has come");
        server.read_exact(&mut [0]).expect("it has spoken");
        server.set_read_timeout(Some(IMPATIENCE)).expect("a socket can be given a timeout");
        // Last, since the container's server waits for so long alone.
        let mut inward = town.client.connect(&format!("{FRONT}:8080"), PATIENCE).expect("the port is published");
        inward.write_all(b"?").expect("it is connected");
        inward.read_exact(&mut [0]).expect("it is answered");

        town.netd.say("detach web").ok();

        is_reset("the client", &mut inward);
        is_reset("the server", &mut server);
        town.lab.assert_no_checksum_errors();
    }
}

/// Speaks on a connection until it is reset.
fn is_reset(whose: &str, connection: &mut TcpStream) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = connection.write_all(b"?").and_then(|()| connection.read(&mut [0]).map(drop));
        match told.map_err(|error| error.kind()) {
            Err(ErrorKind::ConnectionReset) => return,
            Ok(()) | Err(ErrorKind::WouldBlock) => assert!(Instant::now() < deadline, "{whose} is not told"),
            Err(other) => panic!("{whose} is told something else: {other}"),
        }
    }
}

#[test]
fn first_packets_of_one_flow_on_two_processors_at_once_leave_by_one_port() {
    const FLOWS: u16 = 300;
    let town = Town::new(Offloads::On);
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let far = town.internet.enter(|| UdpSocket::bind((INTERNET, 7)).expect("the port is free"));
    far.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
    // Room for all, where who reads gets no processor; and the way is known, where else a queue would hold them.
    setsockopt(&far, sockopt::RcvBufForce, &(8 << 20)).expect("root may");
    assert_eq!(app.pings(INTERNET, 1, PATIENCE), 1);
    let sockets: Arc<Vec<_>> = Arc::new((0..FLOWS).map(|_| udp(&app)).collect());
    let together = Arc::new(Barrier::new(2));

    let senders = [0, 1].map(|processor| {
        let (sockets, together) = (Arc::clone(&sockets), Arc::clone(&together));
        thread::spawn(move || {
            stay_on_processor(processor);
            for (number, socket) in sockets.iter().enumerate() {
                together.wait();
                socket.send_to(&(number as u16).to_le_bytes(), (INTERNET, 7)).expect("there is a way");
            }
        })
    });
    let mut seen = vec![BTreeSet::new(); FLOWS.into()];
    for _ in 0..2 * FLOWS {
        let mut number = [0; 2];
        let (_, from) = far.recv_from(&mut number).expect("every datagram arrives");
        seen[usize::from(u16::from_le_bytes(number))].insert(from);
    }

    senders.into_iter().for_each(|sender| sender.join().expect("sending does not panic"));
    for (number, from) in seen.iter().enumerate() {
        assert_eq!(from.len(), 1, "flow {number} leaves as {from:?}");
    }
    let all: BTreeSet<_> = seen.iter().flatten().collect();
    assert_eq!(all.len(), usize::from(FLOWS), "no two flows leave as one");
    for (number, socket) in sockets.iter().enumerate() {
        let to = seen[number].first().expect("it was seen");
        far.send_to(&(number as u16).to_le_bytes(), to).expect("there is a way");
        let mut answer = [0; 2];
        socket.recv(&mut answer).unwrap_or_else(|error| panic!("flow {number} is answered: {error}"));
        assert_eq!(u16::from_le_bytes(answer), number as u16);
    }
}

#[test]
fn segments_larger_than_a_packets_length_can_say_pass_whole() {
    let town = ipv6::paved(Offloads::On);
    town.netd.say("network create blue --ipv6").ok();
    let app = town.container("app", "blue", &["9000:9000"]);
    let veth = veth_of(&town);
    let nodes: [(&Node, &str); 6] = [
        (&app, "eth0"),
        (&town.host, &veth),
        (&town.host, "eth0"),
        (&town.host, "eth1"),
        (&town.internet, "eth0"),
        (&town.client, "eth0"),
    ];
    for (node, device) in nodes {
        allow_large_segments(node, device);
    }
    let (_inside, _outside) = (app.serve_bulk(9000), town.internet.serve_bulk(9000));
    for node in [&town.internet as &Node, &app] {
        node.run(["nft", "add table inet big"]).ok();
        node.run(["nft", "add chain inet big in { type filter hook input priority 0; }"]).ok();
        for family in ["ipv4", "ipv6"] {
            node.run(["nft", &format!("add rule inet big in meta nfproto {family} meta length > 65535 counter")]).ok();
        }
    }

    app.transfers(&format!("{INTERNET}:9000"), 30_000_000);
    town.client.transfers(&format!("{FRONT}:9000"), 30_000_000);
    let passed = says::counted(&town.netd, "from_container", "passed");
    app.transfers(&format!("[{}]:9000", ipv6::INTERNET), 30_000_000);
    town.client.transfers(&format!("[{}]:9000", ipv6::FRONT), 30_000_000);
    let passed = says::counted(&town.netd, "from_container", "passed") - passed;

    for node in [&town.internet as &Node, &app] {
        let rules = node.run(["nft", "list", "table", "inet", "big"]).ok();
        let counted = rules.split("counter packets ").skip(1).filter_map(|rest| rest.split(' ').next());
        let large: Vec<u64> = counted.map(|number| number.parse().expect("nft tells a counter")).collect();
        assert!(large.len() == 2 && large.iter().all(|large| *large > 0), "{} got {large:?} that large", node.name());
        // What the first packets need of the stack aside.
        assert!(passed < 20 + large[1] / 2, "{passed} of {} went by the stack", large[1]);
    }
    town.lab.assert_no_checksum_errors();
}

#[test]
fn datagrams_that_the_uplink_has_put_together_arrive_each_by_itself() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7/udp"]);
    for device in ["eth0", "eth1"] {
        // As a network card's driver does: packets of one flow become one list of packets (QUIC is where it matters).
        town.host.run(["ethtool", "-K", device, "gro", "on", "rx-gro-list", "on"]).ok();
    }
    let inside = web.enter(|| UdpSocket::bind(("0.0.0.0", 7)).expect("the port is free"));
    inside.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
    let client = udp(&town.client);
    // The sender's segments, cut by its device, so that the receiver's has something to put together.
    setsockopt(&client, sockopt::UdpGsoSegment, &1200).expect("a kernel of our times");
    town.client.run(["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"]).ok();

    for round in 0..50_u8 {
        let data: Vec<u8> = (0..10 * 1200_usize).map(|at| (at / 1200) as u8 ^ round).collect();
        client.send_to(&data, (FRONT, 8007)).expect("there is a way");
        for part in 0..10 {
            let mut datagram = [0; 2000];
            let (length, from) = inside.recv_from(&mut datagram).expect("each datagram arrives");
            assert_eq!((length, from.ip().to_string()), (1200, CLIENT.to_owned()), "datagram {part} of round {round}");
            assert!(datagram[..length].iter().all(|byte| *byte == part ^ round), "datagram {part} of round {round}");
        }
    }
    let packets = says::counted(&town.netd, "from_uplink", "to_peer");
    assert!(packets < 300, "{packets} packets at the uplink are not lists of datagrams");
    town.lab.assert_no_checksum_errors();
}

#[test]
fn a_container_that_bridges_its_interface_gets_what_is_for_it() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let machine = town.container("machine", "blue", &["8080:80", "8007:7/udp"]);
    let app = town.container("app", "blue", &[]);
    let address = town.address("machine");
    let route = machine.ip("route show default");
    let gateway = route.split_whitespace().nth(2).expect("a default route has a gateway").to_owned();

    // As a virtual machine's host does: the address and the link-layer address move to a bridge.
    let link: serde_json::Value = serde_json::from_str(&machine.ip("-j link show eth0")).expect("`ip -j` prints JSON");
    let mac = link[0]["address"].as_str().expect("an address").to_owned();
    machine.ip(&format!("link add inner address {mac} type bridge"));
    machine.ip("address flush dev eth0");
    machine.ip("link set eth0 master inner");
    machine.ip(&format!("address add {address}/24 dev inner"));
    machine.ip("link set inner up");
    machine.ip(&format!("route add default via {gateway}"));

    let (web, echo, outside) = (machine.serve_http(80), machine.echo_udp(7), town.internet.serve_http(80));
    assert_eq!(town.client.curl(&format!("http://{FRONT}:8080/")).ok(), format!("machine sees {CLIENT}\n"));
    assert_eq!(town.client.asks_udp(&format!("{FRONT}:8007"), 3, 4000, PATIENCE), 3);
    assert_eq!(machine.curl(&format!("http://{INTERNET}/")).ok(), format!("internet sees {HOST}\n"));
    assert_eq!(app.curl(&format!("http://{address}/")).ok(), format!("machine sees {}\n", town.address("app")));
    drop((web, echo, outside));
}

#[test]
fn a_containers_counters_move_with_what_it_gets_and_sends() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7/udp"]);
    let app = town.container("app", "blue", &[]);
    let _echo = web.echo_udp(7);
    let _outside = town.internet.echo_udp(7);
    let got = |container: &Container| counters(container, "eth0");

    for (ask, whom) in [(0, "from outside"), (1, "from its network"), (2, "in answer")] {
        let before = got(&web);
        let answered = match ask {
            0 => town.client.asks_udp(&format!("{FRONT}:8007"), 100, 500, PATIENCE),
            1 => app.asks_udp(&town.at("web", 7), 100, 500, PATIENCE),
            _ => web.asks_udp(&format!("{INTERNET}:7"), 100, 500, PATIENCE),
        };
        let after = got(&web);

        assert_eq!(answered, 100);
        let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
        assert!(packets >= 100 && bytes >= 100 * 500, "{whom}: {packets} packets, {bytes} bytes");
    }
}

/// Lets an interface send and receive segments of 200,000 bytes (BIG TCP), which `ip` of these days cannot say for IPv4.
fn allow_large_segments(node: &Node, interface: &str) {
    use nix::{
        libc,
        sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket},
    };
    // IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE and IFLA_GRO_IPV4_MAX_SIZE (linux/if_link.h).
    const SIZES: [u16; 4] = [41, 58, 63, 64];
    let index = node.ifindex(interface).expect("the interface exists");
    let attributes =
        SIZES.map(|kind| [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &200_000_u32.to_ne_bytes()].concat());
    let link = [&[0; 4][..], &index.to_ne_bytes(), &[0; 8], &attributes.concat()].concat();
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let header =
        [&(16 + link.len() as u32).to_ne_bytes()[..], &libc::RTM_NEWLINK.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]];
    let message = [header.concat(), link].concat();
    let answer = node.enter(|| -> nix::Result<i32> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0; 256];
        recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // The error of an acknowledgement follows its header.
        Ok(i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]))
    });
    assert_eq!(answer, Ok(0), "{interface} of {} can send segments that large", node.name());
}

/// Whether a datagram comes to `port` of a node.
fn hears(node: &Node, port: u16) -> bool {
    let socket = node.enter(|| UdpSocket::bind(("0.0.0.0", port))).expect("the port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
    socket.recv_from(&mut [0; 64]).is_ok_and(|(_, from)| from.to_string() == format!("{CLIENT}:5000"))
}

fn udp(node: &Node) -> UdpSocket {
    let socket = node.enter(|| UdpSocket::bind(("0.0.0.0", 0))).expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
    socket
}

/// Packets and bytes that an interface has received.
fn counters(node: &Node, interface: &str) -> (u64, u64) {
    let link: serde_json::Value =
        serde_json::from_str(&node.ip(&format!("-j -s link show {interface}"))).expect("`ip -j` prints JSON");
    let rx = &link[0]["stats64"]["rx"];
    (rx["packets"].as_u64().expect("a number"), rx["bytes"].as_u64().expect("a number"))
}

/// The host's side of the only container.
fn veth_of(town: &Town) -> String {
    let links = town.host.ip("-br link show type veth");
    let ours = links.lines().filter_map(|line| line.split(['@', ' ']).next()).find(|name| name.starts_with("ndv-"));
    ours.expect("a container has a veth").to_owned()
}

fn stay_on_processor(number: usize) {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut set = nix::sched::CpuSet::new();
    set.set(number % processors).expect("a processor's number");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).expect("a processor that is there");
}
