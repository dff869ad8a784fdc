//! Ports that containers are masqueraded as, beside those that the host itself uses, and the room in the flow table.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use netd_tests::lab::{Node, Offloads, traffic::PATIENCE};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::town::{CLIENT, FRONT, HOST, INTERNET, Town, wait_until};

#[test]
fn a_socket_of_the_host_that_takes_a_containers_port_later_gets_its_own_answers() {
    for kind in Offloads::BOTH {
        let town = Town::new(kind);
        town.network("blue");
        let app = town.container("app", "blue", &[]);
        let echo = town.internet.echo_udp(7);
        let web = town.internet.serve_http(80);
        let url = format!("http://{INTERNET}/");
        let curl = ["curl", "--silent", "--show-error", "--max-time", "60", "--local-port", "5000", &url];

        let from_container = bound(&app, 5000);
        assert_eq!(answer(&from_container, "container"), Some("container".to_owned()));
        let from_host = bound(&town.host, 5000);
        for _ in 0..3 {
            assert_eq!(answer(&from_host, "host"), Some("host".to_owned()));
            assert_eq!(answer(&from_container, "container"), Some("container".to_owned()));
        }
        app.run(curl).ok();
        town.host.run(curl).ok();

        echo.assert_seen_only(HOST);
        web.assert_seen_only(HOST);
        town.lab.assert_no_checksum_errors();
    }
}

#[test]
fn ports_that_the_operator_reserved_are_nobodys() {
    let mut town = Town::before_netd();
    set(&town.host, "ipv4/ip_local_reserved_ports", "5000-5009");
    town.netd.start();
    town.network("blue");
    let app = town.container("app", "blue", &[]);

    let ports = town.internet.enter(|| UdpSocket::bind((INTERNET, 9)).unwrap());
    ports.set_read_timeout(Some(PATIENCE)).unwrap();
    let seen = |port| {
        bound(&app, port).send_to(b"?", (INTERNET, 9)).unwrap();
        ports.recv_from(&mut [0; 8]).unwrap().1.port()
    };

    assert_eq!(seen(5010), 5010);
    let moved = seen(5003);
    assert!(!(5000..=5009).contains(&moved), "{moved}");
}

#[test]
fn the_port_of_a_tunnel_that_ends_in_the_hosts_kernel_stays_the_tunnels() {
    let town = Town::new(Offloads::On);
    town.host.ip("link add vx7 up type vxlan id 7 dstport 4789 dev eth0 local 192.0.2.1");
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let ports = town.internet.enter(|| UdpSocket::bind((INTERNET, 9)).unwrap());
    ports.set_read_timeout(Some(PATIENCE)).unwrap();
    let seen = |port| {
        bound(&app, port).send_to(b"?", (INTERNET, 9)).unwrap();
        ports.recv_from(&mut [0; 8]).unwrap().1.port()
    };

    assert_eq!(seen(4790), 4790);
    assert_ne!(seen(4789), 4789, "its answers would be the tunnel's");
}

#[test]
fn containers_get_out_of_a_host_that_keeps_every_port_for_itself() {
    let mut town = Town::before_netd();
    set(&town.host, "ipv4/ip_local_port_range", "1024 65535");
    town.netd.start();
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let echo = town.internet.echo_udp(7);
    let tcp = town.internet.echo_tcp(7);

    app.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).unwrap();
    assert_eq!(answer(&bound(&app, 40_000), "datagram"), Some("datagram".to_owned()));

    echo.assert_seen_only(HOST);
    tcp.assert_seen_only(HOST);
}

#[test]
fn flows_that_are_over_leave_the_table() {
    let mut town = Town::before_netd();
    set(&town.host, "netfilter/nf_conntrack_udp_timeout", "1");
    set(&town.host, "netfilter/nf_conntrack_udp_timeout_stream", "1");
    town.netd.start();
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let _echo = town.internet.echo_udp(7);

    let sockets: Vec<_> = (0..100).map(|i| bound(&app, 40_000 + i)).collect();
    // They are over a second after the last answer, which may be sooner than it is looked.
    wait_until("they are in the table", || {
        assert!(sockets.iter().all(|socket| answer(socket, "datagram").is_some()));
        entries(&town) > 0
    });

    let deadline = Instant::now() + Duration::from_secs(60);
    while entries(&town) > 0 {
        assert!(Instant::now() < deadline, "{} entries are left", entries(&town));
        thread::sleep(Duration::from_millis(100));
    }
}

/// The kernel picks the port of a socket that nobody has bound, and asks no program: it may be one of a published range.
#[test]
fn a_connected_socket_of_the_host_gets_its_answers_at_a_published_port_too() {
    for kind in Offloads::BOTH {
        let town = Town::new(kind);
        // All of it will be published: so many are not withheld from sockets that name none.
        set(&town.host, "ipv4/ip_local_port_range", "41000 41099");
        town.network("blue");
        let web = town.container("web", "blue", &["41000-41099:41000-41099/udp"]);
        let beside = town.container("beside", "blue", &[]);
        let reserved = || town.host.enter(|| fs::read("/proc/sys/net/ipv4/ip_local_reserved_ports")).unwrap();
        wait_until("the daemon knows the range", || reserved().trim_ascii().is_empty());
        let published: Vec<_> = (41_000..41_100).map(|port| web.echo_udp(port)).collect();
        let outside = town.internet.echo_udp(7);
        let inside = beside.echo_udp(7);

        for server in [format!("{INTERNET}:7"), town.at("beside", 7)] {
            let ours = unbound(&town.host, &server);
            let port = ours.local_addr().unwrap().port();
            assert!((41_000..41_100).contains(&port), "{port}");
            ours.send(b"there?").unwrap();
            assert_eq!(ours.recv(&mut [0; 8]).expect("its answer"), 6);
            // A client is led to the container as ever.
            let at = format!("{FRONT}:{port}");
            assert_eq!(town.client.asks_udp(&at, 2, 64, PATIENCE), 2);
        }

        outside.assert_seen_only(HOST);
        assert!(!inside.peers().is_empty());
        assert!(published.iter().flat_map(|server| server.peers()).all(|peer| peer.to_string() == CLIENT));
        town.lab.assert_no_checksum_errors();
    }
}

fn entries(town: &Town) -> u64 {
    town.netd.json("status")["flows"]["entries"].as_u64().unwrap()
}

fn bound(node: &Node, port: u16) -> UdpSocket {
    let socket = node.enter(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Connected, its port the kernel's choice.
fn unbound(node: &Node, server: &str) -> UdpSocket {
    let server: SocketAddr = server.parse().unwrap();
    let made = node.enter(|| socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)).unwrap();
    let socket = UdpSocket::from(made);
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// What the echo server outside answers.
fn answer(socket: &UdpSocket, word: &str) -> Option<String> {
    socket.send_to(word.as_bytes(), (INTERNET, 7)).unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Sets `net/PATH` in a node's namespace.
fn set(node: &Node, path: &str, value: &str) {
    node.enter(|| fs::write(format!("/proc/sys/net/{path}"), value)).unwrap();
}
