//! The program that meets frames in the drivers of uplinks (XDP), before the kernel makes packets of them.
//!
//! It is a pinned link a device, replaced by an update in place. What a driver refuses is not tried again where nobody asked
//! for it: the program behind it drops the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
};
use netd_common::tables::Hook;
use nix::net::if_::if_indextoname;

use super::{Pins, attach::number, syscall::device_of_link};
use crate::{config::XdpWish, reconcile::LinkName};

/// `ARPHRD_ETHER` of linux/if_arp.h.
const ETHERNET: &str = "1";

/// The attachments there are.
pub struct Early {
    pins: Pins,
    wish: XdpWish,
    /// Set by `NETD_FORCE_GENERIC_XDP=1` (for tests): by the stack and not by the driver.
    generic: bool,
    /// Devices whose drivers have refused it.
    refused: BTreeSet<u32>,
}

impl Early {
    /// Those that are pinned.
    pub fn open(pins: Pins, wish: XdpWish) -> Self {
        let generic = std::env::var_os("NETD_FORCE_GENERIC_XDP").is_some_and(|value| value == "1");
        Self { pins, wish, generic, refused: BTreeSet::new() }
    }

    /// Whether it is to be attached to this uplink where there is something to do for it.
    pub fn is_wanted(&self, link: &LinkName) -> bool {
        let is_ethernet = || fs::read_to_string(about(link, "type")).is_ok_and(|kind| kind.trim() == ETHERNET);
        match self.wish {
            XdpWish::Off => false,
            XdpWish::Native => is_ethernet(),
            // A virtual device (veth) has none that it stands on, and costs more than it saves.
            XdpWish::Auto => is_ethernet() && self.sends_back(link),
        }
    }

    /// Whether what the program sends back by this uplink leaves. A driver of hardware, or of a virtual machine's, that runs programs
    /// does that too; a veth pair loses it in silence unless its other side is made to receive frames (`veth_xdp_tx`, drivers/net/veth.c).
    pub fn sends_back(&self, link: &LinkName) -> bool {
        self.generic || about(link, "device").exists()
    }

    /// Puts `program` in the place of every one that is pinned; what is attached to nothing any more goes.
    pub fn replace(&self, program: &mut Xdp) -> Result<()> {
        for index in self.pins.early()? {
            let path = self.pins.link(Hook::UplinkXdp, index);
            if !update(program, &path)? {
                Pins::unpin(&path)?;
            }
        }
        Ok(())
    }

    /// Attaches `program` to a device, or puts it in the place of ours there.
    pub fn attach(&mut self, program: &mut Xdp, link: &LinkName, index: u32) -> Result<()> {
        let path = self.pins.link(Hook::UplinkXdp, index);
        if path.exists() {
            if update(program, &path)? {
                return Ok(());
            }
            Pins::unpin(&path)?;
        }
        let mode = if self.generic { XdpMode::Skb } else { XdpMode::Driver };
        match program.attach(link.as_str(), mode) {
            Ok(id) => {
                let attached: FdLink = program.take_link(id)?.try_into()?;
                attached.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
            }
            Err(error) if self.wish == XdpWish::Auto => {
                tracing::info!(%link, "the driver takes no XDP program, so its work is done behind it: {error}");
                self.refused.insert(index);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Detaches our program from a device, if it is there.
    pub fn detach(&mut self, index: u32) -> Result<()> {
        self.refused.remove(&index);
        Pins::unpin(&self.pins.link(Hook::UplinkXdp, index)).map(drop)
    }

    /// Where it is attached, and where a driver has refused it: there is no more to do there. Pins of devices that are gone go.
    pub fn observed(&mut self, links: &BTreeMap<u32, LinkName>) -> Result<BTreeSet<LinkName>> {
        self.refused.retain(|index| links.contains_key(index));
        let mut found = self.refused.clone();
        for index in self.pins.early()? {
            let path = self.pins.link(Hook::UplinkXdp, index);
            if !links.contains_key(&index) {
                Pins::unpin(&path)?;
            } else if device_of_link(&path).is_ok_and(|attached| attached == Some(index)) {
                found.insert(index);
            }
        }
        Ok(found.into_iter().filter_map(|index| links.get(&index).cloned()).collect())
    }

    /// How it is attached.
    pub const fn manner(&self) -> &'static str {
        if self.generic { "generic XDP" } else { "native XDP" }
    }

    /// Names of the devices that it is attached to.
    pub fn devices(&self) -> Result<Vec<String>> {
        let name = |index: u32| if_indextoname(index).ok()?.into_string().ok();
        Ok(self.pins.early()?.into_iter().filter_map(name).collect())
    }
}

/// A file of the kernel's about a device.
fn about(link: &LinkName, file: &str) -> PathBuf {
    Path::new("/sys/class/net").join(link.as_str()).join(file)
}

/// Updates the link pinned at `path`; false if it is no longer attached to anything.
fn update(program: &mut Xdp, path: &Path) -> Result<bool> {
    let pinned = PinnedLink::from_pin(path).with_context(|| format!("cannot open {}", path.display()))?;
    match program.attach_to_link(FdLink::from(pinned).try_into()?) {
        Ok(id) => {
            // Dropping it closes a descriptor: the pin holds the link.
            drop(program.take_link(id)?);
            Ok(true)
        }
        Err(error) if number(&error) == Some(nix::libc::ENOLINK) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot update {}", path.display())),
    }
}
