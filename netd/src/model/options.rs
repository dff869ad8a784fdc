//! `-o K=V` of a network: the keys that Docker's bridge driver reads. What this version does not do is refused, and so is
//! what nobody knows.

use std::collections::BTreeMap;

use super::{Rejection, gateway::ModeWish};
use crate::reconcile::{Family, LinkName};

/// What the options of a network say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// In bytes.
    pub mtu: Option<u32>,
    /// Both families.
    pub ipv6: bool,
    /// What containers leave as.
    pub host_ips: Vec<String>,
    /// What the names of interfaces in containers begin with, if not with `eth`.
    pub ifname_prefix: Option<String>,
    /// What gateways do, each of a family.
    pub gateway_modes: Vec<ModeWish>,
    /// No address of the host in the IPv4 subnet.
    pub inhibit_ipv4: bool,
    /// Containers reach one another only as somebody allows.
    pub no_icc: bool,
    /// What leaves keeps its address.
    pub no_masquerade: bool,
    /// Between hosts it goes encrypted.
    pub encrypted: bool,
}

impl Options {
    /// Reads them, by key.
    pub fn read(options: &BTreeMap<String, String>) -> Result<Self, Rejection> {
        let mut read = Self::default();
        for (key, value) in options {
            read.set(key, value)?;
        }
        Ok(read)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Rejection> {
        let unknown = || Rejection::UnknownOption(key.to_owned());
        if key == "encrypted" {
            // Docker's overlay driver takes it with and without a value.
            self.encrypted = value.is_empty() || boolean(value)?;
            return Ok(());
        }
        let is_what_netd_does = match key.strip_prefix("com.docker.network.").ok_or_else(unknown)? {
            "driver.mtu" => {
                self.mtu = Some(value.parse().map_err(|_| malformed(value, "an MTU in bytes"))?);
                true
            }
            "container_iface_prefix" => {
                let wanted = "what the name of an interface can begin with";
                LinkName::new(format!("{value}1023")).ok_or_else(|| malformed(value, wanted))?;
                self.ifname_prefix = Some(value.to_owned());
                true
            }
            "enable_ipv6" => {
                self.ipv6 = boolean(value)?;
                true
            }
            "host_ipv4" | "host_ipv6" => {
                self.host_ips.push(value.to_owned());
                true
            }
            "bridge.enable_icc" => {
                self.no_icc = !boolean(value)?;
                true
            }
            "bridge.enable_ip_masquerade" => {
                self.no_masquerade = !boolean(value)?;
                true
            }
            "bridge.inhibit_ipv4" => {
                self.inhibit_ipv4 = boolean(value)?;
                true
            }
            "bridge.gateway_mode_ipv4" | "bridge.gateway_mode_ipv6" => {
                let family = if key.ends_with('4') { Family::V4 } else { Family::V6 };
                self.gateway_modes.push(ModeWish { family: Some(family), mode: value.parse()? });
                true
            }
            "enable_ipv4" => boolean(value)?,
            "bridge.default_bridge" => !boolean(value)?,
            "bridge.host_binding_ipv4" => value == "0.0.0.0",
            "bridge.name" | "bridge.trusted_host_interfaces" | "advertise_addr_nmsgs" | "advertise_addr_ms" => false,
            _ => return Err(unknown()),
        };
        if is_what_netd_does { Ok(()) } else { Err(Rejection::Unsupported(format!("{key}={value}"))) }
    }
}

fn malformed(given: &str, wanted: &'static str) -> Rejection {
    Rejection::Malformed { given: given.to_owned(), wanted }
}

/// A truth value, in the words that Docker takes.
fn boolean(text: &str) -> Result<bool, Rejection> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(malformed(text, "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Options, Rejection> {
        Options::read(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn options_that_say_what_netd_does_are_taken() {
        let options = read(&[
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.container_iface_prefix", "net"),
            ("com.docker.network.bridge.enable_icc", "False"),
            ("com.docker.network.bridge.enable_ip_masquerade", "false"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "nat-unprotected"),
            ("com.docker.network.bridge.inhibit_ipv4", "true"),
            ("com.docker.network.enable_ipv6", "1"),
            ("com.docker.network.host_ipv4", "192.0.2.1"),
            ("encrypted", ""),
        ]);

        let host_ips = vec!["192.0.2.1".to_owned()];
        let ifname_prefix = Some("net".to_owned());
        let expected = Options {
            mtu: Some(1400),
            ipv6: true,
            host_ips,
            ifname_prefix,
            gateway_modes: vec!["ipv4=nat-unprotected".parse().unwrap()],
            inhibit_ipv4: true,
            no_icc: true,
            no_masquerade: true,
            encrypted: true,
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn options_that_netd_does_not_do_or_nobody_knows_are_refused_by_name() {
        let cases = [
            ("com.docker.network.bridge.name", "br0", "bridge.name=br0 is not supported"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "bridged", "`bridged` is not a gateway mode"),
            ("com.docker.network.driver.mtu", "large", "`large` is not an MTU"),
            ("com.docker.network.container_iface_prefix", "a/b", "`a/b` is not what the name"),
            ("com.docker.network.bridge.enable_icc", "maybe", "`maybe` is not true or false"),
            ("com.docker.network.bridge.colour", "red", "no network option com.docker.network.bridge.colour"),
            ("mtu", "1400", "no network option mtu"),
        ];
        for (key, value, line) in cases {
            let rejection = read(&[(key, value)]).unwrap_err().to_string();
            assert!(rejection.contains(line), "{rejection}");
        }
    }
}
