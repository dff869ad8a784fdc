//! Whether a device takes packets whose checksum is left to it (ethtool(8), `tx`), and with them those that it is to cut.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::libc;

use crate::reconcile::LinkName;

/// `ETHTOOL_GTXCSUM` and `ETHTOOL_STXCSUM` of `linux/ethtool.h`.
const GET: u32 = 0x16;
const SET: u32 = 0x17;

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

nix::ioctl_read_bad!(
    /// Of `linux/sockios.h`.
    ethtool,
    libc::SIOCETHTOOL,
    libc::ifreq
);

/// Whether it does.
pub fn is_on(device: &LinkName) -> io::Result<bool> {
    ask(device, GET, 0).map(|data| data != 0)
}

/// Has it do so, or no longer: then the stack has summed and cut what reaches it.
pub fn set(device: &LinkName, on: bool) -> io::Result<()> {
    if is_on(device)? == on {
        return Ok(());
    }
    ask(device, SET, on.into()).map(drop)
}

fn ask(device: &LinkName, command: u32, data: u32) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut value = Value { command, data };
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() };
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: data };
    for (to, from) in request.ifr_name.iter_mut().zip(device.as_str().bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the descriptor is open; the request, and the value that it points to and whose command takes no more, live through the call.
    unsafe { ethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(value.data)
}
