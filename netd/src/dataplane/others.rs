//! Programs of others at the hooks where ours are.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use netd_common::tables::Hook;

use super::{Dataplane, attach};
use crate::{
    link::Filter,
    reconcile::{Foreign, LinkName},
};

impl Dataplane {
    /// Programs of others at `places`, in whichever manner they are attached; `filters` is what is on clsact qdiscs.
    pub fn others(
        &self,
        places: &BTreeSet<(LinkName, Hook)>,
        links: &BTreeMap<u32, LinkName>,
        filters: &BTreeSet<Filter>,
    ) -> Result<BTreeSet<Foreign>> {
        let mut others = BTreeSet::new();
        for (link, hook) in places {
            let program = |name: String, before| Foreign { link: link.clone(), hook: *hook, name, before };
            // A kernel without TCX has nothing there.
            let attached =
                SchedClassifier::query_tcx(link.as_str(), attach::direction(*hook)).map_or(Vec::new(), |found| found.1);
            let is_ours = |found: &ProgramInfo| found.name() == short(hook.name());
            let first_of_ours = attached.iter().position(is_ours);
            for (place, found) in attached.iter().enumerate().filter(|(_, found)| !is_ours(found)) {
                let name =
                    found.name_as_str().filter(|name| !name.is_empty()).map_or(found.id().to_string(), str::to_owned);
                others.insert(program(name, first_of_ours.is_none_or(|ours| place < ours)));
            }
            let egress = matches!(attach::direction(*hook), TcAttachType::Egress);
            let here =
                filters.iter().filter(|filter| filter.egress == egress && links.get(&filter.index) == Some(link));
            let ours = here.clone().find(|filter| attach::is_ours(filter) == Some(*hook));
            for filter in here.filter(|filter| attach::is_ours(filter).is_none()) {
                let name = if filter.name.is_empty() { "a tc filter" } else { &filter.name };
                let before = ours.is_some_and(|ours| filter.priority < ours.priority);
                others.insert(program(name.to_owned(), before));
            }
        }
        Ok(others)
    }
}

/// A name as far as the kernel keeps it.
fn short(name: &str) -> &[u8] {
    &name.as_bytes()[..name.len().min(15)]
}
