//! The difference between a project and what exists: what is to be made, made anew, or let alone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    ComposeError, PlannedNetwork, PlannedService, Project,
    project::{CONFIG, PROJECT},
};
use crate::daemon::{EndpointView, NetworkView};

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes<'a> {
    /// Networks that are not there.
    pub create: Vec<&'a PlannedNetwork>,
    /// Services whose endpoint is another now, or whose command runs no more: these endpoints go first, the last of them first.
    pub replace: Vec<&'a EndpointView>,
    /// Services to be started, in this order.
    pub start: Vec<&'a PlannedService>,
    /// Services that run as the file says.
    pub keep: Vec<&'a PlannedService>,
    /// Endpoints of the project that the file does not know any more.
    pub orphans: Vec<&'a str>,
}

/// From what exists to what the project says.
pub fn changes<'a>(
    project: &'a Project,
    networks: &[NetworkView],
    endpoints: &'a [EndpointView],
) -> Result<Changes<'a>, ComposeError> {
    let mut changes = Changes::default();
    for wanted in &project.networks {
        let found = networks.iter().find(|network| network.name == wanted.name.as_str());
        match found {
            None if wanted.external => return Err(ComposeError::NoExternalNetwork(wanted.name.to_string())),
            None => changes.create.push(wanted),
            Some(_) if wanted.external => {}
            Some(found) => {
                ours(project, "network", &found.name, &found.labels)?;
                if found.labels.get(CONFIG) != wanted.order.labels.get(CONFIG) {
                    return Err(ComposeError::NetworkDiffers(found.name.clone()));
                }
            }
        }
    }
    let mut anew = BTreeSet::new();
    for wanted in &project.services {
        let found = endpoints.iter().find(|endpoint| endpoint.name == wanted.name.as_str());
        // What shares a network goes with the endpoint whose it is.
        let shares = wanted.networks.iter().any(|mode| anew.contains(mode.as_str()));
        match found {
            None => changes.start.push(wanted),
            Some(found) => {
                ours(project, "endpoint", &found.name, &found.labels)?;
                let same = found.labels.get(CONFIG) == wanted.labels.get(CONFIG);
                if same && found.state == "running" && !shares {
                    changes.keep.push(wanted);
                    continue;
                }
                changes.replace.insert(0, found);
                changes.start.push(wanted);
            }
        }
        anew.insert(format!("container:{}", wanted.name));
    }
    let known = |name: &str| project.services.iter().any(|service| service.name.as_str() == name);
    changes.orphans =
        of_project(&project.name, endpoints).map(|e| e.name.as_str()).filter(|name| !known(name)).collect();
    Ok(changes)
}

/// Endpoints that `up` made for this project, as they go: who shares another's network before it, and each before those that it
/// depends on.
pub fn departures<'a>(project: &Project, endpoints: &'a [EndpointView]) -> Vec<&'a EndpointView> {
    let place = |name: &str| project.services.iter().position(|service| service.name.as_str() == name);
    let mut leaving: Vec<_> = of_project(&project.name, endpoints).collect();
    leaving.sort_by_key(|endpoint| (!endpoint.mode.starts_with("container:"), Reverse(place(&endpoint.name))));
    leaving
}

/// Endpoints that `up` made for this project.
fn of_project<'a>(project: &str, endpoints: &'a [EndpointView]) -> impl Iterator<Item = &'a EndpointView> {
    endpoints.iter().filter(move |endpoint| is_of(project, &endpoint.labels))
}

fn is_of(project: &str, labels: &BTreeMap<String, String>) -> bool {
    labels.get(PROJECT).is_some_and(|found| found == project)
}

fn ours(
    project: &Project,
    what: &'static str,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> Result<(), ComposeError> {
    if is_of(&project.name, labels) {
        return Ok(());
    }
    Err(ComposeError::Foreign { what, name: name.to_owned(), project: project.name.clone() })
}
