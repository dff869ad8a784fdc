//! Frames that carry the tag of a virtual LAN (IEEE 802.1Q), at an uplink with netd's programs on it.

use std::{
    io,
    net::UdpSocket,
    os::fd::{AsRawFd, OwnedFd},
};

use netd_tests::{
    lab::{Node, Offloads, traffic::PATIENCE},
    packets::udp,
};
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::town::{HOST, NEIGHBOUR, Town, wait_until};

/// Tag control information: a virtual LAN of its own, and one with a priority.
const LANS: [u16; 2] = [7, 0x6064];
/// No LAN but a priority, which is to the kernel as no tag.
const PRIORITY: u16 = 0xa000;
/// As a driver or the kernel takes it off the frame: in place.
const VLAN: [u8; 2] = [0x81, 0x00];

#[test]
fn frames_of_a_virtual_lan_pass_an_uplink_as_they_are_and_are_no_published_ports() {
    let town = Town::new(Offloads::Off);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7/udp"]);
    let echo = web.echo_udp(7);
    let macs = [&town.internet, &town.host].map(|node| mac(node));
    let [outside, inside] = [&town.internet, &town.host].map(|node| Wire::of(node));
    let published = udp(&format!("{NEIGHBOUR}:40000"), &format!("{HOST}:8007"));
    let answer = udp(&format!("{HOST}:8007"), &format!("{NEIGHBOUR}:40000"));
    let inward = published.payload(b"tagged, inward").macs(macs[0], macs[1]).bytes();
    let outward = answer.payload(b"tagged, outward").macs(macs[1], macs[0]).bytes();
    let held = || town.host.snmp("Udp", "InDatagrams");
    let before = held();

    for tag in LANS {
        outside.send(&tagged(&inward, tag));
        // Behind the programs: the kernel has put the tag aside, and knows of no such LAN.
        wait_until(&format!("the host gets what has the tag {tag:#x}"), || inside.hears(&inward).is_some());
    }
    assert_eq!(town.netd.json("flows").as_array().map(Vec::len), Some(0), "no flow is made");
    for tag in LANS.into_iter().chain([PRIORITY]) {
        inside.send(&tagged(&outward, tag));
        let mut heard = None;
        wait_until(&format!("the host's own with the tag {tag:#x} leaves"), || {
            heard = outside.hears(&outward);
            heard.is_some()
        });
        assert_eq!(heard, Some(Some(tag)), "with its tag");
    }
    assert!(echo.peers().is_empty(), "the container hears nothing of a LAN");

    let client = town.internet.enter(|| UdpSocket::bind((NEIGHBOUR, 40_000))).expect("the port is free");
    client.set_nonblocking(true).expect("a socket need not wait");
    outside.send(&tagged(&inward, PRIORITY));
    wait_until("the container answers what has a priority alone", || {
        let mut answer = [0; 64];
        client.recv_from(&mut answer).is_ok_and(|(length, from)| {
            (&answer[..length], from.to_string()) == (&b"tagged, inward"[..], format!("{HOST}:8007"))
        })
    });
    assert_eq!(held(), before, "the socket that holds the port for the host itself hears nothing");
    assert_eq!(
        town.internet.asks_udp(&format!("{HOST}:8007"), 1, 64, PATIENCE),
        1,
        "without a tag it is the container's"
    );
    assert!(echo.peers().iter().all(|peer| peer.to_string() == NEIGHBOUR), "{:?}", echo.peers());
}

fn mac(node: &Node) -> [u8; 6] {
    let shown = node.ip("-o link show dev eth0");
    let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("it is of Ethernet");
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
    bytes.try_into().expect("six bytes")
}

fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    [&frame[..12], &VLAN, &tag.to_be_bytes(), &frame[12..]].concat()
}

/// The end of a wire in a node, at its `eth0`.
struct Wire {
    socket: OwnedFd,
    index: u32,
}

impl Wire {
    /// Hears frames of IPv4: what comes to those of one protocol has passed the programs, and what every protocol is told of has
    /// not; outside, where there are none, it is the latter, which has its tag.
    fn of(node: &Node) -> Self {
        let index = node.ifindex("eth0").expect("there is eth0");
        let protocol = if node.name() == "host" { libc::ETH_P_IP } else { libc::ETH_P_ALL };
        let made = node.enter(|| {
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
            let (on, length) = (1_i32, size_of::<i32>() as u32);
            // SAFETY: a number of the length told, which outlives the call.
            let set = unsafe {
                let (level, name) = (libc::SOL_PACKET, libc::PACKET_AUXDATA);
                libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), length)
            };
            nix::errno::Errno::result(set)?;
            let address = address(index, protocol);
            let length = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: a whole address of the length told.
            let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
            nix::errno::Errno::result(bound).map(|_| socket)
        });
        Self { socket: made.expect("root hears frames"), index }
    }

    fn send(&self, frame: &[u8]) {
        let address = address(self.index, libc::ETH_P_ALL);
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: a frame and a whole address of the lengths told.
        let sent = unsafe {
            let (fd, to) = (self.socket.as_raw_fd(), (&raw const address).cast());
            libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, to, length)
        };
        assert_eq!(sent, frame.len() as isize, "root sends frames: {}", io::Error::last_os_error());
    }

    /// Whether this frame has come, and the tag that it had.
    fn hears(&self, frame: &[u8]) -> Option<Option<u16>> {
        let mut buffer = [0; 2048];
        let mut control = [0_u64; 16];
        loop {
            let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            // SAFETY: all zeroes are a message without anything.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
            (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
            // SAFETY: room of the lengths told, which outlives the call.
            let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
            let length = usize::try_from(length).ok()?;
            if &buffer[..length] == frame {
                return Some(tag_of(&message));
            }
        }
    }
}

/// The tag that the kernel has taken off a frame (`struct tpacket_auxdata`).
fn tag_of(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: a message that the kernel has filled in, whose control data is as long as it says.
    let auxiliary = unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null() || (*header).cmsg_type != libc::PACKET_AUXDATA {
            return None;
        }
        libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned()
    };
    (auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(auxiliary.tp_vlan_tci)
}

fn address(index: u32, protocol: i32) -> libc::sockaddr_ll {
    // SAFETY: all zeroes are an address of no interface.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    address
}
