//! TC filters of type bpf, as far as programs that are not attached by TCX need it: which there are, and taking an empty
//! clsact qdisc away.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::{
    Links,
    kernel::{is, refusal},
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
}

impl Links {
    /// Every filter on every clsact qdisc, as far as is known: see [`Seen`](super::Seen).
    pub async fn filters(&self) -> Result<Arc<BTreeSet<Filter>>> {
        let Some(watched) = &self.watched else { return Ok(Arc::new(self.listed_filters().await?)) };
        watched.filters.or_listed(watched.watch.version(), self.listed_filters()).await
    }

    async fn listed_filters(&self) -> Result<BTreeSet<Filter>> {
        let qdiscs: Vec<TcMessage> = self
            .handle
            .qdisc()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(refusal)
            .context("cannot list the qdiscs")?;
        let mut filters = BTreeSet::new();
        for qdisc in qdiscs.iter().filter(|qdisc| kind(qdisc) == "clsact") {
            filters.extend(self.filters_of(qdisc.header.index).await?);
        }
        Ok(filters)
    }

    /// Takes the clsact qdisc of a device away if no filter is on it; whether it did.
    pub async fn remove_empty_clsact(&self, index: u32) -> Result<bool> {
        let index = i32::try_from(index).context("no interface has this index")?;
        if !self.filters_of(index).await?.is_empty() {
            return Ok(false);
        }
        let mut request = self.handle.qdisc().del(index);
        request.message_mut().header.parent = TcHandle::CLSACT;
        match request.execute().await {
            Ok(()) => Ok(true),
            Err(error) if [nix::libc::ENOENT, nix::libc::EINVAL, nix::libc::ENODEV].iter().any(|n| is(&error, *n)) => {
                Ok(false)
            }
            Err(error) => Err(refusal(error)).context("cannot remove the clsact qdisc"),
        }
    }

    async fn filters_of(&self, index: i32) -> Result<BTreeSet<Filter>> {
        let mut filters = BTreeSet::new();
        for egress in [false, true] {
            let request = self.handle.traffic_filter(index).get();
            let request = if egress { request.egress() } else { request.ingress() };
            let listed: Result<Vec<TcMessage>, _> = request.execute().try_collect().await;
            match listed {
                Ok(messages) => filters.extend(messages.iter().filter_map(|message| filter(message, egress))),
                // The device went since it was listed.
                Err(error) if is(&error, nix::libc::ENODEV) || is(&error, nix::libc::EINVAL) => {}
                Err(error) => return Err(refusal(error)).context("cannot list the filters"),
            }
        }
        Ok(filters)
    }
}

/// `None` for the entry that announces a priority: it has no handle.
fn filter(message: &TcMessage, egress: bool) -> Option<Filter> {
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
    })
}

fn kind(message: &TcMessage) -> &str {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or_default()
}
