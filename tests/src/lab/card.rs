//! Network cards: devices with a driver of their own, which a machine has and nobody can make. A virtual machine's are virtio-net.

use std::{fs, path::Path, process::Command};

use super::{Host, command::begin};

/// Two cards of the machine that somebody has joined, idle: [`Cards::from`] says where the first one goes. They return to the
/// machine when their hosts go.
#[must_use = "cards are lent by `.from(…).to(…)`"]
pub struct Cards([String; 2]);

impl Cards {
    /// Cards that are down, so that nobody's traffic is theirs.
    #[track_caller]
    pub(super) fn idle() -> Self {
        let devices = fs::read_dir("/sys/class/net").expect("the kernel lists devices").flatten();
        let idle = devices.filter(|device| device.path().join("device").exists() && is_down(&device.path()));
        let mut names: Vec<_> = idle.map(|device| device.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        let names = names.try_into();
        Self(names.unwrap_or_else(|names| panic!("not two idle network cards but {names:?}: `cargo xtask vm` has two")))
    }

    /// One end: what the first card is called at `host`, and its address with the prefix length.
    #[track_caller]
    pub fn from(self, host: &Host, interface: &str, address: &str) -> Card {
        let [first, second] = self.0;
        lend(&first, host, interface, address);
        Card(second)
    }
}

/// The other of two cards: [`Card::to`] lends it.
#[must_use = "cards are lent by `.from(…).to(…)`"]
pub struct Card(String);

impl Card {
    /// The other end.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn to(self, host: &Host, interface: &str, address: &str) {
        lend(&self.0, host, interface, address);
    }
}

/// `IFF_UP` of linux/if.h is the lowest bit of a device's flags.
fn is_down(device: &Path) -> bool {
    let flags = fs::read_to_string(device.join("flags")).unwrap_or_default();
    u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 0)
}

#[track_caller]
fn lend(card: &str, host: &Host, interface: &str, address: &str) {
    let netns = host.net_path();
    let mut ip = Command::new("ip");
    ip.args(["link", "set", card, "netns", &netns, "name", interface]);
    assert!(
        begin(&mut ip).and_then(|mut ip| ip.wait()).is_ok_and(|status| status.success()),
        "{card} cannot be lent to {}",
        host.name()
    );
    host.ip(&format!("address add {address} dev {interface}"));
    host.ip(&format!("link set {interface} up"));
}
