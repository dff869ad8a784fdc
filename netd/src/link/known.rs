//! The host's devices, addresses, routes, stations and filters: what is kept of each, brought up to what the kernel has told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use netd_common::tuple::Mac;
use rtnetlink::packet_route::route::RouteMessage;

use super::{
    Filter, Links,
    connected::Connected,
    kept::{Due, Kept, Touched},
    kernel::{Assigned, output},
    ours::{Link, Owner},
    watch::{Part, Watch},
};
use crate::reconcile::LinkName;

/// Addresses by the index of their device, in the kernel's order: the primary one of a subnet before the others.
pub type Addresses = BTreeMap<u32, Vec<Assigned>>;

/// What is known of a host whose changes are heard of.
#[derive(Default)]
pub struct Known {
    links: Kept<BTreeMap<u32, Link>>,
    addresses: Kept<Addresses>,
    /// Those by devices of ours left out.
    routes: Kept<Vec<RouteMessage>>,
    connected: Kept<Connected>,
    stations: Kept<BTreeSet<(u32, Mac)>>,
    filters: Kept<BTreeSet<Filter>>,
    /// The names that devices of ours have had, by their indexes.
    named: BTreeMap<u32, LinkName>,
    /// Devices of ours, those that are gone since everything was listed included.
    ours: BTreeSet<u32>,
}

impl Links {
    /// Every device by its index, as far as is known.
    pub(super) async fn seen_links(&self) -> Result<Arc<BTreeMap<u32, Link>>> {
        let Some(watched) = &self.watched else { return Ok(Arc::new(self.all().await?)) };
        let mut known = watched.known.lock().await;
        self.follow_links(&watched.watch, &mut known).await?;
        Ok(known.links.value())
    }

    /// Every address of every device, as far as is known.
    pub(super) async fn seen_addresses(&self) -> Result<Arc<Addresses>> {
        let Some(watched) = &self.watched else { return Ok(Arc::new(by_device(self.addresses().await?))) };
        let mut known = watched.known.lock().await;
        let begun = Instant::now();
        match known.addresses.due(watched.watch.touched(Part::Addresses)) {
            Due::Nothing => {}
            Due::Everything => known.addresses.renew(by_device(self.addresses().await?), begun),
            Due::Of(indexes) => {
                for index in indexes {
                    let asked = self.addresses_of(index).await;
                    let asked = asked.map(|assigned| put(known.addresses.mended(), index, assigned));
                    known.addresses.mend(asked)?;
                }
            }
        }
        Ok(known.addresses.value())
    }

    /// Every route but those by devices of ours, as far as is known.
    pub(super) async fn seen_routes(&self) -> Result<Arc<Vec<RouteMessage>>> {
        let Some(watched) = &self.watched else { return Ok(Arc::new(self.routes().await?)) };
        let mut known = watched.known.lock().await;
        let touched = watched.watch.touched(Part::Routes);
        // Which devices are ours must be known of all that the routes were told of.
        self.follow_links(&watched.watch, &mut known).await?;
        let begun = Instant::now();
        let touched = known.but_ours(touched);
        if known.routes.due(touched) != Due::Nothing {
            known.routes.forget();
            let mut routes = self.routes().await?;
            routes.retain(|route| !output(route).is_some_and(|index| known.is_ours(index)));
            known.routes.renew(routes, begun);
        }
        Ok(known.routes.value())
    }

    /// The routes of the kernel's own to subnets, as far as is known of those by bridges of networks.
    pub(super) async fn seen_connected(&self) -> Result<Arc<Connected>> {
        let Some(watched) = &self.watched else { return Ok(Arc::new(self.connected().await?)) };
        let mut known = watched.known.lock().await;
        let touched = watched.watch.touched(Part::Connected);
        // Which devices are bridges of networks must be known of all that the routes were told of.
        self.follow_links(&watched.watch, &mut known).await?;
        let begun = Instant::now();
        let touched = known.of_networks(touched);
        if known.connected.due(touched) != Due::Nothing {
            known.connected.forget();
            known.connected.renew(self.connected().await?, begun);
        }
        Ok(known.connected.value())
    }

    /// What bridges know by their ports, as far as is known.
    pub(super) async fn seen_stations(&self) -> Result<Arc<BTreeSet<(u32, Mac)>>> {
        let Some(watched) = &self.watched else { return Ok(Arc::new(self.fixed_stations().await?)) };
        let mut known = watched.known.lock().await;
        let begun = Instant::now();
        match known.stations.due(watched.watch.touched(Part::Stations)) {
            Due::Nothing => {}
            Due::Everything => known.stations.renew(self.fixed_stations().await?, begun),
            Due::Of(indexes) => {
                for index in indexes {
                    let asked = self.fixed_stations_of(index).await;
                    let asked = asked.map(|found| {
                        let stations = known.stations.mended();
                        stations.retain(|(port, _)| *port != index);
                        stations.extend(found);
                    });
                    known.stations.mend(asked)?;
                }
            }
        }
        Ok(known.stations.value())
    }

    /// Every filter on every clsact qdisc, as far as is known.
    pub async fn filters(&self) -> Result<Arc<BTreeSet<Filter>>> {
        let Some(watched) = &self.watched else { return Ok(Arc::new(self.listed_filters().await?)) };
        let mut known = watched.known.lock().await;
        let begun = Instant::now();
        match known.filters.due(watched.watch.touched(Part::Filters)) {
            Due::Nothing => {}
            Due::Everything => known.filters.renew(self.listed_filters().await?, begun),
            Due::Of(indexes) => {
                for index in indexes {
                    let asked = self.filters_of(index).await;
                    let asked = asked.map(|found| {
                        let filters = known.filters.mended();
                        filters.retain(|filter| filter.index != index);
                        filters.extend(found);
                    });
                    known.filters.mend(asked)?;
                }
            }
        }
        Ok(known.filters.value())
    }

    async fn follow_links(&self, watch: &Watch, known: &mut Known) -> Result<()> {
        let begun = Instant::now();
        match known.links.due(watch.touched(Part::Links)) {
            Due::Nothing => return Ok(()),
            Due::Everything => {
                known.links.renew(self.all().await?, begun);
                known.ours.clear();
            }
            Due::Of(indexes) => {
                for index in indexes {
                    let asked = self.indexed(index).await;
                    let asked = asked.map(|found| put_link(known.links.mended(), index, found));
                    known.links.mend(asked)?;
                }
            }
        }
        known.recognise();
        Ok(())
    }
}

impl Known {
    /// Gives devices of ours the names that they had when they were first seen, and notes which are ours. What was ours and is so
    /// no more has routes that count.
    fn recognise(&mut self) {
        let links = self.links.value();
        let renamed = links.values().filter_map(|link| {
            let name = self.named.get(&link.index).filter(|name| **name != link.name)?;
            link.is_ours_but_for_its_name().then(|| (link.index, name.clone()))
        });
        let renamed: Vec<_> = renamed.collect();
        drop(links);
        if !renamed.is_empty() {
            let links = self.links.mended();
            for (index, name) in renamed {
                if let Some(link) = links.get_mut(&index) {
                    link.renamed = Some(std::mem::replace(&mut link.name, name));
                }
            }
        }
        let links = self.links.value();
        let ours = links.values().filter(|link| link.owner().is_some());
        self.named = ours.map(|link| (link.index, link.name.clone())).collect();
        if self.ours.iter().any(|index| links.get(index).is_some_and(|link| link.owner().is_none())) {
            self.routes.forget();
        }
        self.ours.retain(|index| !links.contains_key(index));
        self.ours.extend(self.named.keys());
    }

    fn is_ours(&self, index: u32) -> bool {
        self.ours.contains(&index)
    }

    fn of_networks(&self, touched: Touched) -> Touched {
        let links = self.links.value();
        let is_networks = |index: &u32| matches!(links.get(index).and_then(Link::owner), Some(Owner::Network(_)));
        match touched {
            Touched::Of(indexes) => Touched::Of(indexes.into_iter().filter(is_networks).collect()),
            Touched::Everything => Touched::Everything,
        }
    }

    fn but_ours(&self, touched: Touched) -> Touched {
        match touched {
            Touched::Of(indexes) => Touched::Of(indexes.into_iter().filter(|index| !self.is_ours(*index)).collect()),
            Touched::Everything => Touched::Everything,
        }
    }
}

fn put_link(links: &mut BTreeMap<u32, Link>, index: u32, found: Option<Link>) {
    match found {
        Some(link) => drop(links.insert(index, link)),
        None => drop(links.remove(&index)),
    }
}

fn put(addresses: &mut Addresses, index: u32, assigned: Vec<Assigned>) {
    if assigned.is_empty() {
        addresses.remove(&index);
    } else {
        addresses.insert(index, assigned);
    }
}

fn by_device(all: Vec<Assigned>) -> Addresses {
    let mut addresses = Addresses::new();
    for assigned in all {
        addresses.entry(assigned.index).or_default().push(assigned);
    }
    addresses
}

#[cfg(test)]
mod tests;
