//! Who may send what: a container only as itself, and to a container only who may.

use crate::{
    packet::{ETH, Packet},
    parse::{ETHERTYPE_ARP, Ethernet},
    tables::{Device, DeviceKind, Tables},
    tuple::{Address, Tuple, UDP},
    verdict::DropReason,
};

/// Bytes from an ARP packet's start to the sender's link-layer and IPv4 addresses (RFC 826, for Ethernet and IPv4).
const ARP_SENDER: usize = 8;

/// Refuses a frame that a container sends in another's name.
#[inline(always)]
pub fn require_own_mac(device: &Device, frame: Ethernet) -> Result<(), DropReason> {
    if frame.source == device.mac { Ok(()) } else { Err(DropReason::SpoofedMac) }
}

/// Refuses an ARP packet that claims another's addresses. A probe claims none (RFC 5227 section 1.1).
#[inline(always)]
pub fn require_own_arp<P: Packet>(p: &P, device: &Device) -> Result<(), DropReason> {
    let b = p.read::<10>(ETH + ARP_SENDER)?;
    if [b[0], b[1], b[2], b[3], b[4], b[5]] != device.mac.0 {
        return Err(DropReason::SpoofedMac);
    }
    let claimed = [b[6], b[7], b[8], b[9]];
    if claimed == device.ipv4 || claimed == [0; 4] { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Refuses a packet whose source is not the container's. Without an address yet it may ask for one (DHCP), and IPv6 has
/// link-local and unspecified sources (RFC 4861).
#[inline(always)]
pub fn require_own_address(device: &Device, tuple: &Tuple) -> Result<(), DropReason> {
    let src = tuple.src;
    if device.address(src) == Some(src) {
        return Ok(());
    }
    let allowed = if src.is_v4() {
        src == Address::ANY_V4 && tuple.protocol == UDP && tuple.dst_port.number() == 67
    } else {
        src == Address::ANY_V6 || src.is_link_local()
    };
    if allowed { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Whether a packet from this address may leave its link (RFC 4291 sections 2.5.2 and 2.5.6).
#[inline(always)]
pub fn goes_beyond_link(src: Address) -> bool {
    src != src.any_of_family() && !src.is_link_local()
}

/// Whether the frame is ARP.
#[inline(always)]
pub fn is_arp(frame: Ethernet) -> bool {
    frame.ethertype == ETHERTYPE_ARP
}

/// Refuses what the slow path would deliver to a container of `to` and no hook of ours has approved: only the host itself
/// and the container's own network may reach it.
#[inline(always)]
pub fn require_reachable<T: Tables>(t: &T, to: &Device, came_by: u32) -> Result<(), DropReason> {
    if came_by == 0 {
        return Ok(());
    }
    let Some(from) = t.device(came_by) else { return Err(DropReason::NotPublished) };
    if from.is(DeviceKind::Uplink) {
        return Err(DropReason::NotPublished);
    }
    if from.zone == to.zone { Ok(()) } else { Err(DropReason::Isolated) }
}
