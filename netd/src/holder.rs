//! Who has a port of the host: `/proc/net`'s tables, and what the kernel tells beside them, matched to the process that holds the
//! socket.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use netd_common::tuple::{TCP, UDP};

use crate::{
    link::sockets,
    model::Protocol,
    reconcile::{HostPorts, Process},
};

/// `TCP_LISTEN` and `TCP_TIME_WAIT` of `net/tcp_states.h`.
const LISTEN: u8 = 0x0a;
const TIME_WAIT: u8 = 0x06;
/// `TCP_BOUND_INACTIVE`: bound, and nothing else yet.
const BOUND: u8 = 0x0d;

/// The first of `ports` of `address` that is taken, and the process that has it, in the calling thread's namespace; one of id
/// 0 if it is in none that can be seen. `None` if all are free, or the protocol has no ports that the kernel lists.
pub fn holder(address: IpAddr, protocol: u8, ports: RangeInclusive<u16>) -> io::Result<Option<(u16, Process)>> {
    let there = those_at(address, protocol, ports)?;
    let first = there.iter().filter(|socket| socket.keeps(protocol)).min_by_key(|socket| socket.local.port());
    Ok(first.map(|socket| (socket.local.port(), socket.process())))
}

/// The first of these that somebody has, as [`holder`] finds it.
pub fn first(wanted: &[HostPorts]) -> io::Result<Option<(Protocol, u16, Process)>> {
    let mut read = Read::default();
    for ports in wanted {
        if let Some(socket) = read.that_keep(ports)?.next() {
            return Ok(Some((ports.1, socket.local.port(), socket.process())));
        }
    }
    Ok(None)
}

/// Of each of these the first port that a process has, as [`holder`] finds it, this process aside.
pub fn of_others(wanted: &[HostPorts]) -> io::Result<Vec<(u16, Process)>> {
    let own = open_sockets(Path::new("/proc/self"));
    let (mut read, mut held) = (Read::default(), Vec::new());
    for ports in wanted {
        let first = read.that_keep(ports)?.find(|socket| !own.contains(&socket.inode));
        held.extend(first.map(|socket| (socket.local.port(), socket.inode)));
    }
    let processes = owners(held.iter().map(|(_, inode)| *inode).collect());
    Ok(held.into_iter().map(|(port, inode)| (port, processes.get(&inode).cloned().unwrap_or_else(unseen))).collect())
}

/// The tables that were needed so far: each is read once, however many ports are asked for.
#[derive(Default)]
struct Read(BTreeMap<Protocol, BTreeMap<u16, Vec<Socket>>>);

impl Read {
    /// The sockets that keep others from these ports, that of the lowest one first.
    fn that_keep(&mut self, (address, protocol, ports): &HostPorts) -> io::Result<impl Iterator<Item = &Socket>> {
        let by_port = match self.0.entry(*protocol) {
            Entry::Occupied(read) => read.into_mut(),
            Entry::Vacant(place) => {
                let mut by_port: BTreeMap<u16, Vec<Socket>> = BTreeMap::new();
                let kept = listed(protocol.number())?.into_iter().filter(|socket| socket.keeps(protocol.number()));
                kept.for_each(|socket| by_port.entry(socket.local.port()).or_default().push(socket));
                place.insert(by_port)
            }
        };
        let there = by_port.range(ports.clone()).flat_map(|(_, sockets)| sockets);
        Ok(there.filter(|socket| overlap(socket.local.ip(), *address)))
    }
}

/// Whether a connection of one of these ports of `address` is over and waits for stragglers (TIME-WAIT), and no socket listens.
pub fn has_closed(address: IpAddr, protocol: u8, ports: RangeInclusive<u16>) -> io::Result<bool> {
    let there = those_at(address, protocol, ports)?;
    let any = |state| there.iter().any(|socket| socket.state == state);
    Ok(any(TIME_WAIT) && !any(LISTEN))
}

/// The sockets of the calling thread's namespace that have one of these ports of `address`, as far as the kernel lists them.
fn those_at(address: IpAddr, protocol: u8, ports: RangeInclusive<u16>) -> io::Result<Vec<Socket>> {
    let mut found = listed(protocol)?;
    found.retain(|socket| ports.contains(&socket.local.port()) && overlap(socket.local.ip(), address));
    Ok(found)
}

/// The sockets of the calling thread's namespace, as far as the kernel lists them.
fn listed(protocol: u8) -> io::Result<Vec<Socket>> {
    let tables: &[&str] = match protocol {
        TCP => &["tcp", "tcp6"],
        UDP => &["udp", "udp6"],
        _ => &[],
    };
    let mut found = Vec::new();
    if protocol == TCP {
        // A kernel that does not tell leaves the others to be told.
        let bound = sockets::bound().unwrap_or_default().into_iter();
        found.extend(bound.map(|(local, inode)| Socket { local, state: BOUND, inode }));
    }
    for table in tables {
        let text = match fs::read_to_string(Path::new("/proc/thread-self/net").join(table)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read?,
        };
        found.extend(text.lines().filter_map(parse));
    }
    Ok(found)
}

/// A line of one of `/proc/net`'s socket tables.
#[derive(PartialEq, Eq, Debug)]
struct Socket {
    local: SocketAddr,
    state: u8,
    inode: u64,
}

impl Socket {
    /// Whether it keeps others from its port, and is not only one end of a connection.
    fn keeps(&self, protocol: u8) -> bool {
        protocol != TCP || [LISTEN, BOUND].contains(&self.state)
    }

    fn process(&self) -> Process {
        owners([self.inode].into()).remove(&self.inode).unwrap_or_else(unseen)
    }
}

/// `None` for the heading, and for what is no line of such a table.
fn parse(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Socket { local: SocketAddr::new(parse_address(address)?, port), state, inode })
}

/// The kernel prints addresses as 32-bit words of its own byte order, each of which holds four bytes of network order.
fn parse_address(text: &str) -> Option<IpAddr> {
    if !text.is_ascii() {
        return None;
    }
    let word = |i: usize| {
        let digits = text.get(i * 8..i * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for i in 0..4 {
                bytes[i * 4..i * 4 + 4].copy_from_slice(&word(i)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Whether a socket bound to `bound` is in the way of `wanted`. One bound to `::` may or may not take IPv4 as well
/// (`IPV6_V6ONLY`), which no table tells: it counts.
fn overlap(bound: IpAddr, wanted: IpAddr) -> bool {
    if bound == wanted {
        return true;
    }
    let one_family = bound.is_ipv4() == wanted.is_ipv4();
    match (bound.is_unspecified(), wanted.is_unspecified()) {
        (false, false) => false,
        (true, _) if bound.is_ipv6() => true,
        (_, true) if wanted.is_ipv6() => true,
        _ => one_family,
    }
}

/// A process that cannot be seen.
const fn unseen() -> Process {
    Process { pid: 0, command: String::new() }
}

/// The processes that have the sockets with these inodes open, as far as they can be seen.
fn owners(mut inodes: BTreeSet<u64>) -> BTreeMap<u64, Process> {
    let mut owners = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if inodes.is_empty() {
            break;
        }
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let open = open_sockets(&entry.path());
        for inode in inodes.extract_if(.., |inode| open.contains(inode)) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            owners.insert(inode, Process { pid, command: command.trim_end().to_owned() });
        }
    }
    owners
}

/// The inodes of the sockets that the process of this directory of `/proc` has open; none if it cannot be seen.
fn open_sockets(process: &Path) -> BTreeSet<u64> {
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let inode = |target: PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    open.filter_map(|fd| inode(fs::read_link(fd.path()).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::OwnedFd, process::Command};

    use super::*;

    #[test]
    fn a_line_of_the_table_is_read_whole() {
        let line =
            "   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 18345 1 x";
        let expected = Socket { local: "127.0.0.1:631".parse().unwrap(), state: LISTEN, inode: 18345 };

        assert_eq!(parse(line), Some(expected));
    }

    #[test]
    fn an_ipv6_line_is_read_whole() {
        let line =
            "  1: B80D01200000000000000000010000FF:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1";

        assert_eq!(parse(line).unwrap().local, "[2001:db8::ff00:1]:80".parse().unwrap());
    }

    #[test]
    fn a_mapped_address_counts_as_the_ipv4_address_it_is() {
        let line =
            "  1: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1";

        assert_eq!(parse(line).unwrap().local, "127.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn the_heading_and_nonsense_are_no_sockets() {
        for line in
            ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid", "", "0: zz:1 a 0A"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_wildcard_is_in_the_way_of_every_address_it_may_take() {
        let cases = [
            ("0.0.0.0", "192.0.2.1", true),
            ("192.0.2.1", "0.0.0.0", true),
            ("::", "192.0.2.1", true),
            ("::", "0.0.0.0", true),
            ("2001:db8::1", "::", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("0.0.0.0", "2001:db8::1", false),
            ("2001:db8::1", "0.0.0.0", false),
        ];
        for (bound, wanted, expected) in cases {
            assert_eq!(overlap(bound.parse().unwrap(), wanted.parse().unwrap()), expected, "{bound} {wanted}");
        }
    }

    #[test]
    fn a_listening_socket_of_this_process_is_found_with_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();

        let (held, found) = holder(Ipv4Addr::UNSPECIFIED.into(), TCP, port - 1..=port).unwrap().unwrap();

        assert_eq!((held, found.pid), (port, std::process::id()));
        assert!(!found.command.is_empty());
        assert_eq!(holder(Ipv4Addr::UNSPECIFIED.into(), UDP, port..=port).unwrap(), None);
    }

    #[test]
    fn a_port_that_another_process_has_is_found_beside_ones_own() {
        let (ours, theirs) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let [mine, port] = [&ours, &theirs].map(|listener| listener.local_addr().unwrap().port());
        let mut child = Command::new("sleep").arg("60").stdin(OwnedFd::from(theirs)).spawn().unwrap();
        let wanted = [mine, port].map(|port| (Ipv4Addr::UNSPECIFIED.into(), Protocol::Tcp, port..=port));

        let held = of_others(&wanted);

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(held.unwrap(), [(port, Process { pid: child.id(), command: "sleep".to_owned() })]);
    }

    #[test]
    fn a_tcp_socket_that_is_bound_and_nothing_else_has_its_port() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, socket};
        use std::os::fd::AsRawFd;
        for (family, address) in [(AddressFamily::Inet, "127.0.0.1:0"), (AddressFamily::Inet6, "[::1]:0")] {
            let socket = socket(family, SockType::Stream, SockFlag::empty(), None).unwrap();
            let wanted: SocketAddr = address.parse().unwrap();
            bind(socket.as_raw_fd(), &SockaddrStorage::from(wanted)).unwrap();
            let bound: SockaddrStorage = getsockname(socket.as_raw_fd()).unwrap();
            let v6 = bound.as_sockaddr_in6().map(|bound| bound.port());
            let port = bound.as_sockaddr_in().map(|bound| bound.port()).or(v6).unwrap();

            let (held, found) = holder(wanted.ip(), TCP, port..=port).unwrap().unwrap();
            assert_eq!((held, found.pid), (port, std::process::id()));
        }
    }

    #[test]
    fn a_bound_udp_socket_has_its_port() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();

        assert_eq!(holder(Ipv4Addr::LOCALHOST.into(), UDP, port..=port).unwrap().unwrap().1.pid, std::process::id());
        assert_eq!(holder(Ipv4Addr::new(127, 0, 0, 2).into(), UDP, port..=port).unwrap(), None);
    }
}
