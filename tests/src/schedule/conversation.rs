//! Who talks with whom in a schedule, and what they may rely on.

use std::net::{IpAddr, Ipv4Addr};

use netd_common::{
    parse::tcp_flags::{ACK, FIN, RST, SYN},
    tables::Hook,
    tuple::{Address, ICMP, Port, TCP, Tuple, UDP, Zone, echo},
    verdict::{DropReason, Verdict},
};

use super::TWIN;
use crate::{
    packets::{Build, ping, pong, tcp, udp},
    scene::{self, A, B, UPLINK},
    story::Arrived,
};

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Who opens the conversation.
    Opens,
    /// The far end, which knows the opener by the name that the translation gave it.
    Answers,
}

/// A conversation that may take place.
#[derive(Clone, Copy, Debug)]
pub enum Conversation {
    /// A container's with a server outside.
    Out {
        /// IP protocol number.
        protocol: u8,
        /// The host-side veth.
        device: u32,
        /// The container's port, or the echo's identifier.
        port: u16,
        /// The last byte of the server's address; its port is 80.
        server: u8,
    },
    /// A client's outside with a published port.
    In {
        /// IP protocol number.
        protocol: u8,
        /// The client's port.
        client: u16,
        /// The port on the host.
        published: u16,
    },
}

const fn out(protocol: u8, device: u32, port: u16, server: u8) -> Conversation {
    Conversation::Out { protocol, device, port, server }
}

const fn into(protocol: u8, client: u16, published: u16) -> Conversation {
    Conversation::In { protocol, client, published }
}

/// All that a schedule has. Ports of the ephemeral range have to change, those of the pools and 5000 may stay, 8080 is
/// published.
pub const CONVERSATIONS: [Conversation; 32] = [
    out(UDP, A, 33_000, 7),
    out(UDP, B, 33_000, 7),
    out(UDP, TWIN, 33_000, 7),
    out(UDP, A, 20_001, 7),
    out(UDP, B, 20_001, 7),
    out(UDP, A, 5000, 7),
    out(UDP, B, 5000, 7),
    out(UDP, TWIN, 5000, 7),
    out(UDP, A, 33_001, 7),
    out(UDP, B, 33_001, 7),
    out(UDP, B, 33_002, 7),
    out(UDP, A, 33_000, 8),
    out(TCP, A, 33_000, 7),
    out(TCP, B, 33_000, 7),
    out(TCP, TWIN, 33_000, 7),
    out(TCP, A, 20_001, 7),
    out(TCP, B, 20_001, 7),
    out(TCP, A, 5000, 7),
    out(TCP, B, 5000, 7),
    out(TCP, TWIN, 5000, 7),
    out(TCP, A, 8080, 7),
    out(TCP, B, 33_001, 7),
    out(TCP, A, 33_002, 7),
    out(ICMP, A, 7, 7),
    out(ICMP, B, 7, 7),
    out(ICMP, TWIN, 7, 7),
    into(TCP, 40_000, 8080),
    into(TCP, 40_000, 8081),
    into(TCP, 40_001, 8080),
    into(UDP, 40_000, 5353),
    into(UDP, 40_001, 5353),
    into(TCP, 20_001, 8081),
];

const CLIENT: &str = "203.0.113.9";
const HOST: &str = "192.0.2.1";

impl Conversation {
    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        match self {
            Self::Out { protocol, .. } | Self::In { protocol, .. } => *protocol,
        }
    }

    /// For stories.
    pub fn label(&self) -> String {
        let protocol = match self.protocol() {
            TCP => "tcp",
            UDP => "udp",
            _ => "ping",
        };
        match self {
            Self::Out { device, port, .. } => format!("{protocol} of {device} by {port} to {}", self.far_end()),
            Self::In { client, published, .. } => format!("{protocol} of the client by {client} to :{published}"),
        }
    }

    /// The far end as it is itself: a server outside, or the container's own port.
    pub fn far_end(&self) -> String {
        match self {
            Self::Out { protocol: ICMP, server, .. } => format!("198.51.100.{server}"),
            Self::Out { server, .. } => format!("198.51.100.{server}:80"),
            Self::In { published: 5353, .. } => "10.176.1.3:53".to_owned(),
            Self::In { .. } => "10.176.1.2:80".to_owned(),
        }
    }

    /// The opener's own port.
    pub const fn own_port(&self) -> u16 {
        match self {
            Self::Out { port, .. } => *port,
            Self::In { client, .. } => *client,
        }
    }

    /// The opener as it is itself.
    fn opener(&self) -> String {
        match self {
            Self::Out { device, port, .. } => format!("{}:{port}", container(*device).0),
            Self::In { client, .. } => format!("{CLIENT}:{client}"),
        }
    }

    /// Whom the opener talks to, as it knows them.
    fn peer(&self) -> String {
        match self {
            Self::Out { .. } => self.far_end(),
            Self::In { published, .. } => format!("{HOST}:{published}"),
        }
    }

    /// The tuple of the opener's packets.
    pub fn tuple(&self) -> Tuple {
        let (src, src_port) = end(&self.opener());
        let (dst, dst_port) = end(&self.peer());
        let zone = match self {
            Self::Out { device, .. } => Zone(container(*device).2),
            Self::In { .. } => Zone::HOST,
        };
        let echo = if self.protocol() == ICMP { echo::REQUEST } else { echo::NONE };
        Tuple { src, dst, src_port, dst_port, protocol: self.protocol(), echo, zone }
    }

    /// A packet of a side, the hook and the device at which it turns up. The far end answers to `name`.
    pub fn packet(&self, side: Side, flags: u8, name: Option<&str>) -> (Hook, u32, Vec<u8>) {
        let name = name.unwrap_or_default();
        let build = match (self.protocol(), side, self) {
            (ICMP, Side::Opens, Self::Out { device, port, .. }) => ping(container(*device).0, &self.far_end(), *port),
            (ICMP, _, _) => {
                let (address, identifier) = name.split_once(':').unwrap_or((name, "0"));
                pong(&self.far_end(), address, identifier.parse().unwrap_or_default())
            }
            (protocol, Side::Opens, _) => segment(protocol, &self.opener(), &self.peer(), flags),
            (protocol, Side::Answers, _) => segment(protocol, &self.far_end(), name, flags),
        };
        let inside = match self {
            Self::Out { device, .. } => *device,
            Self::In { published: 5353, .. } => B,
            Self::In { .. } => A,
        };
        if self.is_from_outside(side) {
            let build = build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]);
            return (Hook::FromUplink, UPLINK, build.bytes());
        }
        let bridge = container(inside).1;
        (Hook::FromContainer, inside, build.macs(scene::container_mac(inside), scene::bridge_mac(bridge)).bytes())
    }

    const fn is_from_outside(&self, side: Side) -> bool {
        matches!((self, side), (Self::Out { .. }, Side::Answers) | (Self::In { .. }, Side::Opens))
    }

    /// What the receiver of a packet takes its sender for, or, of an answer, to whom it is.
    pub fn view(&self, side: Side, came: &Arrived) -> String {
        if self.protocol() == ICMP {
            let address = came.end(if side == Side::Opens { 12 } else { 16 }, 4);
            return address;
        }
        if side == Side::Opens { came.source() } else { came.destination() }
    }

    /// The host's port in a name that masquerade gave; `None` for what comes from outside.
    pub fn port_of_the_host(&self, name: &str) -> Option<u16> {
        match self {
            Self::Out { .. } => name.rsplit_once(':').and_then(|(_, port)| port.parse().ok()),
            Self::In { .. } => None,
        }
    }

    /// Whether a packet that came through is where it must be, with the far end's name on an opener's packet and the opener's
    /// on an answer.
    pub fn leads_right(&self, side: Side, came: &Arrived) -> bool {
        let expected = match (self, side) {
            (Self::Out { .. }, Side::Opens) | (Self::In { .. }, Side::Answers) => Verdict::Neighbour(UPLINK),
            (Self::Out { device, .. }, Side::Answers) => Verdict::Peer(*device),
            (Self::In { published: 5353, .. }, Side::Opens) => Verdict::Peer(B),
            (Self::In { .. }, Side::Opens) => Verdict::Peer(A),
        };
        if came.verdict != expected {
            return false;
        }
        if self.protocol() == ICMP {
            return match side {
                Side::Opens => came.end(16, 4).starts_with(&format!("{}:", self.far_end())),
                Side::Answers => came.end(16, 4) == self.opener() && came.end(12, 4).starts_with(&self.far_end()),
            };
        }
        match side {
            Side::Opens => {
                let hosts = came.source().starts_with("192.0.2.1:");
                came.destination() == self.far_end() && hosts == matches!(self, Self::Out { .. })
            }
            Side::Answers => came.destination() == self.opener() && came.source() == self.peer(),
        }
    }

    /// Whether an answer of a container that came too late has opened a conversation of the container's own with the client.
    pub fn is_opened_by_the_answer(&self, came: &Arrived) -> bool {
        let hosts = came.source().starts_with("192.0.2.1:") && came.source() != self.peer();
        matches!(self, Self::In { .. }) && hosts && came.destination().starts_with(CLIENT)
    }

    /// Whether this may become of a packet of a conversation that need not be alive.
    pub fn may_be_refused(&self, side: Side, verdict: Verdict) -> bool {
        let reasons = [DropReason::NoFlow, DropReason::PortsExhausted, DropReason::TableFull];
        match verdict {
            Verdict::Pass => self.is_from_outside(side),
            Verdict::Drop(reason) => reasons.contains(&reason),
            Verdict::Show
            | Verdict::Peer(_)
            | Verdict::Neighbour(_)
            | Verdict::Tunnel(_)
            | Verdict::Device(_)
            | Verdict::Host(_) => false,
        }
    }
}

fn segment(protocol: u8, from: &str, to: &str, flags: u8) -> Build {
    if protocol == TCP { tcp(from, to).payload(b"odd").flags(flags) } else { udp(from, to) }
}

/// Address, bridge and zone of the container behind a host-side veth.
const fn container(device: u32) -> (&'static str, u32, u16) {
    match device {
        A => ("10.176.1.2", 20, 1),
        B => ("10.176.1.3", 20, 1),
        _ => ("10.176.1.2", 30, 2),
    }
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn end(text: &str) -> (Address, Port) {
    let (address, port) = text.split_once(':').unwrap_or((text, "0"));
    let address: Ipv4Addr = address.parse().expect("an address");
    (Address::new(IpAddr::V4(address)), Port::new(port.parse().expect("a port")))
}

/// What the ends of a conversation know of it, as nf_conntrack's documentation has it and not as netd's code does.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    /// What the far end calls the opener.
    pub name: Option<String>,
    /// Packets that came through.
    pub packets: u64,
    /// Something was lost, or two CPUs met at its end: nothing but where packets go is certain.
    vague: bool,
    /// How often that has happened.
    pub disturbances: u64,
    last: u64,
    answered: bool,
    acked: bool,
    closed: [bool; 2],
    reset: [bool; 2],
}

impl Memory {
    /// Makes it uncertain.
    pub fn disturb(&mut self) {
        self.vague = true;
        self.disturbances += 1;
    }

    /// Whether it is uncertain.
    pub const fn is_vague(&self) -> bool {
        self.vague
    }

    /// Whether a packet that came through begins a new flow, as far as can be told.
    pub fn begins(&self, protocol: u8, flags: u8, dead: bool) -> bool {
        let syn = protocol != TCP || flags & (SYN | ACK | FIN | RST) == SYN;
        self.packets == 0 || syn && (dead || !self.vague && protocol == TCP && self.is_over())
    }

    /// A packet of `side` came through.
    pub fn note(&mut self, side: Side, protocol: u8, flags: u8, now: u64, begins: bool) {
        if begins {
            let (name, packets, disturbances) = (self.name.take(), self.packets, self.disturbances);
            *self = Self { name, packets, disturbances, ..Self::default() };
        }
        let (packets, side_at) = (self.packets + 1, side as usize);
        self.packets = packets;
        self.last = now;
        self.answered |= side == Side::Answers;
        if protocol != TCP {
            return;
        }
        if flags & RST != 0 {
            self.reset[side_at] = true;
            return;
        }
        self.reset[side_at] = false;
        self.acked |= side == Side::Opens && flags & (SYN | ACK) == ACK;
        self.closed[side_at] |= flags & FIN != 0;
    }

    fn is_over(&self) -> bool {
        self.closed == [true, true] || self.reset != [false, false]
    }

    /// Whether the next packet of it must come through under the name that it has. Where places are short (`tight`), what
    /// nobody has answered may go, and what was answered and is not acknowledged for seconds.
    pub fn lives(&self, protocol: u8, now: u64, tight: bool) -> bool {
        let known = self.name.is_some() && !self.vague && !(protocol == TCP && self.is_over());
        let weak = !self.answered || protocol == TCP && !self.acked && self.age(now) > 2;
        known && !(tight && weak) && self.age(now) <= self.timeout(protocol)
    }

    /// Whether it must have been forgotten.
    pub fn is_dead(&self, protocol: u8, now: u64) -> bool {
        // A moment is known to a tick, and a flow lives at least as long as it should.
        const SLACK: u64 = 4;
        self.packets > 0 && self.age(now) > self.longest(protocol) + SLACK
    }

    fn age(&self, now: u64) -> u64 {
        (now - self.last) / 1_000_000_000
    }

    /// Seconds, as the scene's settings have them.
    fn timeout(&self, protocol: u8) -> u64 {
        match protocol {
            TCP if self.reset != [false, false] => 10,
            TCP if self.closed != [false, false] => 120,
            TCP if !self.answered => 120,
            TCP if !self.acked => 60,
            TCP => 432_000,
            UDP if self.answered => 120,
            _ => 30,
        }
    }

    fn longest(&self, protocol: u8) -> u64 {
        match (self.vague, protocol) {
            (true, TCP) => 432_000,
            (true, _) => 120,
            (false, _) => self.timeout(protocol),
        }
    }
}
