//! The programs and their maps: loading, pinning, attaching, and typed access.
//!
//! Maps and links are pinned, so that packets are served while no daemon is there; a daemon that starts takes over what it
//! finds. Everything acts in the network namespace of the calling thread. No netlink of its own but aya's: what is on a
//! clsact qdisc comes in from `link`.

mod attach;
mod cgroup;
mod collector;
mod early;
mod flows;
mod follower;
mod inside;
#[cfg(feature = "log")]
mod log;
mod object;
mod others;
mod overlay;
mod pins;
mod programs;
mod requirements;
mod routing;
mod syscall;
mod tables;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use anyhow::{Context, Result};
use aya::{
    maps::MapInfo,
    programs::{ProgramError, ProgramInfo, SchedClassifier},
};
use netd_common::tables::{Hook, names};

#[cfg(test)]
pub use self::object::OBJECT;
use self::{
    attach::Attachments, cgroup::Calls, collector::Collector, early::Early, follower::Follower, inside::Inside,
    programs::Programs, tables::Tables,
};
pub use self::{
    attach::removed_filter, cgroup::Cgroup, inside::remove_from_clsact, overlay::OverlayRecords, pins::Pins,
    requirements::asks_with_marks, routing::RoutingChanges, tables::Records,
};
use crate::{
    config::{EndpointAttach, XdpWish},
    link::Filter,
    reconcile::{Collected, Guard, LinkName, Program, Sandbox},
};

/// What may be chosen of a dataplane.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Entries of the flow table, two a flow; `None` for as many as the object says. A table that is pinned already keeps
    /// its size.
    pub flows_max: Option<u32>,
    /// Which processes' sockets are led to published ports.
    pub cgroup: Cgroup,
    /// Whether frames are met in the drivers of uplinks.
    pub xdp: XdpWish,
    /// By what containers' devices and bridges get their programs.
    pub endpoint_attach: EndpointAttach,
    /// Never to try TCX, as if `NETD_FORCE_CLSACT=1` were set in the environment.
    pub clsact_only: bool,
}

/// The loaded programs, with their maps.
pub struct Dataplane {
    programs: Programs,
    tables: Tables,
    attachments: Attachments,
    collector: Collector,
    calls: Calls,
    inside: Inside,
    _follower: Follower,
    early: Early,
}

impl Dataplane {
    /// Checks that the kernel and the process have what it takes, loads the programs with the maps that are pinned under
    /// `bpf_dir`, or pins new ones there, and puts the programs in the place of those that a former daemon attached.
    /// `links` are the devices there are, `filters` what is on their clsact qdiscs.
    pub fn open(
        bpf_dir: PathBuf,
        options: &Options,
        links: &BTreeMap<u32, LinkName>,
        filters: &BTreeSet<Filter>,
    ) -> Result<Self> {
        object::check_built_in()?;
        requirements::check(&bpf_dir)?;
        let pins = Pins::create(bpf_dir)?;
        let (mut object, programs) = object::load(&pins, options)?;
        #[cfg(feature = "log")]
        log::read(&mut object)?;
        let flows = MapInfo::from_pin(pins.map(names::FLOWS)).context("cannot read about the flow table")?;
        let tables = Tables::take(&mut object, flows.max_entries(), RoutingChanges::open(&pins)?)?;
        let calls = Calls::open(&mut object, pins.clone(), &options.cgroup)?;
        let _follower = Follower::start(&mut object, &programs)?;
        let attachments = Attachments::open(pins.clone(), options.endpoint_attach, options.clsact_only);
        let inside = Inside::open(pins.clone());
        let (early, collector) = (Early::open(pins.clone(), options.xdp), Collector::default());
        let mut dataplane = Self { programs, tables, attachments, inside, early, collector, calls, _follower };
        dataplane.take_over(links, filters)?;
        // Nothing can be refused any more that would leave the host without either's programs.
        for layout in pins.remove_other_layouts()? {
            tracing::warn!(layout = %layout.display(), "detached a netd whose maps are laid out otherwise: its flows are over");
        }
        Ok(dataplane)
    }

    /// What the programs are told of the host's routing.
    pub fn routing_changes(&self) -> Result<RoutingChanges> {
        RoutingChanges::open(self.attachments.pins())
    }

    /// Attaches the program of `hook`, or replaces ours there.
    pub fn attach(&mut self, link: &LinkName, index: u32, hook: Hook) -> Result<()> {
        match hook {
            Hook::UplinkXdp => self.early.attach(self.programs.early_mut(), link, index),
            _ => self.attachments.attach(self.programs.loaded(hook.name())?, link, index, hook),
        }
    }

    /// Whether a device is to share the program of `hook` with others, if it can.
    pub fn shares(&self, index: u32, hook: Hook) -> bool {
        self.attachments.shares(index, hook)
    }

    /// Whether a device is known to share our blocks: both of them, by one qdisc.
    pub fn is_shared(&self, index: u32) -> bool {
        self.attachments.is_shared(index)
    }

    /// The filter that has the program of `hook` for all devices that share it, and the program; `None` for a hook where each
    /// device has its own.
    pub fn shared(&self, hook: Hook) -> Result<Option<(Filter, BorrowedFd<'_>)>> {
        let Some(filter) = attach::shared(hook) else { return Ok(None) };
        let program = self.programs.get(hook.name()).context("the object lacks one of its programs")?;
        Ok(Some((filter, program.fd()?.as_fd())))
    }

    /// Notes that a device has a shared program.
    pub fn note_shared(&mut self, index: u32, hook: Hook) -> Result<()> {
        self.attachments.note_shared(index, hook)
    }

    /// Detaches our program, if it is there; whether the device's clsact qdisc was made by us and may be empty by now.
    pub fn detach(&mut self, link: &LinkName, index: u32, hook: Hook) -> Result<bool> {
        match hook {
            Hook::UplinkXdp => self.early.detach(index).map(|()| false),
            _ => self.attachments.detach(link, index, hook),
        }
    }

    /// Devices, by their indexes, that have the program of a hook by a slower way than they could, which comes at once.
    pub fn unsettled(&self) -> impl Iterator<Item = (u32, Hook)> {
        self.attachments.unsettled()
    }

    /// Attaches the program of `hook` to such a device in the quicker way; whether the device's clsact qdisc was made by us and may be
    /// empty by now.
    pub fn settle(&mut self, link: &LinkName, index: u32, hook: Hook) -> Result<bool> {
        self.attachments.settle(self.programs.loaded(hook.name())?, link, index, hook)
    }

    /// Puts the resolver's program in the place of a former daemon's in these namespaces.
    pub fn take_over_inside(&mut self, sandboxes: &BTreeSet<Sandbox>) -> Result<()> {
        let program = self.programs.loaded(Hook::DnsLo.name())?;
        self.inside.take_over(program, sandboxes)
    }

    /// Attaches the resolver's program in a container's namespace, or replaces ours there.
    pub fn attach_inside(&mut self, sandbox: &Sandbox) -> Result<()> {
        let program = self.programs.loaded(Hook::DnsLo.name())?;
        let attached = self.inside.attach(program, sandbox);
        attached.with_context(|| format!("cannot attach {} in {}", Hook::DnsLo.name(), sandbox.path.display()))
    }

    /// Detaches the resolver's program in a container's namespace, if it is there.
    pub async fn detach_inside(&mut self, sandbox: &Sandbox) -> Result<()> {
        let detached = self.inside.detach(sandbox).await;
        detached.with_context(|| format!("cannot detach {} in {}", Hook::DnsLo.name(), sandbox.path.display()))
    }

    /// In which namespaces, by their inodes, the resolver's program is attached; `loopbacks` is what is on the clsact qdiscs
    /// there.
    pub fn attached_inside(&self, loopbacks: &BTreeMap<u64, BTreeSet<Filter>>) -> Result<BTreeSet<u64>> {
        self.inside.observed(loopbacks)
    }

    /// Notes that the clsact qdisc of a device is gone.
    pub fn forget_qdisc(&self, index: u32) -> Result<()> {
        self.attachments.pins().forget_qdisc(index)
    }

    /// Where programs of ours are attached.
    pub fn hooks(
        &mut self,
        links: &BTreeMap<u32, LinkName>,
        filters: &BTreeSet<Filter>,
    ) -> Result<BTreeSet<(LinkName, Hook)>> {
        let mut hooks = self.attachments.observed(links, filters)?;
        hooks.extend(self.early.observed(links)?.into_iter().map(|link| (link, Hook::UplinkXdp)));
        Ok(hooks)
    }

    /// Whether frames are to be met in the driver of this uplink where there is something to do for it.
    pub fn meets_frames(&self, link: &LinkName) -> bool {
        self.early.is_wanted(link)
    }

    /// Whether frames that are met there may be sent back by the device.
    pub fn sends_frames_back(&self, link: &LinkName) -> bool {
        self.early.sends_back(link)
    }

    /// What leads the host's own sockets to published ports.
    pub const fn guard(&self) -> &Guard {
        self.calls.guard()
    }

    /// The programs at the calls of the host's own sockets.
    pub const fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The same, to attach.
    pub const fn calls_mut(&mut self) -> &mut Calls {
        &mut self.calls
    }

    /// The maps.
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The maps, to write.
    pub const fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Takes flows out of the next part of the table that are over.
    pub fn collect(&mut self) -> Result<Collected> {
        let program = self.programs.get(object::COLLECT).context("the object lacks its collector")?;
        self.collector.turn(&self.tables.flows, program)
    }

    /// Every program that is loaded, with the devices it is attached to.
    pub fn programs(&self) -> Result<Vec<Program>> {
        Hook::ALL
            .into_iter()
            .filter_map(|hook| Some((hook, self.info(hook)?)))
            .map(|(h, i)| self.program(h, i))
            .collect()
    }

    /// `None` for a program that is not loaded.
    fn info(&self, hook: Hook) -> Option<Result<ProgramInfo, ProgramError>> {
        if hook == Hook::UplinkXdp {
            return Some(self.programs.early().info());
        }
        self.programs.get(hook.name()).map(SchedClassifier::info)
    }

    fn program(&self, hook: Hook, info: Result<ProgramInfo, ProgramError>) -> Result<Program> {
        let details = info.with_context(|| format!("cannot read about the program {}", hook.name()))?;
        let (attach, devices) = match hook {
            Hook::DnsLo => (self.inside.manner()?, self.inside.devices()?),
            Hook::UplinkXdp => (self.early.manner(), self.early.devices()?),
            _ => (self.attachments.manner(hook)?, self.attachments.devices(hook)?),
        };
        Ok(Program {
            name: hook.name().to_owned(),
            id: details.id(),
            verified_instructions: details.verified_instruction_count(),
            attach: attach.to_owned(),
            devices,
        })
    }

    fn take_over(&mut self, links: &BTreeMap<u32, LinkName>, filters: &BTreeSet<Filter>) -> Result<()> {
        for hook in Hook::OF_DEVICES {
            if object::is_rare(hook) && !self.attachments.has(hook, filters)? {
                continue;
            }
            let program = self.programs.loaded(hook.name())?;
            let replaced = self.attachments.replace(program, hook, links, filters);
            replaced.with_context(|| format!("cannot replace the attached program {}", hook.name()))?;
        }
        let replaced = self.inside.replace(self.programs.loaded(Hook::DnsLo.name())?);
        replaced.with_context(|| format!("cannot replace the attached program {}", Hook::DnsLo.name()))?;
        let replaced = self.early.replace(self.programs.early_mut());
        replaced.with_context(|| format!("cannot replace the attached program {}", Hook::UplinkXdp.name()))?;
        self.programs.forget_others()?;
        self.attachments.pins().forget_qdiscs_but(links)
    }
}
