//! The difference between desired and observed, as steps in the order in which they can be taken.

use netd_common::tables::{EndpointKey, Hook, Publication, PublicationKey, Settings};

use super::{Bridge, DeviceRecord, EndpointRecord, LinkName, State, Veth};

/// One change of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Takes an entry out of the publication table.
    RemovePublication(PublicationKey),
    /// Takes an entry out of the endpoint table.
    RemoveEndpoint(EndpointKey),
    /// Takes the record of a device out of the device tables.
    RemoveDevice(LinkName),
    /// Takes the record of a device that is gone out of the device tables.
    RemoveOrphan(u32),
    /// Detaches a program of ours.
    Detach(LinkName, Hook),
    /// Deletes a host-side veth of ours, and its other side with it.
    DeleteVeth(LinkName),
    /// Deletes a bridge of ours.
    DeleteBridge(LinkName),
    /// Gives IPv4 forwarding on a device back the value it had before netd.
    RestoreForwarding(LinkName),

    /// Writes the settings table.
    PutSettings(Settings),
    /// Makes a bridge, with its address, up.
    CreateBridge(LinkName, Bridge),
    /// Gives a bridge that exists this MTU and these addresses.
    UpdateBridge(LinkName, Bridge),
    /// Switches IPv4 forwarding on for a device, noting the value it had.
    Forward(LinkName),
    /// Makes a veth pair: the far side in the container's namespace, configured and up but for its routes' need of the
    /// near side; the near side down, not yet a port.
    CreateVeth(LinkName, Veth),
    /// Attaches a program, or replaces ours.
    Attach(LinkName, Hook),
    /// Writes the record of a device.
    PutDevice(LinkName, DeviceRecord),
    /// Makes a veth a port of its bridge with the right port attributes, sets both sides up, and gives the container its
    /// addresses and routes. Also mends a veth that differs.
    ConnectVeth(LinkName, Veth),
    /// Writes an entry of the endpoint table.
    PutEndpoint(EndpointKey, EndpointRecord),
    /// Writes an entry of the publication table.
    PutPublication(PublicationKey, Publication),
}

/// The steps from `observed` to `desired`: first what goes, outermost first, then what comes, innermost first. A container's
/// programs and records stand before its veth carries a packet. Empty if and only if the two are equal.
pub fn diff(_desired: &State, _observed: &State) -> Vec<Step> {
    Vec::new()
}
