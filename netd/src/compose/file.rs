//! The text of a Compose file as values: every key known, none of them doubted after.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    ComposeError,
    interpolate::{Variables, interpolate},
    section::Section,
    service::Service,
};
use crate::model::NetworkOrder;

/// Top-level keys that are about something else than networks and the commands in them, or about nothing any more.
const PASSED_OVER: [&str; 4] = ["volumes", "configs", "secrets", "version"];

/// A Compose file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct File {
    /// What it calls its project.
    pub name: Option<String>,
    /// By its own names for them.
    pub networks: BTreeMap<String, Network>,
    /// By name.
    pub services: BTreeMap<String, Service>,
    /// What of it has no effect.
    pub warnings: Vec<String>,
}

/// A network of the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Network {
    /// Its real name, if it is not made of the project's and its own.
    pub name: Option<String>,
    /// Whether it is someone else's, and only joined.
    pub external: bool,
    /// What it is to be; nameless.
    pub order: NetworkOrder,
}

impl File {
    /// Reads it.
    pub fn read(text: &str, variables: Variables<'_>) -> Result<Self, ComposeError> {
        let options = serde_saphyr::options! {
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            with_snippet: false,
        };
        let mut value: Value = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| ComposeError::NotYaml(error.to_string().lines().next().unwrap_or_default().to_owned()))?;
        let mut warnings = Vec::new();
        interpolate("", &mut value, variables, &mut warnings)?;
        warnings.sort();
        warnings.dedup();

        let mut top = Section::new("", value)?;
        let mut file = Self { name: top.text("name")?, ..Self::default() };
        for (key, value) in top.section("networks")?.entries() {
            let section = Section::new(format!("networks.{key}"), value)?;
            file.networks.insert(key, network(section, &mut warnings)?);
        }
        for (key, value) in top.section("services")?.entries() {
            let section = Section::new(format!("services.{key}"), value)?;
            file.services.insert(key, Service::read(section, &mut warnings)?);
        }
        top.finished(&PASSED_OVER, &mut warnings)?;
        if file.services.is_empty() {
            return Err(ComposeError::wrong("services", "there are none"));
        }
        Ok(Self { warnings, ..file })
    }
}

fn network(mut section: Section, warnings: &mut Vec<String>) -> Result<Network, ComposeError> {
    let external = section.truth("external")?.unwrap_or(false);
    let name = section.text("name")?;
    let place = section.place().to_owned();
    let ipv4 = section.truth("enable_ipv4")?.unwrap_or(true);
    // What Swarm makes of a network does not matter to one host.
    section.pass_over(&["attachable"]);
    let mut order = NetworkOrder {
        driver: section.text("driver")?,
        internal: section.truth("internal")?.unwrap_or(false),
        // Both families; IPv6 alone is what a subnet of that alone asks for.
        ipv6: section.truth("enable_ipv6")?.unwrap_or(false) && ipv4,
        options: with_values(section.pairs("driver_opts")?),
        labels: with_values(section.pairs("labels")?),
        ..NetworkOrder::default()
    };
    ipam(section.section("ipam")?, &mut order, warnings)?;
    section.finished(&[], warnings)?;
    if !ipv4 && (order.subnets.is_empty() || order.subnets.iter().any(|subnet| !subnet.contains(':'))) {
        return Err(ComposeError::wrong(&place, "enable_ipv4 is false: give an IPv6 subnet, and no other"));
    }
    if external && order != NetworkOrder::default() {
        return Err(ComposeError::wrong(&place, "it is external, so nothing but its name can be said of it"));
    }
    Ok(Network { name, external, order })
}

fn ipam(mut section: Section, order: &mut NetworkOrder, warnings: &mut Vec<String>) -> Result<(), ComposeError> {
    let place = section.place_of("config");
    if let Some(driver) = section.text("driver")?.filter(|driver| driver != "default") {
        return Err(ComposeError::wrong(section.place(), format!("there is no address driver {driver}")));
    }
    let configs = match section.take("config") {
        None => Vec::new(),
        Some(Value::Array(configs)) => configs,
        Some(_) => return Err(ComposeError::wrong(&place, "it is not a list")),
    };
    for config in configs {
        let mut config = Section::new(place.clone(), config)?;
        order.subnets.extend(config.text("subnet")?);
        order.gateways.extend(config.text("gateway")?);
        order.ip_ranges.extend(config.text("ip_range")?);
        order.aux_addresses.extend(with_values(config.pairs("aux_addresses")?));
        config.finished(&[], warnings)?;
    }
    section.finished(&[], warnings)
}

/// Pairs, of which those without a value have an empty one.
pub fn with_values(pairs: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()
}
