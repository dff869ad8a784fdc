//! Tunnels: a pair of tun devices, one on each of two hosts, whose packets begin with the IP header. What a host with a VPN or a
//! dialled line has towards the outside.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    thread::{self, JoinHandle},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe,
};

use super::{Host, Offloads};

/// Bytes of what precedes each packet (`struct virtio_net_hdr`), and the longest packet.
const LONGEST: usize = 10 + 65_535;

nix::ioctl_write_int!(set_interface, b'T', 202);
nix::ioctl_write_int!(set_offload, b'T', 208);

/// A laid tunnel. Its devices go with it.
pub struct Tunnel {
    stop: Option<io::PipeWriter>,
    carriers: Vec<JoinHandle<()>>,
}

impl Tunnel {
    /// Lays one between two hosts: of each the name of its device, and its address with the prefix length.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn lay(offloads: Offloads, near: (&Host, &str, &str), far: (&Host, &str, &str)) -> Self {
        let [here, there] = [near, far].map(|(host, name, address)| {
            let device = host.enter(|| open(name, offloads)).unwrap_or_else(|e| panic!("cannot make tun {name}: {e}"));
            host.ip(&format!("address add {address} dev {name}"));
            // A queue that the longest burst fits: the carrier is a process among others.
            host.ip(&format!("link set {name} txqueuelen 10000 up"));
            Arc::new(device)
        });
        let (stopped, stop) = pipe().expect("a pipe");
        let stopped = Arc::new(stopped);
        let carriers = [(&here, &there), (&there, &here)].map(|(from, to)| {
            let (from, to, stopped) = (Arc::clone(from), Arc::clone(to), Arc::clone(&stopped));
            thread::spawn(move || carry(&from, &to, &stopped))
        });
        Self { stop: Some(stop.into()), carriers: carriers.into() }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.stop.take());
        for carrier in self.carriers.drain(..) {
            let _ = carrier.join();
        }
    }
}

/// A tun device in the calling thread's network. With offloads it takes and gives packets with unfinished checksums, and
/// longer than its MTU, as veth does.
fn open(name: &str, offloads: Offloads) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let device = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request: libc::ifreq = no_request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    let features = match offloads {
        Offloads::On => libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6,
        Offloads::Off => 0,
    };
    // SAFETY: `device` is open, and the request is a whole one that outlives the call.
    unsafe {
        set_interface(device.as_raw_fd(), (&raw const request) as u64)?;
        set_offload(device.as_raw_fd(), features.into())?;
    }
    Ok(device)
}

fn no_request() -> libc::ifreq {
    // SAFETY: a structure of integers and addresses, for which zeroes are a value.
    unsafe { std::mem::zeroed() }
}

/// Takes every packet that comes out of one device to the other, until `stopped` is closed.
fn carry(mut from: &File, mut to: &File, stopped: &impl AsFd) {
    let mut packet = vec![0; LONGEST];
    loop {
        let mut ready =
            [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::empty())];
        if poll(&mut ready, PollTimeout::NONE).is_err() || ready[1].any() != Some(false) {
            return;
        }
        while let Ok(length @ 1..) = from.read(&mut packet) {
            // A device that is down refuses, and a wire that leads there loses what is on it.
            let _ = to.write(&packet[..length]);
        }
        if ready[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
            // Down: nothing to read until it is up.
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
