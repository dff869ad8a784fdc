//! Sockets of the host that no program leads to a published port: the daemon relays them.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
};

use netd_tests::lab::{NetdOptions, Node, Offloads, traffic::PATIENCE};
use nix::{
    libc::{ECONNREFUSED, ECONNRESET},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket},
};

use crate::{
    ipv6::{pave, paved},
    says,
    town::{CLIENT, FRONT, HOST, Town, dial, wait_until},
};

/// What a socket of the host made as `words` say is told.
fn dialled(town: &Town, words: &str) -> String {
    town.host.run(dial(words)).stdout
}

#[test]
fn a_socket_bound_to_the_loopback_reaches_a_port_and_is_told_what_it_dialled() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7", "8007:7/udp", "127.0.0.1:8008:7"]);
    let servers = [web.echo_tcp(7), web.echo_udp(7)];

    for at in ["127.0.0.1:8007", &format!("{HOST}:8007"), &format!("{FRONT}:8007")] {
        for kind in ["tcp", "udp", "datagram"] {
            let words = format!("{kind} {at} 127.0.0.1:0");
            assert_eq!(dialled(&town, &words), format!("{at} hello\n"), "{words}");
        }
    }
    assert_eq!(dialled(&town, "tcp 127.0.0.1:8008 127.0.0.1:0"), "127.0.0.1:8008 hello\n");
    servers.iter().for_each(|server| server.assert_seen_only(&says::gateway_of(&town.netd, "blue")));
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("a client outside is not relayed");
    let peers = servers[0].peers();
    assert!(peers.iter().any(|peer| peer.to_string() == CLIENT), "and keeps its address: {peers:?}");
    let status = town.netd.say("status").ok();
    assert!(status.contains("the daemon relays for sockets of the host that are bound to its loopback"), "{status}");
}

/// Sends a lot, says no more, and reads until nothing comes: all of it must have come back.
fn says_all_before_it_listens(node: &Node, server: &str) {
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut stream = node.connect(server, PATIENCE).expect("it is relayed");
    let mut writing = stream.try_clone().expect("a socket");
    let mut answer = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            writing.write_all(&sent).expect("it takes all");
            writing.shutdown(Shutdown::Write).expect("it is open");
        });
        stream.read_to_end(&mut answer).expect("it answers after the end");
    });
    assert!(answer == sent, "{} of {} bytes", answer.len(), sent.len());
}

/// Answers with all that it was told once nothing more is said.
fn answer_at_the_end(mut stream: TcpStream) {
    let mut told = Vec::new();
    if stream.read_to_end(&mut told).is_ok() {
        let _ = stream.write_all(&told);
    }
}

#[test]
fn clients_of_the_host_reach_a_container_without_their_family_and_others_are_refused_at_once() {
    let town = paved(Offloads::On);
    town.network("four");
    town.netd.say("network create six --subnet fd00:6::/64").ok();
    let four = town.container("four", "four", &["8004:7", "8004:7/udp", "8014:9"]);
    let six = town.container("six", "six", &["8006:7", "8006:7/udp", "8016:9"]);
    let _servers = [four.echo_tcp(7), four.echo_udp(7), six.echo_tcp(7), six.echo_udp(7)];
    let _late = [four.serve_tcp(9, answer_at_the_end), six.serve_tcp(9, answer_at_the_end)];

    for kind in ["tcp", "udp", "datagram"] {
        assert_eq!(dialled(&town, &format!("{kind} [::1]:8004")), "[::1]:8004 hello\n", "{kind}");
        assert_eq!(dialled(&town, &format!("{kind} 127.0.0.1:8006")), "127.0.0.1:8006 hello\n", "{kind}");
    }
    says_all_before_it_listens(&town.host, "[::1]:8014");
    says_all_before_it_listens(&town.host, "127.0.0.1:8016");
    // By the addresses that others know the host by, too.
    let own = "[2001:db8:2::1]:8004";
    for kind in ["tcp", "udp", "datagram"] {
        assert_eq!(dialled(&town, &format!("{kind} {own}")), format!("{own} hello\n"), "{kind}");
    }
    for kind in ["tcp", "udp", "datagram"] {
        assert_eq!(dialled(&town, &format!("{kind} {FRONT}:8006")), format!("{FRONT}:8006 hello\n"), "{kind}");
    }
    // But where the host itself serves in the other family.
    let own = town.host.enter(|| TcpListener::bind((HOST, 8006))).expect("it is the host's");
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = own.accept().expect("somebody comes");
            stream.read_exact(&mut [0; 6]).expect("it says a line");
            stream.write_all(b"it is I").expect("it is connected");
        });
        assert_eq!(dialled(&town, &format!("tcp {HOST}:8006")), format!("{HOST}:8006 it is\n"));
    });
    for server in ["[2001:db8:2::1]:8004", &format!("{FRONT}:8006")] {
        let bound = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let datagram = town.client.enter(|| UdpSocket::bind(bound)).expect("a port is free");
        datagram.connect(server).expect("there is a way");
        datagram.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
        datagram.send(b"?").expect("it is sent");
        let refused = datagram.recv(&mut [0; 8]).expect_err("no family in common");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{server} by UDP");
        let refused = town.client.connect(server, PATIENCE).expect_err("no family in common");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{server}");
    }
}

#[test]
fn without_a_cgroup_the_daemon_relays_every_client_of_the_host() {
    let mut town = Town::with(Offloads::On, NetdOptions::default().arguments(["--cgroup", "none"]));
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7", "8007:7/udp", "127.0.0.1:8008:7"]);
    let _servers = [web.echo_tcp(7), web.echo_udp(7)];
    let all_reach = |town: &Town| {
        for at in ["127.0.0.1:8007", &format!("{HOST}:8007"), "[::1]:8007"] {
            for kind in ["tcp", "udp", "datagram"] {
                assert_eq!(dialled(town, &format!("{kind} {at}")), format!("{at} hello\n"), "{kind} {at}");
            }
        }
        assert_eq!(dialled(town, "tcp 127.0.0.1:8008"), "127.0.0.1:8008 hello\n");
    };

    all_reach(&town);
    let status = town.netd.say("status").ok();
    assert!(status.contains("the daemon relays for every socket of the host: at 5 ports"), "{status}");
    town.netd.say("publish web 127.0.0.1:9000-9099:9000-9099").refused(["127.0.0.1:9000-9099", "too many"]);
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("clients outside need no relay");

    town.netd.kill();
    town.netd.start();
    wait_until("another daemon relays too", || town.netd.json("status")["relayed"] == 5);
    all_reach(&town);
}

/// A socket at an address that others come to as well would hear them too.
#[test]
fn without_a_cgroup_a_family_that_the_container_lacks_is_relayed_at_the_loopback_and_refused_elsewhere() {
    let town = Town::with(Offloads::On, NetdOptions::default().arguments(["--cgroup", "none"]));
    pave(&town);
    town.network("four");
    town.netd.say("network create six --subnet fd00:6::/64").ok();
    let (four, six) = (town.container("four", "four", &["8004:7"]), town.container("six", "six", &["8006:7"]));
    let _servers = [four.echo_tcp(7), six.echo_tcp(7)];

    for served in ["127.0.0.1:8004", &format!("{FRONT}:8004"), "[::1]:8004", "[::1]:8006", "127.0.0.1:8006"] {
        assert_eq!(dialled(&town, &format!("tcp {served}")), format!("{served} hello\n"));
    }
    assert_eq!(dialled(&town, "tcp [2001:db8:2::1]:8006"), "[2001:db8:2::1]:8006 hello\n");
    for refused in ["[2001:db8:2::1]:8004", &format!("{FRONT}:8006")] {
        assert_eq!(dialled(&town, &format!("tcp {refused}")), format!("error {ECONNREFUSED}\n"), "{refused}");
    }
}

/// RFC 9293 section 3.10.7: where nobody listens a reset answers, and a listener drops what is neither a SYN nor acknowledges anything.
#[test]
fn a_segment_without_flags_is_answered_where_nobody_listens_alone_relay_or_not() {
    let town = Town::with(Offloads::On, NetdOptions::default().arguments(["--cgroup", "none"]));
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7"]);
    let _servers = [web.echo_tcp(7), town.host.echo_tcp(7001)];
    let host = &town.host;
    let resets_after = |port: u16| {
        let before = host.snmp("Tcp", "OutRsts");
        let seen = host.snmp("Tcp", "InSegs");
        says_nothing_in_particular(&town.client, port);
        wait_until("it has arrived", || host.snmp("Tcp", "InSegs") > seen);
        move || host.snmp("Tcp", "OutRsts") - before
    };

    // What arrives is counted before it is answered.
    let resets = resets_after(7002);
    wait_until("nobody listens, which is said", || resets() == 1);
    assert_eq!(resets_after(7001)(), 0, "a process of the host does");
    assert_eq!(resets_after(8007)(), 0, "the relay does");
    assert_eq!(resets(), 1, "neither has said anything since");
}

/// Sends a segment of TCP without a flag to a port of the host's address.
fn says_nothing_in_particular(client: &Node, port: u16) {
    let (from, to): (Ipv4Addr, Ipv4Addr) = (CLIENT.parse().expect("an address"), FRONT.parse().expect("an address"));
    let mut header = etherparse::TcpHeader::new(40_000, port, 1, 1000);
    header.checksum = header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]).expect("it is short");
    let raw = client.enter(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp));
    let raw = raw.expect("root may");
    let sent =
        sendto(raw.as_raw_fd(), &header.to_bytes(), &SockaddrIn::from(SocketAddrV4::new(to, 0)), MsgFlags::empty());
    assert_eq!(sent, Ok(header.header_len()));
}

#[test]
fn the_relay_lets_in_whom_the_port_is_for() {
    let town = Town::with(Offloads::On, NetdOptions::default().arguments(["--cgroup", "none"]));
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7,from=192.0.2.1", "8007:7/udp,from=192.0.2.1"]);
    let servers = [web.echo_tcp(7), web.echo_udp(7)];

    assert_eq!(dialled(&town, &format!("tcp {HOST}:8007")), format!("{HOST}:8007 hello\n"));
    assert_eq!(dialled(&town, &format!("udp {HOST}:8007")), format!("{HOST}:8007 hello\n"));
    servers.iter().for_each(|server| server.assert_seen_only(&says::gateway_of(&town.netd, "blue")));
    let refused = [ECONNRESET, ECONNREFUSED].map(|number| format!("error {number}\n"));
    let said = dialled(&town, "tcp 127.0.0.1:8007");
    assert!(refused.contains(&said), "{said}");
    let socket = town.host.enter(|| UdpSocket::bind("127.0.0.1:0")).expect("a socket");
    socket.set_read_timeout(Some(netd_tests::lab::traffic::IMPATIENCE)).expect("a timeout");
    socket.send_to(b"?", "127.0.0.1:8007").expect("it is sent");
    assert!(socket.recv(&mut [0; 8]).is_err(), "the loopback is not named");

    let mut open = town.host.connect(&format!("{HOST}:8007"), PATIENCE).expect("it is named");
    town.netd.say("publish web 8007:7,from=127.0.0.1").ok();
    assert!(open.write_all(b"?\n").and_then(|()| open.read_exact(&mut [0; 2])).is_err(), "what is open ends");
    assert_eq!(dialled(&town, "tcp 127.0.0.1:8007"), "127.0.0.1:8007 hello\n");
}

#[test]
fn a_relayed_port_is_free_at_once_when_it_is_closed_and_can_be_published_again() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7"]);
    // Ends the connection first: the relay's end waits for stragglers then.
    let _server = web.serve_tcp(7, |mut stream| {
        let mut line = [0; 6];
        if stream.read_exact(&mut line).is_ok() {
            let _ = stream.write_all(&line);
        }
    });
    for _ in 0..3 {
        assert_eq!(dialled(&town, "tcp 127.0.0.1:8007 127.0.0.1:0"), "127.0.0.1:8007 hello\n");
        town.netd.say("unpublish web 8007:7").ok();
        assert_eq!(dialled(&town, "tcp 127.0.0.1:8007 127.0.0.1:0"), format!("error {ECONNREFUSED}\n"));
        town.netd.say("publish web 8007:7").ok();
    }
    assert_eq!(dialled(&town, "bind tcp 0.0.0.0:8007"), format!("error {}\n", nix::libc::EADDRINUSE));

    town.netd.say("unpublish web 8007:7").ok();
    let _theirs = town.host.bound(|| TcpListener::bind("0.0.0.0:8007")).expect("it is anybody's");
    town.netd.say("publish web 8007:7").refused(["8007/tcp"]);
}

#[test]
fn a_relayed_port_at_which_nothing_comes_takes_no_room_for_what_may() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    town.container("web", "blue", &[]);
    // Fifteen ranges of the longest that is relayed.
    let ranges: Vec<_> = (0..15).map(|n| format!("{0}-{1}:{0}-{1}/udp", 8000 + 64 * n, 8063 + 64 * n)).collect();
    let ranges = ranges.join(" ");
    let before = says::resident(&town.netd);

    // Memory that is had again is written to, and only then there.
    for _ in 0..2 {
        town.netd.say(&format!("publish web {ranges}")).ok();
        town.netd.say(&format!("unpublish web {ranges}")).ok();
    }
    town.netd.say(&format!("publish web {ranges}")).ok();
    let grown = says::resident(&town.netd).saturating_sub(before);

    let relayed = town.netd.json("status")["relayed"].as_u64();
    assert!(relayed >= Some(960), "{relayed:?} ports are relayed");
    assert!(grown < 960 * 32, "960 ports have the daemon keep {grown} kB: each has room for the longest datagram");
}
