//! Thousands of connections of two containers at once, all to one port of one server: each has a port of the host's to itself,
//! and none hears what is another's.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    ops::{Range, RangeInclusive},
    os::fd::AsRawFd,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use netd_tests::lab::{Node, Offloads, traffic::PATIENCE};
use nix::{
    libc,
    sys::{
        socket::{Backlog, listen, setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use crate::town::{HOST, INTERNET, Town};

const PORT: u16 = 7777;
/// Connections that one thread keeps: descriptors are counted by table, and each thread has its own.
const OF_A_THREAD: u32 = 10_000;

#[test]
fn eight_thousand_connections_of_each_of_two_containers_to_one_port_do_not_cross() {
    let town = Town::new(Offloads::On);
    let ports = connections_do_not_cross(&town, 8_000);
    let own = hosts_own(&town);
    assert!(ports.iter().all(|port| !own.contains(port)), "the default pools have room for them");
}

#[test]
fn twenty_thousand_of_each_take_ports_of_the_hosts_own_range_too() {
    let town = Town::new(Offloads::On);
    let ports = connections_do_not_cross(&town, 20_000);
    let own = hosts_own(&town);
    let of_own = ports.iter().filter(|port| own.contains(port)).count();
    assert!(of_own > 0 && of_own < ports.len(), "the default pools serve, and beside them the host's own range");
}

#[test]
fn a_host_whose_own_range_is_every_port_has_room_for_them_too() {
    let mut town = Town::before_netd();
    town.host.run(["sh", "-c", "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range"]).ok();
    town.netd.start();
    connections_do_not_cross(&town, 20_000);
}

/// Opens so many connections from each of two containers at once, keeps all of them, and has both ends of each say which one it
/// is, when it begins and again when all are open. Returns the ports of the host's that they had.
#[track_caller]
fn connections_do_not_cross(town: &Town, of_each: u32) -> BTreeSet<u16> {
    town.network("blue");
    let containers = ["one", "two"].map(|name| town.container(name, "blue", &[]));
    let listener = listener(&town.internet);
    let ranges = (0..of_each * 2).step_by(OF_A_THREAD.min(of_each) as usize);
    let ranges: Vec<_> =
        ranges.map(|first| first..(first + OF_A_THREAD).min((first / of_each + 1) * of_each)).collect();
    // Threads of the server's as there are of the containers', with room for who comes more often than others.
    let play = Play {
        total: of_each * 2,
        accepted: AtomicU32::new(0),
        failed: AtomicBool::new(false),
        step: Barrier::new(ranges.len() * 2),
    };

    let (play, listener) = (&play, &listener);
    let (clients, servers): (Vec<_>, Vec<_>) = thread::scope(|scope| {
        let servers: Vec<_> = ranges.iter().map(|_| scope.spawn(|| play.serve(listener))).collect();
        let clients = ranges.into_iter().map(|range| {
            let container = &containers[(range.start / of_each) as usize];
            scope.spawn(move || play.ask(container, range))
        });
        let clients: Vec<_> = clients.collect();
        let clients = clients.into_iter().map(|client| client.join().expect("a client does not panic"));
        (clients.collect(), servers.into_iter().map(|server| server.join().expect("a server does not panic")).collect())
    });

    let told = || format!("{}{}", town.netd.say("drops").stdout, town.netd.say("status").stdout);
    for client in clients {
        client.unwrap_or_else(|error| panic!("{error}\n{}", told()));
    }
    let mut seen = BTreeSet::new();
    for server in servers {
        seen.extend(server.unwrap_or_else(|error| panic!("the server: {error}\n{}", told())));
    }
    let host: IpAddr = HOST.parse().expect("an address");
    assert!(seen.iter().all(|peer| peer.ip() == host), "all come as the host");
    assert_eq!(seen.len(), play.total as usize, "each has a port of its own");
    seen.into_iter().map(|peer| peer.port()).collect()
}

/// Ports that the host gives its own sockets.
fn hosts_own(town: &Town) -> RangeInclusive<u16> {
    let range = town.host.sysctl("ipv4/ip_local_port_range").expect("every kernel has it");
    let mut ports = range.split_whitespace().map(|port| port.parse().expect("a port"));
    ports.next().expect("the first")..=ports.next().expect("the last")
}

/// What all threads share. Each of them goes through every step, whatever fails.
struct Play {
    total: u32,
    accepted: AtomicU32,
    failed: AtomicBool,
    step: Barrier,
}

impl Play {
    /// Opens a connection for each number, one after the other, and hears the number said back; when all are open, once more.
    fn ask(&self, node: &Node, numbers: Range<u32>) -> Result<(), String> {
        node.enter(|| {
            own_descriptors(None);
            let server: SocketAddr = format!("{INTERNET}:{PORT}").parse().expect("an address and a port");
            let name = |number, error| format!("{}, connection {number}: {error}", node.name());
            let open =
                |number| open(server, number).map(|stream| (number, stream)).map_err(|error| name(number, error));
            let mut streams: Result<Vec<_>, _> = numbers.map(open).collect();
            self.failed.fetch_or(streams.is_err(), Ordering::Relaxed);

            self.step.wait();
            for (number, stream) in streams.iter_mut().flatten() {
                // Who does not hear it says so.
                let _ = stream.write_all(&number.to_le_bytes());
            }
            self.step.wait();
            self.step.wait();
            for (number, stream) in &mut streams? {
                match hear(stream) {
                    Ok(heard) if heard == !*number => {}
                    Ok(heard) => return Err(name(*number, std::io::Error::other(format!("it heard {heard}")))),
                    Err(error) => return Err(name(*number, error)),
                }
            }
            Ok(())
        })
    }

    /// Answers every connection with the number that it says, and when all are open with that number's complement. Returns whom it
    /// has seen.
    fn serve(&self, listener: &TcpListener) -> Result<Vec<SocketAddr>, String> {
        own_descriptors(Some(listener));
        let mut streams = Vec::new();
        let mut opening = Ok(());
        while self.accepted.load(Ordering::Relaxed) < self.total && !self.failed.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    match greet(stream) {
                        Ok((number, stream)) => streams.push((number, peer, stream)),
                        Err(error) => opening = Err(format!("{peer}: {error}")),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => opening = Err(error.to_string()),
            }
        }

        self.step.wait();
        self.step.wait();
        let answered = streams.iter_mut().try_for_each(|(number, peer, stream)| match hear(stream) {
            Ok(heard) if heard == *number => {
                stream.write_all(&(!heard).to_le_bytes()).map_err(|error| error.to_string())
            }
            Ok(heard) => Err(format!("connection {number} from {peer} says that it is {heard}")),
            Err(error) => Err(format!("connection {number} from {peer}: {error}")),
        });
        self.step.wait();
        opening.and(answered).map(|()| streams.into_iter().map(|(_, peer, _)| peer).collect())
    }
}

fn open(server: SocketAddr, number: u32) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&number.to_le_bytes())?;
    match hear(&mut stream)? {
        heard if heard == number => Ok(stream),
        heard => Err(std::io::Error::other(format!("it was called {heard}"))),
    }
}

fn greet(mut stream: TcpStream) -> std::io::Result<(u32, TcpStream)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let number = hear(&mut stream)?;
    stream.write_all(&number.to_le_bytes())?;
    Ok((number, stream))
}

fn hear(stream: &mut TcpStream) -> std::io::Result<u32> {
    let mut number = [0; 4];
    stream.read_exact(&mut number).map(|()| u32::from_le_bytes(number))
}

/// A listener whose `accept` returns now and then when nobody comes.
fn listener(node: &Node) -> TcpListener {
    let listener = node.enter(|| TcpListener::bind(("0.0.0.0", PORT))).expect("the port is free");
    // More at a time than there are clients.
    listen(&listener, Backlog::new(1024).expect("a backlog")).expect("a socket can listen with another backlog");
    let patience = TimeVal::milliseconds(Duration::from_millis(100).as_millis() as i64);
    setsockopt(&listener, sockopt::ReceiveTimeout, &patience).expect("a socket can be given a timeout");
    listener
}

/// Gives this thread a table of descriptors of its own, without those of others (which would stay open in it) but for one: what it
/// opens from here on is its own to use and to close.
fn own_descriptors(but: Option<&TcpListener>) {
    let kept = but.map_or(2, |listener| listener.as_raw_fd().cast_unsigned());
    for (first, last) in [(kept + 1, u32::MAX), (3, kept - 1)] {
        if first <= last {
            // SAFETY: closes descriptors in this thread's own table, where nobody uses them.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) };
            assert_eq!(closed, 0, "a thread may have descriptors of its own: {}", std::io::Error::last_os_error());
        }
    }
}
