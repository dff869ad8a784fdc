//! `resolv.conf` (resolv.conf(5)): what the host's says, and what a container's says for it.

use std::{
    fmt::{self, Write},
    net::IpAddr,
};

use netd_common::dns::RESOLVER;

/// Servers of which glibc takes notice (`MAXNS`).
const MOST_SERVERS: usize = 3;

/// A server to ask.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Server {
    /// Its address.
    pub address: IpAddr,
    /// The device that a link-local address is on.
    pub zone: Option<String>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}%{zone}", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl From<IpAddr> for Server {
    fn from(address: IpAddr) -> Self {
        Self { address, zone: None }
    }
}

/// What a `resolv.conf` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResolvConf {
    /// In the order in which they are to be asked.
    pub servers: Vec<Server>,
    /// Domains that names are looked for in.
    pub search: Vec<String>,
    /// Everything else that changes how the C library asks.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads one; what is not understood is passed over, as the C library does.
    pub fn read(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf.servers.truncate(MOST_SERVERS);
        conf
    }

    /// The one for a container on a host that has this one: the same domains and options, and the resolver as the only server. Names
    /// are asked for as they are first, because a container's name has no dot.
    pub fn of_container(&self) -> String {
        let [a, b, c, d] = RESOLVER;
        let mut text = format!(
            "# Written by netd: the names of this container's networks, and what the host resolves.\nnameserver {a}.{b}.{c}.{d}\n"
        );
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        let kept = self.options.iter().filter(|option| !option.starts_with("ndots:")).map(String::as_str);
        let options: Vec<&str> = kept.chain(["ndots:0"]).collect();
        let _ = writeln!(text, "options {}", options.join(" "));
        text
    }
}

fn server(text: &str) -> Option<Server> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone.to_owned())),
        None => (text, None),
    };
    Some(Server { address: address.parse().ok()?, zone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_file_are_understood_as_the_c_library_does() {
        let conf = ResolvConf::read(
            "# made by hand\nnameserver 192.0.2.53 # first\nnameserver fe80::1%eth0\nnameserver nonsense\ndomain old.example\n\
             search corp.example lab.example\noptions edns0 ndots:5\n; nameserver 192.0.2.54\noptions rotate\nsortlist 1.2.3.4\n",
        );

        let server = |address: &str, zone: Option<&str>| Server {
            address: address.parse().unwrap(),
            zone: zone.map(str::to_owned),
        };
        assert_eq!(conf.servers, [server("192.0.2.53", None), server("fe80::1", Some("eth0"))]);
        assert_eq!(conf.search, ["corp.example", "lab.example"]);
        assert_eq!(conf.options, ["edns0", "ndots:5", "rotate"]);
    }

    #[test]
    fn a_container_asks_the_resolver_alone_and_searches_where_the_host_does() {
        let conf =
            ResolvConf::read("nameserver 192.0.2.53\nsearch corp.example\noptions edns0 ndots:5\n").of_container();

        let lines: Vec<_> = conf.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["nameserver 127.0.0.11", "search corp.example", "options edns0 ndots:0"]);
        assert_eq!(ResolvConf::read(&conf).servers[0].address.to_string(), "127.0.0.11");
    }
}
