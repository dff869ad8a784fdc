//! Packets as builders, and the oracle that recomputes their checksums from nothing.

use std::net::Ipv4Addr;

use etherparse::{
    EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header, Ipv4Options, TcpHeader,
    UdpHeader, icmpv4::DestUnreachableHeader,
};
use netd_common::{packet::ETH, parse::tcp_flags};

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

/// The IPv6 address that stands for an IPv4 one in twins of packets and scenes.
pub fn twin(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// An IPv4 packet's twin of IPv6: the same with addresses by [`twin`], without options; a fragment has the extension header.
/// What an error quotes becomes a twin too, its own checksum aside.
pub fn ipv6_twin(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet[..ETH].to_vec();
    bytes[12..ETH].copy_from_slice(&[0x86, 0xdd]);
    let (ip, segment) = packet[ETH..].split_at(usize::from(packet[ETH] & 0x0f) * 4);
    let later = ip[6] & 0x1f != 0 || ip[7] != 0;
    let mut segment = segment.to_vec();
    if ip[9] == 1 && !later {
        twin_of_icmp(&mut segment);
    }
    header_twin(ip, segment.len(), &mut bytes);
    bytes.extend_from_slice(&segment);
    let udp_without = ip[9] == 17 && segment.get(6..8) == Some(&[0, 0]);
    if let Some((field, l4)) = checksum_field6(&bytes).filter(|_| !udp_without) {
        bytes[field..field + 2].copy_from_slice(&[0, 0]);
        let checksum = !sum(&[&pseudo_header6(&bytes, l4), &bytes[l4..]].concat());
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// Puts extension headers, each a type and its bytes with a length of any multiple of eight, between an IPv6 header and what
/// follows it. Their first byte, the type of the next, is filled in.
pub fn with_extensions(packet: &[u8], extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = packet[..ETH + 40].to_vec();
    let mut place = ETH + 6;
    for (kind, header) in extensions {
        let at = bytes.len();
        let next = std::mem::replace(&mut bytes[place], *kind);
        bytes.extend(header);
        bytes[at] = next;
        place = at;
    }
    bytes.extend(&packet[ETH + 40..]);
    let length = (bytes.len() - ETH - 40) as u16;
    bytes[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// An extension header of `length` bytes, a multiple of eight, filled with one option of padding (RFC 8200 section 4.2).
pub fn padding(length: usize) -> Vec<u8> {
    let mut header = vec![0; length];
    (header[1], header[2], header[3]) = ((length / 8 - 1) as u8, 1, (length - 4) as u8);
    header
}

/// Writes the header of IPv6 for one of IPv4, with that of a fragment where it is one.
fn header_twin(ip: &[u8], segment: usize, bytes: &mut Vec<u8>) {
    let is_fragment = ip[6] & 0x3f != 0 || ip[7] != 0;
    let next = if ip[9] == 1 { 58 } else { ip[9] };
    let length = (segment + if is_fragment { 8 } else { 0 }) as u16;
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend([if is_fragment { 44 } else { next }, ip[8]]);
    bytes.extend(twin([ip[12], ip[13], ip[14], ip[15]]));
    bytes.extend(twin([ip[16], ip[17], ip[18], ip[19]]));
    if is_fragment {
        let offset = u16::from_be_bytes([ip[6] & 0x1f, ip[7]]) << 3 | u16::from(ip[6] & 0x20 != 0);
        bytes.extend([next, 0]);
        bytes.extend(offset.to_be_bytes());
        bytes.extend([0, 0, ip[4], ip[5]]);
    }
}

/// Gives an ICMP message the numbers of ICMPv6, and the packet that an error quotes those of IPv6.
fn twin_of_icmp(message: &mut Vec<u8>) {
    match (message[0], message[1]) {
        (8, _) => message[0] = 128,
        (0, _) => message[0] = 129,
        (3, code) => {
            let (kind, code) = if code == 4 { (2, 0) } else { (1, 4) };
            (message[0], message[1]) = (kind, code);
            let quoted = message.split_off(8);
            let header = usize::from(quoted[0] & 0x0f) * 4;
            let mut segment = quoted.get(header..).unwrap_or_default().to_vec();
            if quoted[9] == 1 && !segment.is_empty() {
                segment[0] = if segment[0] == 8 { 128 } else { 129 };
            }
            header_twin(&quoted, segment.len(), message);
            message.extend(segment);
        }
        _ => {}
    }
}

/// Where the transport checksum of an IPv6 packet without extension headers is, and where its segment starts.
fn checksum_field6(packet: &[u8]) -> Option<(usize, usize)> {
    let l4 = ETH + 40;
    let field = match packet[ETH + 6] {
        6 => l4 + 16,
        17 => l4 + 6,
        58 => l4 + 2,
        _ => return None,
    };
    (field + 2 <= packet.len()).then_some((field, l4))
}

/// RFC 8200 section 8.1.
fn pseudo_header6(packet: &[u8], l4: usize) -> Vec<u8> {
    let mut pseudo = packet[ETH + 8..ETH + 40].to_vec();
    pseudo.extend(((packet.len() - l4) as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, packet[ETH + 6]]);
    pseudo
}

/// The checksum of the ICMPv6 message from `l4` on, whose own field is zero (RFC 4443 section 2.3).
pub fn icmpv6_checksum(packet: &[u8], l4: usize) -> [u8; 2] {
    (!sum(&[&pseudo_header6(packet, l4), &packet[l4..]].concat())).to_be_bytes()
}

/// As [`checksums_hold`] for IPv6.
pub fn ipv6_checksums_hold(packet: &[u8]) -> Result<(), &'static str> {
    let Some((field, l4)) = checksum_field6(packet) else { return Ok(()) };
    let length = usize::from(u16::from_be_bytes([packet[ETH + 4], packet[ETH + 5]]));
    if l4 + length != packet.len() || packet[ETH + 6] == 17 && packet[field..field + 2] == [0, 0] {
        return Ok(());
    }
    let all = [&pseudo_header6(packet, l4), &packet[l4..]].concat();
    if sum(&all) == 0xffff { Ok(()) } else { Err("transport checksum") }
}

/// Cuts an IPv4 packet into fragments of at most `size` bytes of payload, a multiple of eight, with this identification.
pub fn fragments(packet: &[u8], size: usize, identification: u16) -> Vec<Vec<u8>> {
    let l4 = ETH + usize::from(packet[ETH] & 0x0f) * 4;
    let parts: Vec<_> = packet[l4..].chunks(size).collect();
    let last = parts.len() - 1;
    let fragment = |(i, part): (usize, &&[u8])| {
        let mut bytes = [&packet[..l4], part].concat();
        let more = if i == last { 0 } else { 0x2000 };
        bytes[ETH + 2..ETH + 4].copy_from_slice(&((l4 - ETH + part.len()) as u16).to_be_bytes());
        bytes[ETH + 4..ETH + 6].copy_from_slice(&identification.to_be_bytes());
        bytes[ETH + 6..ETH + 8].copy_from_slice(&(more | (i * size / 8) as u16).to_be_bytes());
        sum_header(&mut bytes[ETH..l4]);
        bytes
    };
    parts.iter().enumerate().map(fragment).collect()
}

/// Puts fragments of one packet together, in the order in which they come.
pub fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let l4 = ETH + usize::from(fragments[0][ETH] & 0x0f) * 4;
    let mut packet = fragments[0][..l4].to_vec();
    packet.extend(fragments.iter().flat_map(|fragment| &fragment[l4..]));
    let length = (packet.len() - ETH) as u16;
    packet[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
    packet[ETH + 6..ETH + 8].copy_from_slice(&[0, 0]);
    sum_header(&mut packet[ETH..l4]);
    packet
}

fn sum_header(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let checksum = !sum(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn parse(text: &str) -> (Ipv4Addr, u16) {
    let (address, port) = text.split_once(':').expect("ADDRESS:PORT");
    (self::address(address), port.parse().expect("a port"))
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

/// The one's-complement sum of 16-bit words in network order (RFC 1071), not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo_header_sum(packet: &[u8], length: usize) -> u16 {
    let mut pseudo = packet[ETH + 12..ETH + 20].to_vec();
    pseudo.extend([0, packet[ETH + 9]]);
    pseudo.extend((length as u16).to_be_bytes());
    sum(&pseudo)
}

/// Where the transport checksum of a whole IPv4 packet is, and where its segment starts.
fn checksum_field(packet: &[u8]) -> Option<(usize, usize)> {
    let l4 = ETH + usize::from(packet[ETH] & 0x0f) * 4;
    match packet[ETH + 9] {
        6 => Some((l4 + 16, l4)),
        17 => Some((l4 + 6, l4)),
        1 => Some((l4 + 2, l4)),
        _ => None,
    }
}

/// Leaves the TCP or UDP checksum of a packet to the device, as a sender with offload does: only the pseudo-header is summed.
pub fn left_to_the_device(mut packet: Vec<u8>) -> Vec<u8> {
    let (field, l4) = checksum_field(&packet).expect("TCP or UDP");
    let partial = pseudo_header_sum(&packet, packet.len() - l4);
    packet[field..field + 2].copy_from_slice(&partial.to_be_bytes());
    packet
}

/// What the device does then: sums the segment, the pseudo-header's sum being in the field.
pub fn summed_by_the_device(mut packet: Vec<u8>) -> Vec<u8> {
    let (field, l4) = checksum_field(&packet).expect("TCP or UDP");
    let complete = !sum(&packet[l4..]);
    packet[field..field + 2].copy_from_slice(&complete.to_be_bytes());
    packet
}

/// Recomputes the checksums of an IPv4 packet from its bytes; an error names the one that is wrong. A UDP checksum that is
/// absent is right; what is cut off cannot be told, nor a
/// fragment's transport checksum.
pub fn checksums_hold(packet: &[u8]) -> Result<(), &'static str> {
    let header = usize::from(packet[ETH] & 0x0f) * 4;
    let Some(ip) = packet.get(ETH..ETH + header) else { return Ok(()) };
    if sum(ip) != 0xffff {
        return Err("IPv4 header checksum");
    }
    let total = usize::from(u16::from_be_bytes([packet[ETH + 2], packet[ETH + 3]]));
    let fragment = packet[ETH + 6] & 0x3f != 0 || packet[ETH + 7] != 0;
    let Some((field, l4)) = checksum_field(packet) else { return Ok(()) };
    if fragment || total + ETH != packet.len() {
        return Ok(());
    }
    let protocol = packet[ETH + 9];
    if protocol == 17 && packet[field..field + 2] == [0, 0] {
        return Ok(());
    }
    let mut all = vec![];
    if protocol != 1 {
        all.extend(pseudo_header_sum(packet, packet.len() - l4).to_be_bytes());
    }
    all.extend_from_slice(&packet[l4..]);
    if sum(&all) == 0xffff { Ok(()) } else { Err("transport checksum") }
}
