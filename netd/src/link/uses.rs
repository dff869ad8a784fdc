//! Which addresses the host uses beside those that it routes: its own, and what its rules and its resolvers name.

use std::{collections::BTreeSet, fs, net::IpAddr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAttribute, RuleMessage},
};

use super::{Links, facts::is_link_local};
use crate::reconcile::Use;

/// Where resolvers are named: the second file has those that systemd-resolved asks, where the first names itself alone.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

impl Links {
    /// What rules of the host's routing name, as source or destination.
    pub async fn ruled(&self) -> Result<BTreeSet<(IpNet, Use)>> {
        let mut named = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RuleMessage::default();
            request.header.family = family;
            let rules = match self.dump(RouteNetlinkMessage::GetRule(request)).await {
                Ok(rules) => rules,
                // A kernel without rules has none.
                Err(error) if is_unsupported(&error) => continue,
                Err(error) => return Err(error).context("cannot list the routing rules"),
            };
            for rule in rules {
                if let RouteNetlinkMessage::NewRule(rule) = rule {
                    named.extend(prefixes(&rule).map(|net| (net, Use::Rule)));
                }
            }
        }
        Ok(named)
    }

    /// The subnets in which devices that are not ours have addresses, those of the loopback and of one link aside, with the devices.
    /// One that stands alone is a subnet of its own.
    pub async fn addressed(&self) -> Result<BTreeSet<(String, IpNet)>> {
        let links = self.seen_links().await?;
        let addresses = self.seen_addresses().await?;
        let of_host = addresses.values().flatten().filter_map(|assigned| {
            let link = links.get(&assigned.index).filter(|link| link.owner().is_none())?;
            let aside = is_link_local(&assigned.address) || assigned.address.addr().is_loopback();
            (!aside).then(|| (link.name.to_string(), assigned.address.trunc()))
        });
        Ok(of_host.collect())
    }
}

/// The resolvers that the host asks, but for its own.
pub fn resolvers() -> BTreeSet<(IpNet, Use)> {
    let texts = RESOLVERS.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| named_resolvers(&text)).map(|address| (IpNet::from(address), Use::Resolver)).collect()
}

fn is_unsupported(error: &anyhow::Error) -> bool {
    let number = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    matches!(number, Some(nix::libc::EOPNOTSUPP | nix::libc::EAFNOSUPPORT))
}

fn prefixes(rule: &RuleMessage) -> impl Iterator<Item = IpNet> {
    let net = |attribute: &RuleAttribute| match attribute {
        RuleAttribute::Source(address) => IpNet::new(*address, rule.header.src_len).ok(),
        RuleAttribute::Destination(address) => IpNet::new(*address, rule.header.dst_len).ok(),
        _ => None,
    };
    rule.attributes.iter().filter_map(net)
}

/// `nameserver` lines (resolv.conf(5)); a link-local one may name its device behind a `%`.
fn named_resolvers(text: &str) -> Vec<IpAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        address.split('%').next()?.parse::<IpAddr>().ok()
    });
    addresses.filter(|address| !address.is_loopback() && !address.is_unspecified()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_but_for_the_hosts_own() {
        let text = "# made by hand\nsearch example.org\nnameserver 10.176.0.53\nnameserver\t2001:db8::53\n\
                    nameserver fe80::1%eth0\nnameserver 127.0.0.53\nnameserver ::1\nnameserver x\nnameservers 1.2.3.4\n";

        let expected = ["10.176.0.53", "2001:db8::53", "fe80::1"].map(|address| address.parse::<IpAddr>().unwrap());
        assert_eq!(named_resolvers(text), expected);
    }

    #[test]
    fn both_ends_of_a_rule_are_named() {
        let mut rule = RuleMessage::default();
        (rule.header.src_len, rule.header.dst_len) = (24, 16);
        let (source, destination) = ("10.1.2.0".parse().unwrap(), "10.9.0.0".parse().unwrap());
        rule.attributes =
            vec![RuleAttribute::Priority(7), RuleAttribute::Source(source), RuleAttribute::Destination(destination)];

        let expected = ["10.1.2.0/24", "10.9.0.0/16"].map(|net| net.parse::<IpNet>().unwrap());
        assert_eq!(prefixes(&rule).collect::<Vec<_>>(), expected);
    }
}
