//! Where the programs are attached: to uplinks by TCX where the kernel takes it, on a clsact qdisc where it does not; to the
//! containers' devices by blocks of filters that these share, which `link` fills, and as to uplinks where one cannot or is not to
//! (`--endpoint-attach tcx`).
//!
//! Which of the two an uplink gets is found by trying, or set to clsact by `NETD_FORCE_CLSACT=1` (for tests). What is attached stays
//! attached in the manner it was, and gets a new program by an update in place: there is no moment without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result};
use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, Link, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use netd_common::tables::Hook;
use nix::{libc, net::if_::if_indextoname};

use super::{Pins, syscall::device_of_link};
use crate::{config::EndpointAttach, link::Filter, reconcile::LinkName};

/// Number of our filters among those of their priority.
const HANDLE: u16 = 0x6e64;
/// Priority of our filters: before nearly all others.
const FIRST: u16 = 10;
/// Priority of our filter at the egress of uplinks: after all others.
const LAST: u16 = 0xfff0;

/// The attachments there are.
pub struct Attachments {
    pins: Pins,
    on_clsact: BTreeSet<(u32, Hook)>,
    /// Those of them that are in a block.
    shared: BTreeSet<(u32, Hook)>,
    endpoints: EndpointAttach,
    /// Set by the environment, or found when the kernel refused TCX.
    without_tcx: bool,
}

impl Attachments {
    /// None yet but those that are pinned.
    pub fn open(pins: Pins, endpoints: EndpointAttach, clsact_only: bool) -> Self {
        let without_tcx = clsact_only || std::env::var_os("NETD_FORCE_CLSACT").is_some_and(|value| value == "1");
        Self { pins, on_clsact: BTreeSet::new(), shared: BTreeSet::new(), endpoints, without_tcx }
    }

    /// The pins.
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Whether a program of ours is attached at `hook` of any device.
    pub fn has(&self, hook: Hook, filters: &BTreeSet<Filter>) -> Result<bool> {
        let pinned = self.pins.attachments()?.iter().any(|(_, at)| *at == hook);
        Ok(pinned || filters.iter().any(|filter| is_at(filter, hook)))
    }

    /// Puts `program` in the place of every one attached at `hook`, but for those in blocks. Pins whose device is gone go.
    pub fn replace(
        &mut self,
        program: &mut SchedClassifier,
        hook: Hook,
        links: &BTreeMap<u32, LinkName>,
        filters: &BTreeSet<Filter>,
    ) -> Result<()> {
        for (index, _) in self.pins.attachments()?.into_iter().filter(|(_, at)| *at == hook) {
            let path = self.pins.link(hook, index);
            if !links.contains_key(&index) || !update(program, &path)? {
                Pins::unpin(&path)?;
            }
        }
        self.note(filters);
        let alone: Vec<_> = self.on_clsact.difference(&self.shared).copied().collect();
        for (index, _) in alone.into_iter().filter(|(_, at)| *at == hook) {
            if let Some(name) = links.get(&index) {
                replace_filter(program, name, hook)?;
            }
        }
        Ok(())
    }

    /// Attaches `program` to a device, or puts it in the place of ours there.
    pub fn attach(&mut self, program: &mut SchedClassifier, link: &LinkName, index: u32, hook: Hook) -> Result<()> {
        let path = self.pins.link(hook, index);
        if path.exists() {
            if update(program, &path)? {
                return Ok(());
            }
            Pins::unpin(&path)?;
        }
        if self.on_clsact.contains(&(index, hook)) && replace_filter(program, link, hook)? {
            return Ok(());
        }

        if self.takes_tcx(hook) && self.attach_by_tcx(program, link, index, hook)? {
            return Ok(());
        }
        self.attach_to_clsact(program, link, index, hook)
    }

    /// Devices that have a program by a clsact filter of their own for no other reason than that to attach by TCX takes longer.
    pub fn unsettled(&self) -> impl Iterator<Item = (u32, Hook)> {
        let hastened = |(_, hook): &(u32, Hook)| *hook == Hook::FromHost && !self.without_tcx;
        self.on_clsact.iter().copied().filter(hastened)
    }

    /// Gives a device by TCX the program that it has by a filter of its own; whether its clsact qdisc is our making and may be empty by
    /// now. For a moment it has both, and what the first one lets pass meets the second.
    pub fn settle(&mut self, program: &mut SchedClassifier, link: &LinkName, index: u32, hook: Hook) -> Result<bool> {
        if !self.is_alive(index, hook) {
            Pins::unpin(&self.pins.link(hook, index))?;
            if !self.attach_by_tcx(program, link, index, hook)? {
                return Ok(false);
            }
        }
        self.on_clsact.remove(&(index, hook));
        remove_filter(link, hook)?;
        Ok(self.pins.made_qdisc(index))
    }

    /// Notes that a device has the program of `hook` by the block that it shares.
    pub fn note_shared(&mut self, index: u32, hook: Hook) -> Result<()> {
        Pins::unpin(&self.pins.link(hook, index))?;
        self.on_clsact.insert((index, hook));
        self.shared.insert((index, hook));
        Ok(())
    }

    /// Detaches our program from a device; whether its clsact qdisc is our making. One that shares blocks is.
    pub fn detach(&mut self, link: &LinkName, index: u32, hook: Hook) -> Result<bool> {
        Pins::unpin(&self.pins.link(hook, index))?;
        if !self.on_clsact.remove(&(index, hook)) {
            return Ok(false);
        }
        if self.shared.remove(&(index, hook)) {
            return Ok(true);
        }
        remove_filter(link, hook)?;
        Ok(self.pins.made_qdisc(index))
    }

    /// Where programs of ours are attached. Pins of devices that are gone hold nothing but memory, and go.
    pub fn observed(
        &mut self,
        links: &BTreeMap<u32, LinkName>,
        filters: &BTreeSet<Filter>,
    ) -> Result<BTreeSet<(LinkName, Hook)>> {
        self.note(filters);
        let mut found = self.on_clsact.clone();
        for (index, hook) in self.pins.attachments()? {
            if !links.contains_key(&index) {
                Pins::unpin(&self.pins.link(hook, index))?;
            } else if self.is_alive(index, hook) {
                found.insert((index, hook));
            }
        }
        self.pins.forget_qdiscs_but(links)?;
        let named = |(index, hook): (u32, Hook)| Some((links.get(&index)?.clone(), hook));
        Ok(found.into_iter().filter_map(named).collect())
    }

    /// How the program of a hook is attached; how it would be, where it is attached to nothing.
    pub fn manner(&self, hook: Hook) -> Result<&'static str> {
        let tcx = self.pins.attachments()?.iter().any(|(_, at)| *at == hook);
        let clsact = self.on_clsact.iter().any(|(_, at)| *at == hook);
        Ok(match (tcx, clsact) {
            (true, true) => "tcx, clsact",
            (true, false) => "tcx",
            (false, true) => "clsact",
            (false, false) if self.takes_tcx(hook) && (shared(hook).is_none() || self.is_told_tcx()) => "tcx",
            (false, false) => "clsact",
        })
    }

    /// Whether a device is to share the program of a hook with others, if it can: not where it has a link of another hook, whose program
    /// would come with it.
    pub fn shares(&self, index: u32, hook: Hook) -> bool {
        let has_link =
            |other: &Hook| *other != hook && shared(*other).is_some() && self.pins.link(*other, index).exists();
        let by_tcx = self.takes_tcx(hook) && self.is_told_tcx();
        shared(hook).is_some() && !by_tcx && !Hook::OF_DEVICES.iter().any(has_link)
    }

    /// Whether a device has a program of ours by a block that it shares.
    pub fn is_shared(&self, index: u32) -> bool {
        Hook::OF_DEVICES.iter().any(|hook| self.shared.contains(&(index, *hook)))
    }

    fn is_told_tcx(&self) -> bool {
        self.endpoints == EndpointAttach::Tcx
    }

    /// Whether TCX is tried where a device has its program by itself. A network that is made does not wait for a grace period of RCU, unless
    /// it is to: its bridge is settled later.
    fn takes_tcx(&self, hook: Hook) -> bool {
        !self.without_tcx && (hook != Hook::FromHost || self.is_told_tcx())
    }

    /// Names of the devices that the program of a hook is attached to.
    pub fn devices(&self, hook: Hook) -> Result<Vec<String>> {
        let attached: BTreeSet<(u32, Hook)> = self.pins.attachments()?.union(&self.on_clsact).copied().collect();
        let here = attached.into_iter().filter(|(_, at)| *at == hook);
        // For an index that no device has, the name is empty.
        let named = |(index, _)| if_indextoname(index).ok()?.into_string().ok().filter(|name| !name.is_empty());
        Ok(here.filter_map(named).collect())
    }

    /// False where the kernel has no TCX.
    fn attach_by_tcx(
        &mut self,
        program: &mut SchedClassifier,
        link: &LinkName,
        index: u32,
        hook: Hook,
    ) -> Result<bool> {
        let order = if hook.is_last() { LinkOrder::last() } else { LinkOrder::first() };
        match program.attach_with_options(link.as_str(), direction(hook), TcAttachOptions::TcxOrder(order)) {
            Ok(id) => {
                let (path, attached) = (self.pins.link(hook, index), FdLink::try_from(program.take_link(id)?)?);
                attached.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
                Ok(true)
            }
            Err(error) if lacks_tcx(&error) => {
                tracing::info!(%error, "the kernel takes no TCX attachment: using clsact");
                self.without_tcx = true;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn attach_to_clsact(
        &mut self,
        program: &mut SchedClassifier,
        link: &LinkName,
        index: u32,
        hook: Hook,
    ) -> Result<()> {
        // Noted first: a note of a qdisc that was not made is harmless, the qdisc has to be empty to go.
        let noted = self.pins.made_qdisc(index);
        self.pins.note_qdisc(index)?;
        if !add_to_clsact(program, link, hook)? && !noted {
            self.pins.forget_qdisc(index)?;
        }
        self.on_clsact.insert((index, hook));
        Ok(())
    }

    fn note(&mut self, filters: &BTreeSet<Filter>) {
        let ours = |filter: &Filter| Some((filter.index, is_ours(filter)?));
        self.on_clsact = filters.iter().filter_map(ours).collect();
        self.shared = filters.iter().filter(|filter| filter.shared).filter_map(ours).collect();
    }

    /// A pinned link stays when its device goes, and is then attached to nothing.
    fn is_alive(&self, index: u32, hook: Hook) -> bool {
        device_of_link(&self.pins.link(hook, index)).is_ok_and(|attached| attached == Some(index))
    }
}

/// Updates the link pinned at `path`; false if it is no longer attached to anything.
pub fn update(program: &mut SchedClassifier, path: &Path) -> Result<bool> {
    let pinned = PinnedLink::from_pin(path).with_context(|| format!("cannot open {}", path.display()))?;
    match program.attach_to_link(FdLink::from(pinned).try_into()?) {
        Ok(id) => {
            // Dropping it closes a descriptor: the pin holds the link.
            drop(program.take_link(id)?);
            Ok(true)
        }
        Err(error) if number(&error) == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot update {}", path.display())),
    }
}

/// Puts `program` on the clsact qdisc of a device, in the place of ours if that is there; whether the qdisc had to be made.
pub fn add_to_clsact(program: &mut SchedClassifier, link: &LinkName, hook: Hook) -> Result<bool> {
    let made = match tc::qdisc_add_clsact(link.as_str()) {
        Ok(()) => true,
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => false,
        Err(error) => return Err(error).context("cannot add a clsact qdisc"),
    };
    if !replace_filter(program, link, hook)? {
        let options = NlOptions { priority: priority(hook), handle: TcHandle::new(0, HANDLE), classid: None };
        let id = program.attach_with_options(link.as_str(), direction(hook), TcAttachOptions::Netlink(options))?;
        // Dropping it would detach.
        std::mem::forget(program.take_link(id)?);
    }
    Ok(made)
}

/// The filter of a hook whose program the devices share; `None` for a hook where each has its own.
pub fn shared(hook: Hook) -> Option<Filter> {
    let egress = matches!(direction(hook), TcAttachType::Egress);
    matches!(hook, Hook::FromContainer | Hook::ToContainer).then(|| Filter {
        index: 0,
        egress,
        priority: priority(hook),
        handle: HANDLE.into(),
        name: hook.name().to_owned(),
        shared: true,
    })
}

/// The hook of a filter that is ours.
pub fn is_ours(filter: &Filter) -> Option<Hook> {
    Hook::OF_DEVICES.into_iter().find(|hook| is_at(filter, *hook))
}

/// Whether a filter is ours for this hook.
pub fn is_at(filter: &Filter, hook: Hook) -> bool {
    filter.name == hook.name()
        && filter.egress == matches!(direction(hook), TcAttachType::Egress)
        && filter.priority == priority(hook)
        && filter.handle == u32::from(HANDLE)
}

/// Removes a filter of ours; whether it was one.
pub fn removed_filter(link: &LinkName, filter: &Filter) -> Result<bool> {
    let Some(hook) = is_ours(filter) else { return Ok(false) };
    remove_filter(link, hook)?;
    Ok(true)
}

/// Removes our filter for a hook, if it is there.
pub fn remove_filter(link: &LinkName, hook: Hook) -> Result<()> {
    let filter = match attached_filter(link, hook) {
        // The device is gone, and its filters with it.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        found => found?,
    };
    match filter.detach() {
        Err(ProgramError::NetlinkError(error))
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
        {
            Ok(())
        }
        detached => Ok(detached?),
    }
}

/// Puts `program` in the place of our filter; false if there is none.
pub fn replace_filter(program: &mut SchedClassifier, link: &LinkName, hook: Hook) -> Result<bool> {
    match program.attach_to_link(attached_filter(link, hook)?) {
        Ok(id) => {
            // Dropping it would detach.
            std::mem::forget(program.take_link(id)?);
            Ok(true)
        }
        Err(error) if matches!(number(&error), Some(libc::ENOENT | libc::EINVAL)) => Ok(false),
        Err(error) => Err(error).context("cannot replace the filter"),
    }
}

fn attached_filter(link: &LinkName, hook: Hook) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(link.as_str(), direction(hook), priority(hook), TcHandle::new(0, HANDLE), None)
}

/// Which way the packets of a hook go.
pub const fn direction(hook: Hook) -> TcAttachType {
    match hook {
        Hook::FromContainer | Hook::FromUplink | Hook::FromL3Uplink | Hook::FromOverlay | Hook::UplinkXdp => {
            TcAttachType::Ingress
        }
        Hook::ToContainer | Hook::ToUplink | Hook::ToL3Uplink | Hook::DnsLo | Hook::FromHost => TcAttachType::Egress,
    }
}

const fn priority(hook: Hook) -> u16 {
    if hook.is_last() { LAST } else { FIRST }
}

/// What kernels without TCX (before 6.6, or built without it) answer: they do not know the attach type, or not the
/// attributes that come with it.
fn lacks_tcx(error: &ProgramError) -> bool {
    matches!(number(error), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::E2BIG))
}

/// The number of an error of the kernel's.
pub fn number(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => error.raw_os_error(),
        ProgramError::IOError(error) | ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    }
}
