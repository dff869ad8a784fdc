//! Packets as builders.

mod checksums;
mod errors;
mod fragments;
mod twins;

use std::net::Ipv4Addr;

use etherparse::{
    EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header, Ipv4Options, TcpHeader,
    UdpHeader, icmpv4::DestUnreachableHeader,
};
use netd_common::{packet::ETH, parse::tcp_flags};

pub use self::{
    checksums::{
        all_hold, checksums_hold, icmpv6_checksum, ipv6_checksums_hold, left_to_the_device, sum, summed_by_the_device,
    },
    errors::{icmpv6_error, with_macs},
    fragments::{fragments, ipv6_fragments, reassembled},
    twins::{ipv6_twin, padding, twin, with_extensions},
};

/// A packet to be.
#[derive(Clone, Debug)]
pub struct Build {
    ethernet: Ethernet2Header,
    ip: Ipv4Header,
    transport: Transport,
    payload: Vec<u8>,
    udp_checksum: bool,
    protocol: Option<u8>,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp(TcpHeader),
    Udp(UdpHeader),
    Icmp(Icmpv4Type),
    Other(u8),
}

/// A TCP SYN with 100 bytes of payload room left empty.
pub fn tcp(from: &str, to: &str) -> Build {
    let ((src, sport), (dst, dport)) = (parse(from), parse(to));
    let mut tcp = TcpHeader::new(sport, dport, 1000, 64240);
    tcp.syn = true;
    Build::new(src, dst, Transport::Tcp(tcp))
}

/// A UDP datagram.
pub fn udp(from: &str, to: &str) -> Build {
    let ((src, sport), (dst, dport)) = (parse(from), parse(to));
    let udp = UdpHeader { source_port: sport, destination_port: dport, length: 0, checksum: 0 };
    Build::new(src, dst, Transport::Udp(udp)).payload(b"datagram")
}

/// An ICMP echo request with this identifier.
pub fn ping(from: &str, to: &str, id: u16) -> Build {
    let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq: 1 });
    Build::new(address(from), address(to), Transport::Icmp(echo)).payload(b"are you there?")
}

/// An ICMP echo reply with this identifier.
pub fn pong(from: &str, to: &str, id: u16) -> Build {
    let echo = Icmpv4Type::EchoReply(IcmpEchoHeader { id, seq: 1 });
    Build::new(address(from), address(to), Transport::Icmp(echo)).payload(b"are you there?")
}

/// An ICMP error about the packet in `about`, of which it quotes `quoted` bytes of the IP packet: fragmentation needed by a
/// link of 1280 bytes, or port unreachable.
pub fn icmp_error(from: &str, to: &str, too_big: bool, about: &[u8], quoted: usize) -> Build {
    let kind = if too_big {
        DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1280 }
    } else {
        DestUnreachableHeader::Port
    };
    let error = Transport::Icmp(Icmpv4Type::DestinationUnreachable(kind));
    let ip = &about[ETH..];
    Build::new(address(from), address(to), error).payload(&ip[..quoted.min(ip.len())])
}

/// A packet of any protocol: what follows the IP header is the payload.
pub fn other(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Build {
    Build::new(address(from), address(to), Transport::Other(protocol)).payload(payload)
}

/// An SCTP packet whose first chunk has this type. Its checksum is some number: nothing on the way knows or changes it.
pub fn sctp(from: &str, to: &str, chunk: u8) -> Build {
    let ((src, sport), (dst, dport)) = (parse(from), parse(to));
    let header = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    let rest = [1, 2, 3, 4, 0xc0, 0xff, 0xee, 0x11, chunk, 0, 0, 20, 5, 5, 5, 5, 0, 1, 0, 0, 0, 1, 0, 1, 6, 6, 6, 6];
    Build::new(src, dst, Transport::Other(132)).payload(&[&header[..], &rest].concat())
}

/// An ICMP message, from its type on, its checksum put right.
pub fn icmp(from: &str, to: &str, message: &[u8]) -> Build {
    let mut message = message.to_vec();
    message[2..4].copy_from_slice(&[0, 0]);
    let checksum = !sum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    other(from, to, 1, &message)
}

impl Build {
    fn new(src: Ipv4Addr, dst: Ipv4Addr, transport: Transport) -> Self {
        let ip = Ipv4Header { source: src.octets(), destination: dst.octets(), time_to_live: 64, ..Default::default() };
        let ethernet = Ethernet2Header { ether_type: EtherType::IPV4, ..Default::default() };
        Self { ethernet, ip, transport, payload: Vec::new(), udp_checksum: true, protocol: None }
    }

    /// With these link-layer addresses.
    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        (self.ethernet.source, self.ethernet.destination) = (source, destination);
        self
    }

    /// With these TCP flags, of [`tcp_flags`].
    pub fn flags(mut self, flags: u8) -> Self {
        if let Transport::Tcp(tcp) = &mut self.transport {
            tcp.syn = flags & tcp_flags::SYN != 0;
            tcp.ack = flags & tcp_flags::ACK != 0;
            tcp.fin = flags & tcp_flags::FIN != 0;
            tcp.rst = flags & tcp_flags::RST != 0;
        }
        self
    }

    /// With this TCP sequence number, and this acknowledgement number.
    pub fn numbers(mut self, sequence: u32, acknowledgement: u32) -> Self {
        if let Transport::Tcp(tcp) = &mut self.transport {
            (tcp.sequence_number, tcp.acknowledgment_number) = (sequence, acknowledgement);
        }
        self
    }

    /// With its ends exchanged.
    pub fn turned(mut self) -> Self {
        std::mem::swap(&mut self.ip.source, &mut self.ip.destination);
        match &mut self.transport {
            Transport::Tcp(tcp) => std::mem::swap(&mut tcp.source_port, &mut tcp.destination_port),
            Transport::Udp(udp) => std::mem::swap(&mut udp.source_port, &mut udp.destination_port),
            Transport::Icmp(_) | Transport::Other(_) => {}
        }
        self
    }

    /// Said to be of this protocol, whatever it carries.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// With this payload.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With this time to live.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ip.time_to_live = ttl;
        self
    }

    /// With so many bytes of no-operation options in the IP header, a multiple of four up to 40.
    pub fn ip_options(self, bytes: usize) -> Self {
        self.ip_options_of(&[1u8; 40][..bytes])
    }

    /// With these options in the IP header, a multiple of four bytes up to 40.
    pub fn ip_options_of(mut self, options: &[u8]) -> Self {
        self.ip.options = Ipv4Options::try_from(options).expect("a multiple of four up to 40");
        self
    }

    /// With this differentiated services field and congestion notification.
    pub fn tos(mut self, tos: u8) -> Self {
        self.ip.dscp = (tos >> 2).try_into().expect("6 bits");
        self.ip.ecn = (tos & 3).try_into().expect("2 bits");
        self
    }

    /// With this identification.
    pub fn identification(mut self, identification: u16) -> Self {
        self.ip.identification = identification;
        self
    }

    /// As a fragment: with more to come, or at this offset in units of eight bytes.
    pub fn fragment(mut self, more: bool, offset: u16) -> Self {
        self.ip.more_fragments = more;
        self.ip.fragment_offset = offset.try_into().expect("13 bits");
        self
    }

    /// Without a UDP checksum.
    pub fn without_udp_checksum(mut self) -> Self {
        self.udp_checksum = false;
        self
    }

    /// The bytes, with every checksum right.
    pub fn bytes(mut self) -> Vec<u8> {
        let mut segment = Vec::new();
        match &mut self.transport {
            Transport::Tcp(tcp) => {
                self.ip.protocol = IpNumber::TCP;
                tcp.checksum = tcp.calc_checksum_ipv4(&self.ip, &self.payload).expect("fits");
                tcp.write(&mut segment).expect("a vector takes all");
            }
            Transport::Udp(udp) => {
                self.ip.protocol = IpNumber::UDP;
                udp.length = 8 + self.payload.len() as u16;
                if self.udp_checksum {
                    udp.checksum = udp.calc_checksum_ipv4(&self.ip, &self.payload).expect("fits");
                }
                udp.write(&mut segment).expect("a vector takes all");
            }
            Transport::Icmp(kind) => {
                self.ip.protocol = IpNumber::ICMP;
                let icmp = Icmpv4Header::with_checksum(kind.clone(), &self.payload);
                icmp.write(&mut segment).expect("a vector takes all");
            }
            Transport::Other(protocol) => self.ip.protocol = IpNumber(*protocol),
        }
        segment.extend_from_slice(&self.payload);
        if let Some(protocol) = self.protocol {
            self.ip.protocol = IpNumber(protocol);
        }
        self.ip.set_payload_len(segment.len()).expect("fits");
        self.ip.header_checksum = self.ip.calc_header_checksum();
        let mut bytes = Vec::new();
        self.ethernet.write(&mut bytes).expect("a vector takes all");
        self.ip.write_raw(&mut bytes).expect("a vector takes all");
        bytes.extend_from_slice(&segment);
        bytes
    }
}

fn parse(text: &str) -> (Ipv4Addr, u16) {
    let (address, port) = text.split_once(':').expect("ADDRESS:PORT");
    (self::address(address), port.parse().expect("a port"))
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}
