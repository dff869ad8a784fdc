//! TCP segments sent from inside a container's namespace, as its own sockets would send them, and the resets that answer them.
//!
//! A segment that belongs to no connection is answered by a reset that quotes its acknowledgement number, if its checksum holds (RFC
//! 9293 section 3.5.2): so nobody needs to listen. By a packet socket a segment can be left unfinished as TCP leaves it, for the device to
//! sum and to cut (`PACKET_VNET_HDR`).

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{self, MsgFlags},
};

use crate::{
    netns::Namespace,
    reconcile::{Heard, Probed, Station, TunnelProbe},
};

/// How often what was not answered is sent again, and how long answers may take each time.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// The port asked: what is sent there is to be discarded (RFC 863).
const DISCARD: u16 = 9;
/// Bytes of headers, and of what says how a frame is left to the device (`struct virtio_net_hdr`).
const ETH: usize = 14;
const TCP: usize = 20;
const LEFT: usize = 10;
/// Segments of the largest question, and the bytes of payload of the smallest.
const SEGMENTS: usize = 3;
const SMALL: usize = 8;
const TCP_PROTOCOL: u8 = 6;
/// Of `linux/virtio_net.h` and `linux/if_packet.h`.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const NEEDS_CHECKSUM: u8 = 1;
const PACKET_VNET_HDR: i32 = 15;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

/// Asks all at the same time.
pub fn ask(probes: Vec<TunnelProbe>) -> Probed {
    thread::scope(|scope| {
        let asking: Vec<_> = probes.iter().map(|probe| scope.spawn(|| ask_one(probe))).collect();
        let heard = asking.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("it panicked".to_owned())));
        let heard: Vec<_> = heard.collect();
        probes.iter().cloned().zip(heard).collect()
    })
}

fn ask_one(probe: &TunnelProbe) -> Result<Heard, String> {
    let namespace = Namespace::of(&probe.sandbox).map_err(|error| error.to_string())?;
    let heard = namespace.inside(|| ask_inside(probe)).and_then(|heard| heard);
    heard.map_err(|error| format!("{} in {}: {error}", probe.ifname, probe.sandbox.path.display()))
}

fn ask_inside(probe: &TunnelProbe) -> io::Result<Heard> {
    let socket = open(probe.ifname.as_str())?;
    // No connection of the container's has both numbers.
    let (port, first) = (rand::random_range(1024..=u16::MAX), rand::random::<u32>());
    let mut heard = Heard::default();
    for _ in 0..ATTEMPTS {
        for (number, question) in (0..).zip(Question::ALL) {
            if !*question.answer(&mut heard) {
                send(&socket, &question.frame(probe, port, first.wrapping_add(number)))?;
            }
        }
        let deadline = Instant::now() + PAUSE;
        while heard != Heard::ALL && Instant::now() < deadline {
            let Some(number) = receive(&socket)?.and_then(|frame| quoted(&frame, probe, port)) else { continue };
            let question = Question::ALL.get(number.wrapping_sub(first) as usize);
            question.into_iter().for_each(|question| *question.answer(&mut heard) = true);
        }
    }
    Ok(heard)
}

/// A segment to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Small,
    Summed,
    Full,
    Cut,
}

impl Question {
    const ALL: [Self; 4] = [Self::Small, Self::Summed, Self::Full, Self::Cut];

    /// Whether it was answered.
    fn answer(self, heard: &mut Heard) -> &mut bool {
        match self {
            Self::Small => &mut heard.small,
            Self::Summed => &mut heard.summed,
            Self::Full => &mut heard.full,
            Self::Cut => &mut heard.cut,
        }
    }

    /// The frame, after what says how it is left to the device.
    fn frame(self, probe: &TunnelProbe, port: u16, number: u32) -> Vec<u8> {
        let ip = if probe.from.address.is_ipv4() { 20 } else { 40 };
        let segment = (probe.mtu as usize).saturating_sub(ip + TCP).max(SMALL);
        let payload = match self {
            Self::Small | Self::Summed => SMALL,
            Self::Full => segment,
            Self::Cut => segment * SEGMENTS,
        };
        let mut left = [0; LEFT];
        if self != Self::Small {
            left[0] = NEEDS_CHECKSUM;
            left[6..8].copy_from_slice(&((ETH + ip) as u16).to_ne_bytes());
            left[8..].copy_from_slice(&16u16.to_ne_bytes());
        }
        if self == Self::Cut {
            left[1] = if ip == 20 { GSO_TCPV4 } else { GSO_TCPV6 };
            left[2..4].copy_from_slice(&((ETH + ip + TCP) as u16).to_ne_bytes());
            left[4..6].copy_from_slice(&(segment as u16).to_ne_bytes());
        }
        let tcp = segment_of(probe, port, number, payload, self == Self::Small);
        [&left[..], &link_and_ip(probe.from, probe.to, tcp.len()), &tcp].concat()
    }
}

/// A TCP segment; where it is not finished, its checksum is that of the pseudo-header alone, as the kernel leaves it to a device.
fn segment_of(probe: &TunnelProbe, port: u16, number: u32, payload: usize, finished: bool) -> Vec<u8> {
    let mut tcp = [port.to_be_bytes(), DISCARD.to_be_bytes(), [0, 0], [0, 1]].concat();
    tcp.extend(number.to_be_bytes());
    tcp.extend([(TCP as u8 / 4) << 4, ACK, 0, 64, 0, 0, 0, 0]);
    tcp.resize(TCP + payload, b'n');
    let addresses = sum(&octets(probe.from.address)) + sum(&octets(probe.to.address));
    let pseudo = addresses + u32::from(TCP_PROTOCOL) + tcp.len() as u32;
    let checksum = if finished { !folded(pseudo + sum(&tcp)) } else { folded(pseudo) };
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    tcp
}

/// Headers before so many bytes of TCP, not to be cut.
fn link_and_ip(from: Station, to: Station, length: usize) -> Vec<u8> {
    let mut frame = [to.mac.0, from.mac.0].concat();
    let addresses = [octets(from.address), octets(to.address)].concat();
    if from.address.is_ipv4() {
        let [high, low] = ((20 + length) as u16).to_be_bytes();
        let mut ip = [&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, TCP_PROTOCOL, 0, 0], &addresses[..]].concat();
        let checksum = !folded(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        frame.extend([8, 0]);
        frame.extend(ip);
    } else {
        let [high, low] = (length as u16).to_be_bytes();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, high, low, TCP_PROTOCOL, 64]);
        frame.extend(addresses);
    }
    frame
}

/// The acknowledgement number that a frame answers by a reset, if it is an answer to us.
fn quoted(frame: &[u8], probe: &TunnelProbe, port: u16) -> Option<u32> {
    let (ip, from, kind) = if probe.to.address.is_ipv4() { (20, 12, [8, 0]) } else { (40, 8, [0x86, 0xdd]) };
    let from = frame.get(ETH + from..)?.starts_with(&octets(probe.to.address));
    let tcp = frame.get(ETH + ip..)?;
    let ports = tcp.get(..4)? == [DISCARD.to_be_bytes(), port.to_be_bytes()].concat();
    let resets = tcp.get(13)? & RST != 0 && frame.get(12..14)? == kind;
    let number = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    (from && ports && resets).then_some(number)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The sum of 16-bit words; an odd byte is the first of a word (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet socket at a device of the calling thread's namespace.
fn open(device: &str) -> io::Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(device)?;
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: the call takes numbers alone.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, &1i32)?;
    let wait = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &wait)?;
    // SAFETY: all bytes zero are a value of the structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the address is valid for the call, and of the length that is said.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as u32;
    // SAFETY: the value is valid for the call, and of the length that is said.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    Ok(socket::send(socket.as_raw_fd(), frame, MsgFlags::empty()).map(drop)?)
}

/// The next frame, without what says how it was left to the device; `None` if none came for a moment.
fn receive(socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 256];
    match socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(length) => Ok(buffer.get(LEFT..length).map(<[u8]>::to_vec)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use netd_common::tuple::Mac;

    use super::*;
    use crate::reconcile::{LinkName, Sandbox};

    fn probe(from: &str, to: &str) -> TunnelProbe {
        let station =
            |address: &str, last| Station { address: address.parse().unwrap(), mac: Mac([2, 0, 0, 0, 0, last]) };
        TunnelProbe {
            host: "node b (192.0.2.2)".into(),
            is_peer: false,
            vtep: "192.0.2.2".parse().unwrap(),
            network: "web".into(),
            mtu: 1450,
            sandbox: Sandbox { path: "/run/netns/one".into(), inode: 1 },
            ifname: LinkName::new("eth0").unwrap(),
            from: station(from, 1),
            to: station(to, 2),
        }
    }

    #[test]
    fn a_finished_segment_has_its_checksum_and_one_that_is_left_that_of_the_pseudo_header() {
        for (from, to, ip) in [("10.9.0.2", "10.9.0.3", 20), ("fd09::2", "fd09::3", 40)] {
            let probe = probe(from, to);
            let tcp = |question: Question| question.frame(&probe, 4000, 7)[LEFT + ETH + ip..].to_vec();
            let pseudo =
                |tcp: &[u8]| sum(&octets(probe.from.address)) + sum(&octets(probe.to.address)) + 6 + tcp.len() as u32;

            let small = tcp(Question::Small);
            assert_eq!(folded(pseudo(&small) + sum(&small)), 0xffff, "{from}");
            let large = tcp(Question::Cut);
            assert_eq!(large.len(), TCP + SEGMENTS * (1450 - ip - TCP));
            assert_eq!(u16::from_be_bytes([large[16], large[17]]), folded(pseudo(&large)));
        }
    }

    #[test]
    fn a_reset_from_who_was_asked_answers_and_nothing_else() {
        let probe = probe("10.9.0.2", "10.9.0.3");
        let mut reset = link_and_ip(probe.to, probe.from, TCP);
        reset.extend([0, 9, 0x0f, 0xa0, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, RST, 0, 0, 0, 0, 0, 0]);

        assert_eq!(quoted(&reset, &probe, 4000), Some(7));
        assert_eq!(quoted(&reset, &probe, 4001), None);
        assert_eq!(quoted(&reset[..40], &probe, 4000), None);
        let own = Question::Small.frame(&probe, 4000, 7);
        assert_eq!(quoted(&own[LEFT..], &probe, 4000), None, "what was sent");
    }
}
