//! `NET[:ip=IP,ip6=IP,mac=MAC,ifname=IF,alias=NAME,gw-priority=N]`, or `name=NET,ip=IP,…`: which network an endpoint joins, and
//! how.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use netd_common::tuple::Mac;

use super::{Name, Rejection, mac::parse_mac};
use crate::reconcile::{Family, LinkName};

/// A wish to join a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetSpec {
    /// Which network.
    pub network: Name,
    /// The IPv4 address to have; `None` for a free one.
    pub ip: Option<Ipv4Addr>,
    /// The IPv6 address to have; `None` for a free one.
    pub ip6: Option<Ipv6Addr>,
    /// The link-layer address to have; `None` for a random one.
    pub mac: Option<Mac>,
    /// The interface's name in the container; `None` for the next free `ethN`.
    pub ifname: Option<LinkName>,
    /// More names for the container there.
    pub aliases: Vec<Name>,
    /// As [`Attachment::gw_priority`](super::Attachment::gw_priority).
    pub gw_priority: Option<i32>,
}

impl NetSpec {
    /// Any address of this network.
    pub fn anywhere_in(network: Name) -> Self {
        Self { network, ip: None, ip6: None, mac: None, ifname: None, aliases: Vec::new(), gw_priority: None }
    }

    /// The address of this family to have.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ip.map(IpAddr::V4),
            Family::V6 => self.ip6.map(IpAddr::V6),
        }
    }

    fn set(&mut self, whole: &str, pair: &str) -> Result<(), Rejection> {
        let bad = |why: String| Rejection::BadNetSpec { spec: whole.to_owned(), why };
        let Some((key, value)) = pair.split_once('=') else {
            return Err(bad(format!("`{pair}` is not KEY=VALUE")));
        };
        let twice = match key {
            "ip" => {
                let ip = value.parse().map_err(|_| bad(format!("ip={value} is not an IPv4 address")))?;
                self.ip.replace(ip).is_some()
            }
            "ip6" => {
                let ip = value.parse().map_err(|_| bad(format!("ip6={value} is not an IPv6 address")))?;
                self.ip6.replace(ip).is_some()
            }
            "mac" | "mac-address" => {
                let mac = parse_mac(value).ok_or_else(|| bad(format!("mac={value} is not a link-layer address")))?;
                if mac.is_group() || mac == Mac::default() {
                    return Err(bad(format!("mac={value} is not the address of one station")));
                }
                self.mac.replace(mac).is_some()
            }
            "ifname" => {
                let name = LinkName::new(value)
                    .filter(|name| name.as_str() != "lo")
                    .ok_or_else(|| bad(format!("ifname={value} is not a name that an interface can have")))?;
                self.ifname.replace(name).is_some()
            }
            "alias" => {
                self.aliases.push(value.parse()?);
                false
            }
            "gw-priority" => {
                let bad = |_| bad(format!("gw-priority={value} is not a whole number"));
                self.gw_priority.replace(value.parse().map_err(bad)?).is_some()
            }
            _ => return Err(bad(format!("`{key}` is none of ip, ip6, mac, ifname, alias, gw-priority"))),
        };
        if twice { Err(bad(format!("`{key}` is there twice"))) } else { Ok(()) }
    }
}

impl FromStr for NetSpec {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let (network, rest) = match text.strip_prefix("name=") {
            Some(rest) => rest.split_once(',').unwrap_or((rest, "")),
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let mut spec = Self::anywhere_in(network.parse()?);
        for pair in rest.split(',').filter(|pair| !pair.is_empty()) {
            spec.set(text, pair)?;
        }
        Ok(spec)
    }
}
