//! Who may come to a published port: `from=` of the port itself, else the network's, else the configuration's.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use ipnet::IpNet;
use netd_common::tables::SourceList;

use super::{Model, Name, Network, PortPublication, Rejection};

/// One range of addresses, or one address. Without it, what the range should be, if that is known.
pub(super) fn range(text: &str) -> Result<IpNet, Option<IpNet>> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| None)?;
    if net.trunc() == net { Ok(net) } else { Err(Some(net.trunc())) }
}

/// A network's ranges as they come in, each element one or several with commas between; in order and each once.
pub(super) fn read(texts: &[String]) -> Result<Vec<IpNet>, Rejection> {
    let mut from = BTreeSet::new();
    for text in texts.iter().flat_map(|text| text.split(',')) {
        let malformed =
            || Rejection::Malformed { given: text.to_owned(), wanted: "a range of addresses like 10.1.2.0/24" };
        from.insert(range(text).map_err(|right| match (right, text.parse()) {
            (Some(right), Ok(given)) => Rejection::HostBits { given, right },
            _ => malformed(),
        })?);
    }
    Ok(from.into_iter().collect())
}

/// Has a network let these in where a port says nothing of it; whom the configuration lets in, if it is nobody.
pub fn set_sources(model: &mut Model, name: &Name, from: &[String]) -> Result<(), Rejection> {
    let from = read(from)?;
    model.network(name)?;
    model.networks.entry(name.clone()).and_modify(|network| network.from = from);
    Ok(())
}

/// Who may come to a port by this network, the first that says something; empty for everybody.
pub fn lets_in<'a>(port: &'a PortPublication, network: &'a Network, configured: &'a [IpNet]) -> &'a [IpNet] {
    [&port.from[..], &network.from, configured].into_iter().find(|from| !from.is_empty()).unwrap_or_default()
}

/// The list of these ranges: the same for the same ranges, another for others.
pub fn source_list(from: &[IpNet]) -> SourceList {
    if from.is_empty() {
        return SourceList::ANYONE;
    }
    let mut hasher = DefaultHasher::new();
    from.hash(&mut hasher);
    SourceList::numbered(hasher.finish())
}
