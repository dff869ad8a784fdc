//! What should exist of a file: networks and commands with their whole names, marked as the project's, in the order in which
//! they are made.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    ComposeError, File,
    file::Network,
    service::{Joined, Service},
};
use crate::model::{Name, NetSpec, NetworkOrder, PortSpec, Rejection};

/// Labels that say whose a thing is: those of Docker Compose, so that what knows its projects knows these.
pub const PROJECT: &str = "com.docker.compose.project";
pub const NETWORK: &str = "com.docker.compose.network";
pub const SERVICE: &str = "com.docker.compose.service";
/// Label with a digest of what a thing was made of.
pub const CONFIG: &str = "com.docker.compose.config-hash";

/// The network that services join which name none.
const DEFAULT: &str = "default";

/// Everything that a file says should exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// Those that a service joins.
    pub networks: Vec<PlannedNetwork>,
    /// Each after those that it depends on.
    pub services: Vec<PlannedService>,
}

/// A network that should exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedNetwork {
    /// Its whole name.
    pub name: Name,
    /// Whether it is someone else's.
    pub external: bool,
    /// What it is.
    pub order: NetworkOrder,
}

/// A command that should run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PlannedService {
    /// The file's name for it.
    pub service: String,
    /// Its endpoint's.
    pub name: Name,
    /// As [`NetSpec`] and [`Mode`](crate::model::Mode) read them.
    pub networks: Vec<String>,
    /// As [`PortSpec`] reads them.
    pub ports: Vec<String>,
    /// DNS servers.
    pub dns: Vec<String>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Beside what it inherits.
    pub environment: BTreeMap<String, String>,
    /// Below the file's directory.
    pub directory: Option<String>,
    /// The user's, the project's, and the digest of all this.
    pub labels: BTreeMap<String, String>,
}

impl Project {
    /// Of a file in a directory of this name.
    pub fn of(file: &File, directory: &str) -> Result<Self, ComposeError> {
        let name = project_name(file, directory)?;
        let mut services = Vec::new();
        for service in in_order(&file.services)? {
            services.push(planned_service(&name, file, service)?);
        }
        let used: BTreeSet<&str> = file.services.values().flat_map(|service| networks_of(service)).collect();
        let networks = used.into_iter().map(|key| planned_network(&name, file, key));
        Ok(Self { networks: networks.collect::<Result<_, _>>()?, name, services })
    }
}

/// The file's name for its project, or the directory's, as Docker Compose writes it.
fn project_name(file: &File, directory: &str) -> Result<String, ComposeError> {
    let clean = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let given = match &file.name {
        Some(name) if !name.chars().all(clean) => {
            return Err(ComposeError::wrong("name", "a project's name has small letters, digits, `-` and `_`"));
        }
        Some(name) => name.clone(),
        None => directory.to_lowercase().chars().filter(|c| clean(*c)).collect(),
    };
    let name = given.trim_start_matches(['-', '_']).to_owned();
    if name.is_empty() { Err(ComposeError::wrong("name", "the project has none: give one")) } else { Ok(name) }
}

/// Names of services, each after those it depends on.
fn in_order(services: &BTreeMap<String, Service>) -> Result<Vec<&str>, ComposeError> {
    let mut done = Vec::new();
    for name in services.keys() {
        visit(services, name, &mut Vec::new(), &mut done)?;
    }
    Ok(done)
}

fn visit<'a>(
    services: &'a BTreeMap<String, Service>,
    name: &'a str,
    path: &mut Vec<&'a str>,
    done: &mut Vec<&'a str>,
) -> Result<(), ComposeError> {
    if done.contains(&name) {
        return Ok(());
    }
    if let Some(begin) = path.iter().position(|other| *other == name) {
        let circle = path[begin..].iter().copied().chain([name]).map(str::to_owned);
        return Err(ComposeError::Circle(circle.collect()));
    }
    path.push(name);
    let Some(service) = services.get(name) else { return Ok(()) };
    let shared = service.network_mode.as_deref().and_then(|mode| mode.strip_prefix("service:"));
    for other in service.depends_on.iter().map(String::as_str).chain(shared) {
        if !services.contains_key(other) {
            return Err(ComposeError::wrong(&format!("services.{name}"), format!("there is no service {other}")));
        }
        visit(services, other, path, done)?;
    }
    path.pop();
    done.push(name);
    Ok(())
}

/// The file's names of the networks that a service joins.
fn networks_of(service: &Service) -> Vec<&str> {
    match (&service.networks, &service.network_mode) {
        (Some(joined), _) => joined.iter().map(|joined| joined.network.as_str()).collect(),
        (None, Some(_)) => Vec::new(),
        (None, None) => vec![DEFAULT],
    }
}

fn planned_network(project: &str, file: &File, key: &str) -> Result<PlannedNetwork, ComposeError> {
    let place = format!("networks.{key}");
    let network = file.networks.get(key).cloned().unwrap_or_default();
    let name = network_name(project, key, &network, &place)?;
    let mut order = NetworkOrder { name: name.to_string(), ..network.order };
    let config = digest(&order);
    order.labels.extend([
        (PROJECT.to_owned(), project.to_owned()),
        (NETWORK.to_owned(), key.to_owned()),
        (CONFIG.to_owned(), config),
    ]);
    Ok(PlannedNetwork { name, external: network.external, order })
}

fn network_name(project: &str, key: &str, network: &Network, place: &str) -> Result<Name, ComposeError> {
    let own = match (&network.name, network.external) {
        (Some(name), _) => name.clone(),
        (None, true) => key.to_owned(),
        (None, false) => format!("{project}_{key}"),
    };
    refused(place, own.parse())
}

fn planned_service(project: &str, file: &File, key: &str) -> Result<PlannedService, ComposeError> {
    let place = format!("services.{key}");
    let service = file.services.get(key).cloned().unwrap_or_default();
    let name = endpoint_name(project, file, key, &place)?;
    let networks = match (&service.networks, service.network_mode.as_deref()) {
        (None, Some(mode)) => vec![mode_of(project, file, mode, &place)?],
        (None, None) => {
            vec![netspec(project, file, key, &Joined { network: DEFAULT.to_owned(), ..Joined::default() })?]
        }
        (Some(joined), _) if joined.is_empty() => vec!["none".to_owned()],
        (Some(joined), _) => {
            joined.iter().map(|joined| netspec(project, file, key, joined)).collect::<Result<_, _>>()?
        }
    };
    for port in &service.ports {
        refused(&place, port.parse::<PortSpec>())?;
    }
    let mut planned = PlannedService {
        service: key.to_owned(),
        name,
        networks,
        ports: service.ports,
        dns: service.dns,
        command: service.command,
        environment: service.environment,
        directory: service.directory,
        labels: service.labels,
    };
    let config = digest(&planned);
    planned.labels.extend([
        (PROJECT.to_owned(), project.to_owned()),
        (SERVICE.to_owned(), key.to_owned()),
        (CONFIG.to_owned(), config),
    ]);
    Ok(planned)
}

fn endpoint_name(project: &str, file: &File, key: &str, place: &str) -> Result<Name, ComposeError> {
    let given = file.services.get(key).and_then(|service| service.container_name.clone());
    refused(place, given.unwrap_or_else(|| format!("{project}-{key}-1")).parse())
}

/// A network mode as `netd run --network` takes it.
fn mode_of(project: &str, file: &File, mode: &str, place: &str) -> Result<String, ComposeError> {
    match (mode, mode.split_once(':')) {
        ("host" | "none" | "bridge", _) | (_, Some(("container", _))) => Ok(mode.to_owned()),
        (_, Some(("service", service))) => Ok(format!("container:{}", endpoint_name(project, file, service, place)?)),
        _ => Err(ComposeError::wrong(place, format!("there is no network_mode {mode}"))),
    }
}

/// A place in a network as `netd run --network` takes it: the service's own name is one of its names there.
fn netspec(project: &str, file: &File, service: &str, joined: &Joined) -> Result<String, ComposeError> {
    let (key, place) = (joined.network.as_str(), format!("services.{service}.networks.{}", joined.network));
    let known = file.networks.get(key);
    if known.is_none() && key != DEFAULT {
        return Err(ComposeError::wrong(&place, format!("the file has no network {key}")));
    }
    let network = known.cloned().unwrap_or_default();
    let mut aliases = vec![service];
    aliases.extend(joined.aliases.iter().map(String::as_str).filter(|alias| *alias != service));
    let options = joined.options.iter().cloned().chain(aliases.iter().map(|alias| format!("alias={alias}")));
    let name = network_name(project, key, &network, &place)?;
    let spec = format!("name={name},{}", options.collect::<Vec<_>>().join(","));
    refused(&place, spec.parse::<NetSpec>())?;
    Ok(spec)
}

fn refused<T>(place: &str, read: Result<T, Rejection>) -> Result<T, ComposeError> {
    read.map_err(|rejection| ComposeError::Refused { place: place.to_owned(), rejection })
}

/// What changes when anything of a thing does (FNV-1a of its JSON, 64 bits).
fn digest(thing: &impl Serialize) -> String {
    let text = serde_json::to_vec(thing).unwrap_or_default();
    let digest = text
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{digest:016x}")
}

#[cfg(test)]
mod tests;
