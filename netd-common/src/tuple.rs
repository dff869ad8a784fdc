//! The five-tuple of a packet, and the small values it is made of.
//!
//! Values are in host order in the program and in network order only in their bytes, which nobody outside sees.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Address([u8; 16]);

impl Address {
    /// `0.0.0.0`: every IPv4 address of the host, where a publication says so.
    pub const ANY_V4: Self = Self::v4([0; 4]);
    /// `::`: every IPv6 address of the host, where a publication says so.
    pub const ANY_V6: Self = Self([0; 16]);

    /// The IPv4 address with these bytes, as they stand in a header.
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])
    }

    /// The IPv6 address with these bytes, as they stand in a header.
    pub const fn v6(b: [u8; 16]) -> Self {
        Self(b)
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
        if self.is_v4() { Ipv4Addr::from(self.v4_bytes()).into() } else { Ipv6Addr::from(self.0).into() }
    }

    /// Whether it is an IPv4 address.
    pub fn is_v4(self) -> bool {
        self.0[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }

    /// The last four bytes: of an IPv4 address, all of it.
    pub const fn v4_bytes(self) -> [u8; 4] {
        let b = self.0;
        [b[12], b[13], b[14], b[15]]
    }

    /// All sixteen bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// Four bytes at word `i`, counted from the front; zero past the end.
    pub fn word(self, i: usize) -> [u8; 4] {
        match i {
            0 => [self.0[0], self.0[1], self.0[2], self.0[3]],
            1 => [self.0[4], self.0[5], self.0[6], self.0[7]],
            2 => [self.0[8], self.0[9], self.0[10], self.0[11]],
            3 => [self.0[12], self.0[13], self.0[14], self.0[15]],
            _ => [0; 4],
        }
    }

    /// The unspecified address of the same family: `0.0.0.0` or `::`.
    pub fn any_of_family(self) -> Self {
        if self.is_v4() { Self::ANY_V4 } else { Self::ANY_V6 }
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

/// A link-layer address.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it names a group (broadcast included) and not one station (IEEE 802, the I/G bit).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// Where a tuple is unique: a network's number, or [`Zone::HOST`]. Two networks may use one subnet.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Zone(pub u16);

impl Zone {
    /// The host and everything behind its uplinks.
    pub const HOST: Self = Self(0);
}

/// What identifies a packet's flow and direction, and the key of the flow table.
///
/// An ICMP echo carries its identifier as the source port of a request and the destination port of a reply, so that the
/// two are each other's [`reversed`](Tuple::reversed).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
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
    /// Zero.
    pub pad: u8,
    /// The zone in which the packet is seen.
    pub zone: Zone,
}

impl Tuple {
    /// The tuple of a packet that answers this one, seen in `zone`.
    pub fn reversed(&self, zone: Zone) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
            pad: 0,
            zone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_went_in() {
        for text in ["10.176.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "fd00::7", "2001:db8::ffff:1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Address::new(address).ip(), address);
        }
    }

    #[test]
    fn reversing_twice_is_the_same_tuple() {
        let tuple = Tuple {
            src: Address::v4([10, 0, 0, 1]),
            dst: Address::v4([10, 0, 0, 2]),
            src_port: Port::new(1),
            dst_port: Port::new(2),
            protocol: TCP,
            pad: 0,
            zone: Zone(3),
        };
        assert_eq!(tuple.reversed(Zone::HOST).reversed(Zone(3)), tuple);
    }
}
