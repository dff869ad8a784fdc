//! The five-tuple of a packet, and the small values it is made of.
//!
//! Values are in host order in the program and in network order only in their bytes, which nobody outside sees.

use core::{
    cmp::Ordering,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bytemuck::{Pod, Zeroable};

/// ICMP for IPv4 (RFC 792).
pub const ICMP: u8 = 1;
/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// ICMP for IPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;
/// SCTP (RFC 9260).
pub const SCTP: u8 = 132;

/// An IPv4 or IPv6 address in 16 bytes; IPv4 as its IPv4-mapped form (RFC 4291 section 2.5.5.2).
///
/// Kept as four words whose bytes in memory are those of the header: words are compared and copied without loops.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Address([u32; 4]);

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// `0.0.0.0`: every IPv4 address of the host, where a publication says so.
    pub const ANY_V4: Self = Self::v4([0; 4]);
    /// `::`: every IPv6 address of the host, where a publication says so.
    pub const ANY_V6: Self = Self([0; 4]);

    /// The IPv4 address with these bytes, as they stand in a header.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([0, 0, MAPPED, u32::from_ne_bytes(b)])
    }

    /// The IPv6 address with these bytes, as they stand in a header.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// The address of either family that the type of the standard library holds.
    pub const fn new(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::v4(a.octets()),
            IpAddr::V6(a) => Self::v6(a.octets()),
        }
    }

    /// The same address as the standard library's type.
    pub fn ip(self) -> IpAddr {
        if self.is_v4() { Ipv4Addr::from(self.v4_bytes()).into() } else { Ipv6Addr::from(self.bytes()).into() }
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] | self.0[1] | (self.0[2] ^ MAPPED) == 0
    }

    /// The last four bytes: of an IPv4 address, all of it.
    #[inline(always)]
    pub const fn v4_bytes(self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    /// All sixteen bytes.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 16] {
        let [a, b, c, d] =
            [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes(), self.0[3].to_ne_bytes()];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// Its bytes as four words of memory.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The address whose bytes are these words of memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// Whether it is an IPv6 address of one link (RFC 4291 section 2.5.6).
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        let [a, b, ..] = self.0[0].to_ne_bytes();
        a == 0xfe && b & 0xc0 == 0x80
    }

    /// Whether it leads back to the host that sends there: `127.0.0.0/8` or `::1` (RFC 1122 section 3.2.1.3, RFC 4291 section
    /// 2.5.3).
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        let [a, b, c, d] = self.0;
        if self.is_v4() { d.to_ne_bytes()[0] == 127 } else { a | b | c == 0 && d == 1_u32.to_be() }
    }

    /// The loopback address of the same family: `127.0.0.1` or `::1`.
    #[inline(always)]
    pub const fn loopback_of_family(self) -> Self {
        if self.is_v4() { Self::v4([127, 0, 0, 1]) } else { Self([0, 0, 0, 1_u32.to_be()]) }
    }

    /// The unspecified address of the same family: `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn any_of_family(self) -> Self {
        if self.is_v4() { Self::ANY_V4 } else { Self::ANY_V6 }
    }
}

impl PartialEq for Address {
    /// Without a loop or a branch: this runs in the kernel, where a library's `memcmp` counts bytes.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.0, other.0);
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }
}

impl Eq for Address {}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Address {
    /// As the bytes stand in a header: numerically.
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(&other.bytes())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self::new(address)
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.octets())
    }
}

/// A TCP, UDP or SCTP port, or the identifier of an ICMP echo.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Port([u8; 2]);

impl Port {
    /// Where an ICMP echo has no port: the side that does not carry the identifier.
    pub const NONE: Self = Self([0; 2]);

    /// The port with this number.
    pub const fn new(number: u16) -> Self {
        Self(number.to_be_bytes())
    }

    /// The port with these bytes, as they stand in a header.
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(bytes)
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        u16::from_be_bytes(self.0)
    }

    /// Its bytes, as they stand in a header.
    pub const fn bytes(self) -> [u8; 2] {
        self.0
    }
}

/// A link-layer address. Aligned so that the kernel's side need not compare it byte by byte.
#[repr(C, align(2))]
#[derive(Clone, Copy, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct Mac(pub [u8; 6]);

impl PartialEq for Mac {
    /// Without a loop, as for [`Address`].
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.0, other.0);
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]) == u32::from_ne_bytes([b[0], b[1], b[2], b[3]])
            && u16::from_ne_bytes([a[4], a[5]]) == u16::from_ne_bytes([b[4], b[5]])
    }
}

impl Mac {
    /// Every station.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group (broadcast included) and not one station (IEEE 802, the I/G bit).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// Where a tuple is unique: a network's number, [`Zone::HOST`], or one that stands for another host. Two networks may use one
/// subnet, and one client may come with the same tuple by two hosts.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Zone(pub u16);

impl Zone {
    /// The host and everything behind its uplinks.
    pub const HOST: Self = Self(0);
    /// The highest number of a network.
    pub const LAST_NETWORK: Self = Self(0x7fff);

    /// What comes to a port of this host's containers by another host, whose VTEP this is. Hosts whose addresses are alike but for
    /// their last 15 bits have zones of their own.
    #[inline(always)]
    pub const fn of_vtep(vtep: Address) -> Self {
        let [a, b, c, d] = vtep.words();
        let word = u32::from_be(a) ^ u32::from_be(b) ^ u32::from_be(c) ^ u32::from_be(d);
        let folded = word ^ word >> 15 ^ word >> 30;
        Self(folded as u16 | !Self::LAST_NETWORK.0)
    }

    /// Whether it stands for another host.
    #[inline(always)]
    pub const fn is_of_vtep(self) -> bool {
        self.0 > Self::LAST_NETWORK.0
    }
}

/// Values of [`Tuple::echo`].
pub mod echo {
    /// No echo.
    pub const NONE: u8 = 0;
    /// An echo request.
    pub const REQUEST: u8 = 1;
    /// An echo reply.
    pub const REPLY: u8 = 2;
}

/// What identifies a packet's flow and direction, and the key of the flow table.
///
/// An ICMP echo carries its identifier as the source port of a request and the destination port of a reply, so that the
/// two are each other's [`reversed`](Tuple::reversed).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct Tuple {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source port, or the identifier of an echo request.
    pub src_port: Port,
    /// Destination port, or the identifier of an echo reply.
    pub dst_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Which of an ICMP echo's two messages it is ([`echo`]); without it a request and a reply with the identifier 0 were
    /// the same.
    pub echo: u8,
    /// The zone in which the packet is seen.
    pub zone: Zone,
}

impl Tuple {
    /// The tuple of a packet that answers this one, seen in `zone`.
    #[inline(always)]
    pub fn reversed(&self, zone: Zone) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
            echo: if self.echo == echo::NONE { echo::NONE } else { echo::REQUEST + echo::REPLY - self.echo },
            zone,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn an_address_comes_back_as_it_went_in() {
        for text in ["10.176.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "fd00::7", "2001:db8::ffff:1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Address::new(address).ip(), address);
        }
    }

    #[test]
    fn hosts_that_differ_in_their_last_bits_alone_have_zones_of_their_own_and_no_networks() {
        let mut zones: std::vec::Vec<_> = (0..1 << 15)
            .map(|n: u16| {
                let [a, b] = n.to_be_bytes();
                Zone::of_vtep(Address::v4([192, 0, a, b]))
            })
            .collect();
        zones.sort_unstable();
        zones.dedup();

        assert_eq!(zones.len(), 1 << 15);
        assert!(zones.iter().all(|zone| zone.is_of_vtep() && *zone > Zone::LAST_NETWORK));
        let v6 = |last| Zone::of_vtep(Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]));
        assert!(v6(1).is_of_vtep() && v6(1) != v6(2));
        assert!(!Zone::HOST.is_of_vtep() && !Zone::LAST_NETWORK.is_of_vtep());
    }

    #[test]
    fn reversing_twice_is_the_same_tuple() {
        let tuple = Tuple {
            src: Address::v4([10, 0, 0, 1]),
            dst: Address::v4([10, 0, 0, 2]),
            src_port: Port::new(1),
            dst_port: Port::new(2),
            protocol: TCP,
            echo: echo::NONE,
            zone: Zone(3),
        };
        assert_eq!(tuple.reversed(Zone::HOST).reversed(Zone(3)), tuple);
    }
}
