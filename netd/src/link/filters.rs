//! TC filters of type bpf, as far as programs that are not attached by TCX need it: which there are, and taking an empty
//! clsact qdisc away.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{
    Links,
    kernel::{answered, is, refusal},
    shared::{block_of, of_block},
};

/// A filter on a clsact qdisc.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Filter {
    /// The device's index.
    pub index: u32,
    /// Whether it is at egress; at ingress else.
    pub egress: bool,
    /// Lower is earlier.
    pub priority: u16,
    /// Number among those of its priority.
    pub handle: u32,
    /// The program's name; empty for a filter of another sort.
    pub name: String,
    /// Whether it is in a block that the device shares with others.
    pub shared: bool,
}

impl Links {
    /// Every filter on every clsact qdisc.
    pub(super) async fn listed_filters(&self) -> Result<BTreeSet<Filter>> {
        let qdiscs: Vec<TcMessage> = self
            .handle
            .qdisc()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(refusal)
            .context("cannot list the qdiscs")?;
        let (mut filters, mut blocks) = (BTreeSet::new(), BTreeMap::new());
        for qdisc in qdiscs.iter().filter(|qdisc| kind(qdisc) == "clsact") {
            let index = u32::try_from(qdisc.header.index).unwrap_or_default();
            for egress in [false, true] {
                let Some(block) = block_of(qdisc, egress) else {
                    filters.extend(self.filters_on(index, egress).await?);
                    continue;
                };
                let found = match blocks.entry(block) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => unknown.insert(self.filters_at(of_block(block), egress).await?),
                };
                filters.extend(found.iter().cloned().map(|filter| Filter { index, shared: true, ..filter }));
            }
        }
        Ok(filters)
    }

    /// Takes the clsact qdisc of a device away if no filter of its own is on it; whether it did.
    pub async fn remove_empty_clsact(&self, index: u32) -> Result<bool> {
        for egress in [false, true] {
            if !self.filters_on(index, egress).await?.is_empty() {
                return Ok(false);
            }
        }
        let mut request = self.handle.qdisc().del(i32::try_from(index).context("no interface has this index")?);
        request.message_mut().header.parent = TcHandle::CLSACT;
        match request.execute().await {
            Ok(()) => Ok(true),
            Err(error) if [nix::libc::ENOENT, nix::libc::EINVAL, nix::libc::ENODEV].iter().any(|n| is(&error, *n)) => {
                Ok(false)
            }
            Err(error) => Err(refusal(error)).context("cannot remove the clsact qdisc"),
        }
    }

    /// Those on the clsact qdisc of a device, those in blocks that it shares included.
    pub(super) async fn filters_of(&self, index: u32) -> Result<BTreeSet<Filter>> {
        let mut filters = BTreeSet::new();
        for egress in [false, true] {
            let found = self.filters_at(at(index, egress)?, egress).await?;
            // In the answer to a question about a device that shares a block, the block stands in the place of the device.
            filters.extend(found.into_iter().map(|f| Filter { index, shared: f.index != index, ..f }));
        }
        Ok(filters)
    }

    /// Those of a device's own.
    async fn filters_on(&self, index: u32, egress: bool) -> Result<BTreeSet<Filter>> {
        // What is in a block that the device shares is told with the block in the place of the device.
        Ok(self.filters_at(at(index, egress)?, egress).await?.into_iter().filter(|f| f.index == index).collect())
    }

    async fn filters_at(&self, at: TcMessage, egress: bool) -> Result<BTreeSet<Filter>> {
        match self.dump(RouteNetlinkMessage::GetTrafficFilter(at)).await {
            Ok(messages) => Ok(messages.iter().filter_map(|message| filter(message, egress)).collect()),
            // The device went since it was listed.
            Err(error) if [nix::libc::ENODEV, nix::libc::EINVAL].iter().any(|number| answered(&error, *number)) => {
                Ok(BTreeSet::new())
            }
            Err(error) => Err(error).context("cannot list the filters"),
        }
    }
}

/// A request for what is on the clsact qdisc of a device, at its egress.
pub fn egress_of(index: u32) -> Result<TcMessage> {
    let mut at = TcMessage::with_index(i32::try_from(index).context("no interface has this index")?);
    at.header.parent = TcHandle { major: 0xffff, minor: TcHandle::MIN_EGRESS };
    Ok(at)
}

fn at(index: u32, egress: bool) -> Result<TcMessage> {
    let mut at = egress_of(index)?;
    if !egress {
        at.header.parent.minor = TcHandle::MIN_INGRESS;
    }
    Ok(at)
}

/// `None` for the entry that announces a priority: it has no handle.
pub fn filter(message: &RouteNetlinkMessage, egress: bool) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else { return None };
    let TcHandle { major, minor } = message.header.handle;
    let handle = u32::from(major) << 16 | u32::from(minor);
    let options = message.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.as_slice(),
        _ => &[],
    });
    let name = options.into_iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    (handle != 0).then(|| Filter {
        index: u32::try_from(message.header.index).unwrap_or_default(),
        egress,
        priority: (message.header.info >> 16) as u16,
        handle,
        name: name.unwrap_or_default(),
        shared: false,
    })
}

fn kind(message: &TcMessage) -> &str {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or_default()
}
