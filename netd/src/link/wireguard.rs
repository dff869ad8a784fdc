//! What the host reaches by its WireGuard devices, routed there or not yet: the addresses that their peers may have.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd, WireguardMessage,
    WireguardPeerAttribute,
};
use rtnetlink::{
    packet_route::link::InfoKind,
    sys::{Socket, protocols::NETLINK_GENERIC},
};

use super::{
    Links,
    asked::{dump, socket},
};

/// `WG_GENL_NAME` of `linux/wireguard.h`.
const FAMILY: &str = "wireguard";

impl Links {
    /// The allowed IPs of the peers of every WireGuard device, behind its name, in the namespace of the calling thread.
    pub async fn allowed_by_wireguard(&self) -> Result<BTreeSet<(String, IpNet)>> {
        let links = self.seen_links().await?;
        let devices: Vec<_> = links.values().filter(|link| link.kind == Some(InfoKind::Wireguard)).collect();
        if devices.is_empty() {
            return Ok(BTreeSet::new());
        }
        let socket = socket(NETLINK_GENERIC).context("cannot ask about WireGuard's devices")?;
        let Some(family) = family(&socket).context("cannot ask about WireGuard's devices")? else {
            return Ok(BTreeSet::new());
        };
        let mut allowed = BTreeSet::new();
        for device in devices {
            let name = device.name.to_string();
            // One that is gone since has no peers.
            let Ok(told) = dump(&socket, &question(&name, family)) else { continue };
            let nets = told.iter().flat_map(|message| nets(&message.payload));
            allowed.extend(nets.map(|net| (name.clone(), net)));
        }
        Ok(allowed)
    }
}

/// The number by which the kernel knows WireGuard's messages, if it does.
fn family(socket: &Socket) -> Result<Option<u16>> {
    let mut request = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: Vec::new() });
    request.finalize();
    let families = dump(socket, &request)?;
    let named = |family: &&GenlMessage<GenlCtrl>| {
        family.payload.nlas.iter().any(|nla| matches!(nla, GenlCtrlAttrs::FamilyName(name) if name == FAMILY))
    };
    let number = |family: &GenlMessage<GenlCtrl>| {
        family.payload.nlas.iter().find_map(|nla| match nla {
            GenlCtrlAttrs::FamilyId(number) => Some(*number),
            _ => None,
        })
    };
    Ok(families.iter().find(named).and_then(number))
}

fn question(name: &str, family: u16) -> GenlMessage<WireguardMessage> {
    let attributes = vec![WireguardAttribute::IfName(name.to_owned())];
    let mut question = GenlMessage::from_payload(WireguardMessage { cmd: WireguardCmd::GetDevice, attributes });
    question.set_resolved_family_id(family);
    question.finalize();
    question
}

/// The allowed IPs in what is told of a device.
fn nets(message: &WireguardMessage) -> Vec<IpNet> {
    let peers = message.attributes.iter().filter_map(|attribute| match attribute {
        WireguardAttribute::Peers(peers) => Some(peers),
        _ => None,
    });
    let lists = peers.flatten().flat_map(|peer| &peer.0).filter_map(|attribute| match attribute {
        WireguardPeerAttribute::AllowedIps(list) => Some(list),
        _ => None,
    });
    lists.flatten().filter_map(net).collect()
}

fn net(allowed: &WireguardAllowedIp) -> Option<IpNet> {
    let (mut address, mut length) = (None, None);
    for attribute in &allowed.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(ip) => address = Some(*ip),
            WireguardAllowedIpAttr::Cidr(bits) => length = Some(*bits),
            _ => {}
        }
    }
    IpNet::new(address?, length?).ok()
}

#[cfg(test)]
mod tests {
    use netlink_packet_wireguard::WireguardPeer;

    use super::*;

    #[test]
    fn the_allowed_ips_of_every_peer_are_read() {
        let allowed = |address: &str, bits| {
            WireguardAllowedIp(vec![
                WireguardAllowedIpAttr::IpAddr(address.parse().unwrap()),
                WireguardAllowedIpAttr::Cidr(bits),
            ])
        };
        let peer = |list: Vec<_>| {
            WireguardPeer(vec![WireguardPeerAttribute::RxBytes(7), WireguardPeerAttribute::AllowedIps(list)])
        };
        let peers =
            vec![peer(vec![allowed("10.176.0.0", 24), allowed("fd00:7::", 64)]), peer(vec![allowed("10.9.8.7", 32)])];
        let attributes = vec![WireguardAttribute::ListenPort(51820), WireguardAttribute::Peers(peers)];
        let told = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };

        let expected = ["10.176.0.0/24", "fd00:7::/64", "10.9.8.7/32"].map(|net| net.parse::<IpNet>().unwrap());
        assert_eq!(nets(&told), expected);
    }
}
