//! `[[HOSTIP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp|sctp][,from=CIDR[,CIDR]…]`: a port that a container publishes, as people write it.
//!
//! Everything of the grammar is parsed; what this version cannot do is refused by name when it is used.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use netd_common::tuple;
use serde::{Deserialize, Serialize};

use super::{Rejection, sources::range as read_source};

/// A transport protocol with ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => tuple::TCP,
            Self::Udp => tuple::UDP,
            Self::Sctp => tuple::SCTP,
        }
    }

    /// The protocol with this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// On which hosts a port is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On the container's own.
    #[default]
    Host,
    /// On every host of the cluster.
    Mesh,
}

/// A wish to publish ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    /// As it was written.
    pub text: String,
    /// An address of the host; `None` for all.
    pub host_ip: Option<IpAddr>,
    /// The first port on the host; `None` for free ones.
    pub host_port: Option<u16>,
    /// Of which ports of the host a free one is wanted, first and last; `None` for any.
    pub among: Option<(u16, u16)>,
    /// The first port in the container.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// Of both.
    pub protocol: Protocol,
    /// Who may come; anyone where it is empty.
    pub from: Vec<IpNet>,
}

impl PortSpec {
    /// Refuses what this version cannot do.
    pub fn supported(&self) -> Result<(), Rejection> {
        match self.host_ip {
            Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
                Err(Rejection::Unsupported(format!("a link-local address of the host in `{}`", self.text)))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for PortSpec {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        parse(text).map_err(|why| Rejection::BadPortSpec { spec: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<PortSpec, String> {
    let mut parts = text.split(',');
    let ports = parts.next().unwrap_or_default();
    let from = sources(parts)?;
    let (ports, protocol) = ports.split_once('/').unwrap_or((ports, "tcp"));
    let protocol = Protocol::named(protocol).ok_or_else(|| format!("`{protocol}` is none of tcp, udp, sctp"))?;
    let (host_ip, host, container) = sides(ports)?;
    let (port, count) = range(container)?;
    let (host_port, among) = match host {
        "" => (None, None),
        host => {
            let (first, host_count) = range(host)?;
            match (host_count, count) {
                (same, _) if same == count => (Some(first), None),
                (several, 1) if protocol != Protocol::Sctp => (None, Some((first, first + (several - 1)))),
                _ => return Err(format!("{host_count} ports of the host for {count} of the container")),
            }
        }
    };
    let host_port = match (protocol, host_port) {
        (Protocol::Sctp, Some(host_port)) if host_port != port => {
            return Err(format!("SCTP keeps its port, so it is {port} on the host too"));
        }
        (Protocol::Sctp, _) => Some(port),
        _ => host_port,
    };
    Ok(PortSpec { text: text.to_owned(), host_ip, host_port, among, port, count, protocol, from })
}

/// Host address, host ports (empty for free ones) and container ports.
fn sides(ports: &str) -> Result<(Option<IpAddr>, &str, &str), String> {
    if let Some(rest) = ports.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or("`[` without `]`")?;
        let ip = ip.parse().map(IpAddr::V6).map_err(|_| format!("`{ip}` is not an IPv6 address"))?;
        let rest = rest.strip_prefix(':').ok_or("a `:` must follow `]`")?;
        let (host, container) = rest.split_once(':').unwrap_or(("", rest));
        return Ok((Some(ip), host, container));
    }
    let parts: Vec<&str> = ports.split(':').collect();
    match parts[..] {
        [container] => Ok((None, "", container)),
        [host, container] => Ok((None, host, container)),
        [ip, host, container] => {
            let ip = ip.parse().map(IpAddr::V4).map_err(|_| format!("`{ip}` is not an IPv4 address"))?;
            Ok((Some(ip), host, container))
        }
        _ => Err("an IPv6 address of the host stands in brackets".to_owned()),
    }
}

/// First port and how many.
fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if last < first { Err(format!("{text} ends before it begins")) } else { Ok((first, last - first + 1)) }
}

fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port @ 1..) if digits => Ok(port),
        _ => Err(format!("`{text}` is not a port (1 to 65535)")),
    }
}

/// The ranges after `from=`, in order and each once: one list has one form.
fn sources<'a>(options: impl Iterator<Item = &'a str>) -> Result<Vec<IpNet>, String> {
    let mut from = BTreeSet::new();
    for (n, option) in options.enumerate() {
        let range = option.strip_prefix("from=");
        let range = range.or(Some(option).filter(|_| n > 0));
        let range = range.ok_or_else(|| format!("`{option}` is not from=CIDR"))?;
        from.insert(source(range)?);
    }
    Ok(from.into_iter().collect())
}

fn source(range: &str) -> Result<IpNet, String> {
    read_source(range).map_err(|why| match why {
        Some(right) => format!("from={range} has host bits set: it should be {right}"),
        None => format!("`{range}` is not a range of addresses"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_grammar_is_read() {
        let cases = [
            ("80", None, None, 80, 1, Protocol::Tcp),
            ("8080:80", None, Some(8080), 80, 1, Protocol::Tcp),
            (":80", None, None, 80, 1, Protocol::Tcp),
            ("192.0.2.1:8080:80/udp", Some("192.0.2.1"), Some(8080), 80, 1, Protocol::Udp),
            ("192.0.2.1::80", Some("192.0.2.1"), None, 80, 1, Protocol::Tcp),
            ("8000-8009:9000-9009", None, Some(8000), 9000, 10, Protocol::Tcp),
            ("[2001:db8::1]:8080:80", Some("2001:db8::1"), Some(8080), 80, 1, Protocol::Tcp),
            ("[::]::80", Some("::"), None, 80, 1, Protocol::Tcp),
            ("[::1]:80", Some("::1"), None, 80, 1, Protocol::Tcp),
            ("132:132/sctp", None, Some(132), 132, 1, Protocol::Sctp),
            ("132/sctp", None, Some(132), 132, 1, Protocol::Sctp),
            ("1-65535:1-65535", None, Some(1), 1, 65535, Protocol::Tcp),
        ];

        for (text, host_ip, host_port, port, count, protocol) in cases {
            let spec: PortSpec = text.parse().unwrap();
            let host_ip = host_ip.map(|ip| ip.parse().unwrap());
            assert_eq!(
                (spec.host_ip, spec.host_port, spec.port, spec.count, spec.protocol),
                (host_ip, host_port, port, count, protocol),
                "{text}"
            );
        }
    }

    #[test]
    fn one_of_several_ports_of_the_host_is_wanted_for_one_of_the_container() {
        let spec: PortSpec = "127.0.0.1:8000-8010:80/udp".parse().unwrap();

        assert_eq!((spec.host_port, spec.among, spec.port, spec.count), (None, Some((8000, 8010)), 80, 1));
        assert_eq!("8000-8010:80-90".parse::<PortSpec>().unwrap().among, None);
    }

    #[test]
    fn sources_are_read() {
        let spec: PortSpec = "8080:80/tcp,from=192.0.2.0/24,from=198.51.100.7".parse().unwrap();

        assert_eq!(spec.from, ["192.0.2.0/24".parse().unwrap(), "198.51.100.7/32".parse().unwrap()]);
        for same in ["80,from=198.51.100.7,192.0.2.0/24", "80,from=192.0.2.0/24,from=198.51.100.7/32,192.0.2.0/24"] {
            assert_eq!(same.parse::<PortSpec>().unwrap().from, spec.from, "{same}");
        }
        let of_both: PortSpec = "80,from=2001:db8::/32,10.0.0.0/8".parse().unwrap();
        assert_eq!(of_both.from, ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    }

    #[test]
    fn what_is_no_specification_is_refused_with_the_part_that_is_wrong() {
        let cases = [
            ("", "`` is not a port (1 to 65535)"),
            ("0", "`0` is not a port (1 to 65535)"),
            ("+80", "`+80` is not a port (1 to 65535)"),
            ("65536", "`65536` is not a port (1 to 65535)"),
            ("80-70", "80-70 ends before it begins"),
            ("8000-8002:80-81", "3 ports of the host for 2 of the container"),
            ("80-81:80/sctp", "2 ports of the host for 1 of the container"),
            ("80/icmp", "`icmp` is none of tcp, udp, sctp"),
            ("80:132/sctp", "SCTP keeps its port, so it is 132 on the host too"),
            ("1.2.3:80:80", "`1.2.3` is not an IPv4 address"),
            ("::1:80:80", "an IPv6 address of the host stands in brackets"),
            ("[::1:80:80", "`[` without `]`"),
            ("[::1]80", "a `:` must follow `]`"),
            ("80,to=x", "`to=x` is not from=CIDR"),
            ("80,192.0.2.0/24", "`192.0.2.0/24` is not from=CIDR"),
            ("80,from=192.0.2.0/24,to=x", "`to=x` is not a range of addresses"),
            ("80,from=", "`` is not a range of addresses"),
            ("80,from=192.0.2.1/24", "from=192.0.2.1/24 has host bits set: it should be 192.0.2.0/24"),
        ];

        for (text, why) in cases {
            let rejection = text.parse::<PortSpec>().unwrap_err().to_string();
            assert_eq!(rejection, format!("`{text}` does not say which port to publish: {why}"));
        }
    }
}
