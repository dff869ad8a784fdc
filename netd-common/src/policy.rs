//! Who may send what: a container only as itself, and to a container only who may.

use crate::{
    neighbour,
    parse::{ETHERTYPE_ARP, Ethernet},
    tables::{Device, DeviceKind, Tables, device_flags},
    tuple::{Address, Tuple, UDP},
    verdict::DropReason,
};

/// Refuses a frame that a container sends in another's name.
#[inline(always)]
pub fn require_own_mac(device: &Device, frame: Ethernet) -> Result<(), DropReason> {
    if frame.source == device.mac { Ok(()) } else { Err(DropReason::SpoofedMac) }
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
        src == Address::ANY_V6 || neighbour::may_be_own_link_local(device.mac, src)
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
/// and the container's own network may reach it, and that not where containers are kept apart: what is allowed there comes past
/// the bridge.
#[inline(always)]
pub fn require_reachable<T: Tables>(t: &T, to: &Device, came_by: u32) -> Result<(), DropReason> {
    if came_by == 0 {
        return Ok(());
    }
    let Some(from) = t.device(came_by) else { return Err(DropReason::NotPublished) };
    if from.is(DeviceKind::Uplink) {
        return Err(DropReason::NotPublished);
    }
    if from.zone != to.zone {
        return Err(DropReason::Isolated);
    }
    if from.is(DeviceKind::Join) {
        // Judged where it left the other bridge of the network.
        return Ok(());
    }
    if to.has(device_flags::NO_ICC) { Err(DropReason::NotAllowed) } else { Ok(()) }
}
