//! Endpoints that join and leave networks while they live, and networks that nobody is in.

use rand::RngCore;

use super::{
    Attachment, DEFAULT_NETWORK, Joining, Model, Name, NetSpec, Rejection,
    attaching::{joined, note_freed},
    follow_way_out,
};

/// Has an endpoint join more networks.
pub fn connect(model: &mut Model, name: &Name, mut joining: Joining, rng: &mut dyn RngCore) -> Result<(), Rejection> {
    let endpoint = model.endpoint(name)?;
    let is_in = |spec: &&NetSpec| endpoint.attachments.iter().any(|attachment| attachment.network == spec.network);
    if let Some(spec) = joining.specs.iter().find(is_in) {
        return Err(Rejection::AlreadyConnected { endpoint: name.clone(), network: spec.network.clone() });
    }
    // One that is being mended is not there, and its name is not free.
    joining.interfaces.extend(endpoint.attachments.iter().map(|attachment| attachment.ifname.clone()));
    let attachments = joined(model, joining, rng)?;
    model.endpoint_mut(name)?.attachments.extend(attachments);
    follow_way_out(model, name);
    Ok(())
}

/// Has an endpoint leave a network, and returns its place there. What it publishes stays published, by another of its networks.
pub fn disconnect(model: &mut Model, name: &Name, network: &Name) -> Result<Attachment, Rejection> {
    model.network(network)?;
    let endpoint = model.endpoint_mut(name)?;
    let not_connected = || Rejection::NotConnected { endpoint: name.clone(), network: network.clone() };
    let at = endpoint.attachments.iter().position(|attachment| attachment.network == *network);
    let attachment = endpoint.attachments.remove(at.ok_or_else(not_connected)?);
    note_freed(&mut model.networks, [&attachment]);
    follow_way_out(model, name);
    Ok(attachment)
}

/// Networks that nobody is in and that have all of these labels, `KEY` or `KEY=VALUE`; never the default one.
pub fn unused_networks(model: &Model, labels: &[String]) -> Vec<Name> {
    let has = |network: &super::Network, label: &String| match label.split_once('=') {
        Some((key, value)) => network.labels.get(key).is_some_and(|found| found == value),
        None => network.labels.contains_key(label),
    };
    let unused = model.networks.values().filter(|network| {
        network.name.as_str() != DEFAULT_NETWORK
            && model.attachments_of(&network.name).next().is_none()
            && labels.iter().all(|label| has(network, label))
    });
    unused.map(|network| network.name.clone()).collect()
}
