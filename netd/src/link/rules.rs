//! The host's routing policy: whether a route may depend on what a program cannot tell.

use anyhow::{Context, Result};
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAttribute, RuleFlags, RuleMessage},
};

use super::Links;

impl Links {
    /// Whether a rule of either family picks packets by a mark, or by the type of service. Netfilter sets marks after our hooks
    /// have seen a packet, so that no question of theirs could give the answer that the stack gives. A rule for all but a mark (`not
    /// fwmark`, as VPNs keep their own packets out with) holds for packets without one, which is what programs ask for.
    pub async fn routes_by_marks(&self) -> Result<bool> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut wanted = RuleMessage::default();
            wanted.header.family = family;
            let rules =
                self.dump(RouteNetlinkMessage::GetRule(wanted)).await.context("cannot list the routing rules")?;
            let by_mark = |message: &RouteNetlinkMessage| match message {
                RouteNetlinkMessage::NewRule(rule) => picks_by_mark(rule),
                _ => false,
            };
            if rules.iter().any(by_mark) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a packet without a mark and with an ordinary type of service is not the only one that this rule is made for.
fn picks_by_mark(rule: &RuleMessage) -> bool {
    let marked = rule.attributes.iter().any(|attribute| matches!(attribute, RuleAttribute::FwMark(_)));
    rule.header.tos != 0 || marked && !rule.header.flags.contains(RuleFlags::Invert)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_a_mark_or_a_type_of_service_counts_and_one_for_all_but_a_mark_does_not() {
        let rule = |attributes: &[RuleAttribute], flags, tos| {
            let mut rule = RuleMessage::default();
            rule.attributes = attributes.to_vec();
            rule.header.flags = flags;
            rule.header.tos = tos;
            rule
        };
        let mark = [RuleAttribute::FwMark(0xca6c)];
        let source = [RuleAttribute::Source("10.0.0.1".parse().unwrap())];

        assert!(picks_by_mark(&rule(&mark, RuleFlags::empty(), 0)));
        assert!(picks_by_mark(&rule(&source, RuleFlags::empty(), 0x10)));
        assert!(!picks_by_mark(&rule(&mark, RuleFlags::Invert, 0)));
        assert!(!picks_by_mark(&rule(&source, RuleFlags::empty(), 0)));
    }
}
