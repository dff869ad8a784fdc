//! Who is called what, and who may ask: the model as the resolver reads it.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::model::{Attachment, Endpoint, Model, Name, Network};

/// Everything the resolver knows of names. Names are in lower case and without a dot at the end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Directory {
    networks: BTreeMap<String, Names>,
    askers: BTreeMap<u64, Asker>,
}

/// The names of one network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Names {
    subnets: Vec<IpNet>,
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    names: BTreeMap<IpAddr, String>,
}

/// A container's namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Asker {
    networks: BTreeSet<String>,
    forwarding: Forwarding,
}

/// What becomes of a container's question about a name that is none of its networks'.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forwarding {
    /// Nothing: all of its networks are internal.
    Never,
    /// The host's servers are asked, from the host.
    Host,
    /// These servers are asked, from the container's namespace.
    To(Vec<IpAddr>),
}

impl Directory {
    /// The names of a model, and as who asks which of its endpoints are there: the namespace of one that is gone may have left its
    /// number to another's.
    pub fn of(model: &Model, is_there: impl Fn(&Endpoint) -> bool) -> Self {
        let mut directory = Self::default();
        for network in model.networks.values() {
            let names =
                Names { subnets: network.subnets.iter().map(|subnet| subnet.subnet).collect(), ..Names::default() };
            directory.networks.insert(folded(network.name.as_str()), names);
        }
        for endpoint in model.endpoints.values() {
            directory.add(model, endpoint, is_there(endpoint));
        }
        directory
    }

    /// With the names that lead to an endpoint of another host in this network, its own first.
    pub fn with(mut self, network: &Name, names: &[String], addresses: &[IpAddr]) -> Self {
        let network = folded(network.as_str());
        let Some(known) = self.networks.get_mut(&network) else { return self };
        for address in addresses {
            let names: Vec<String> = names.iter().map(|name| folded(name)).collect();
            if let Some(first) = names.first() {
                known.names.entry(*address).or_insert_with(|| format!("{first}.{network}"));
            }
            for name in names {
                known.addresses.entry(name).or_default().insert(*address);
            }
        }
        self
    }

    /// Follows a model to another that differs in these endpoints alone, whose namespaces and addresses are no others'.
    pub fn follow(
        &mut self,
        before: &Model,
        after: &Model,
        changed: &BTreeSet<Name>,
        is_there: impl Fn(&Endpoint) -> bool,
    ) {
        if self.networks.len() != after.networks.len() {
            // Networks whose names differ in their case are one here.
            *self = Self::of(after, is_there);
            return;
        }
        for endpoint in changed.iter().filter_map(|name| before.endpoints.get(name)) {
            self.forget(endpoint);
        }
        for endpoint in changed.iter().filter_map(|name| after.endpoints.get(name)) {
            self.add(after, endpoint, is_there(endpoint));
        }
    }

    fn forget(&mut self, endpoint: &Endpoint) {
        for attachment in &endpoint.attachments {
            let Some(names) = self.networks.get_mut(&folded(attachment.network.as_str())) else { continue };
            for address in attachment.addresses() {
                names.names.remove(&address);
                for name in names_of(endpoint, attachment) {
                    if let Entry::Occupied(mut known) = names.addresses.entry(name) {
                        known.get_mut().remove(&address);
                        if known.get().is_empty() {
                            known.remove();
                        }
                    }
                }
            }
        }
        self.askers.remove(&endpoint.netns_inode);
    }

    fn add(&mut self, model: &Model, endpoint: &Endpoint, is_there: bool) {
        for attachment in &endpoint.attachments {
            let network = folded(attachment.network.as_str());
            let Some(names) = self.networks.get_mut(&network) else { continue };
            for address in attachment.addresses() {
                names.names.entry(address).or_insert_with(|| format!("{}.{network}", folded(endpoint.name.as_str())));
                for name in names_of(endpoint, attachment) {
                    names.addresses.entry(name).or_default().insert(address);
                }
            }
        }
        if endpoint.attachments.is_empty() || !is_there {
            return;
        }
        let networks = endpoint.attachments.iter().map(|attachment| folded(attachment.network.as_str()));
        let forwarding = forwarding(model, endpoint);
        // Two endpoints may be one namespace: it asks as both.
        let asker = self
            .askers
            .entry(endpoint.netns_inode)
            .or_insert_with(|| Asker { networks: BTreeSet::new(), forwarding: Forwarding::Never });
        asker.networks.extend(networks);
        if asker.forwarding == Forwarding::Never {
            asker.forwarding = forwarding;
        }
    }

    /// Whether a namespace, by its inode, is a container's.
    pub fn knows(&self, asker: u64) -> bool {
        self.askers.contains_key(&asker)
    }

    /// The addresses of a name, in lower case, as `asker` may know it: of one of its networks, or with the name of one behind a
    /// dot. `None` if there is no such name for it.
    pub fn addresses(&self, asker: u64, name: &str) -> Option<BTreeSet<IpAddr>> {
        let asker = self.askers.get(&asker)?;
        let in_network = |network: &String, name: &str| self.networks.get(network)?.addresses.get(name);
        let plain: BTreeSet<IpAddr> =
            asker.networks.iter().filter_map(|network| in_network(network, name)).flatten().copied().collect();
        if !plain.is_empty() {
            return Some(plain);
        }
        // Names have dots themselves: the longest one first.
        name.rmatch_indices('.').find_map(|(dot, _)| {
            let (name, network) = (&name[..dot], name[dot + 1..].to_owned());
            asker.networks.contains(&network).then(|| in_network(&network, name).cloned())?
        })
    }

    /// The name of an address of one of the asker's networks. `Some(None)` for one that nobody has there, `None` for one of
    /// others.
    pub fn name(&self, asker: u64, address: IpAddr) -> Option<Option<&str>> {
        let asker = self.askers.get(&asker)?;
        let mut networks = asker.networks.iter().filter_map(|network| self.networks.get(network));
        let network = networks.find(|network| network.subnets.iter().any(|subnet| subnet.contains(&address)))?;
        Some(network.names.get(&address).map(String::as_str))
    }

    /// What becomes of the asker's other questions.
    pub fn forwarding(&self, asker: u64) -> &Forwarding {
        self.askers.get(&asker).map_or(&Forwarding::Never, |asker| &asker.forwarding)
    }
}

/// The name, its aliases in this network, and the short id.
fn names_of(endpoint: &Endpoint, attachment: &Attachment) -> impl Iterator<Item = String> {
    let aliases = attachment.aliases.iter().map(|alias| folded(alias.as_str()));
    [folded(endpoint.name.as_str()), endpoint.id.clone()].into_iter().chain(aliases)
}

/// An endpoint's own servers, else those of its networks, else the host's; none where no network of its leads out.
fn forwarding(model: &Model, endpoint: &Endpoint) -> Forwarding {
    let networks = endpoint.attachments.iter().filter_map(|attachment| model.networks.get(&attachment.network));
    let open: Vec<&Network> = networks.filter(|network| !network.internal).collect();
    if open.is_empty() {
        return Forwarding::Never;
    }
    let mut servers = endpoint.dns.clone();
    if servers.is_empty() {
        servers = open.iter().flat_map(|network| &network.dns).copied().collect();
    }
    if servers.is_empty() { Forwarding::Host } else { Forwarding::To(servers) }
}

fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
}
