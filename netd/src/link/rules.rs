//! The host's routing policy: what its rules ask that not every packet of one tuple answers alike.

use anyhow::{Context, Result};
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAttribute, RuleFlags, RuleMessage},
};

use super::Links;
use crate::reconcile::{MarkRule, RoutingRules};

/// `FRA_DSCP` and `FRA_FLOWLABEL` of linux/fib_rules.h, which the crate does not name.
const BY_SERVICE: [u16; 2] = [25, 26];

impl Links {
    /// What the rules of both families pick packets by, beside addresses, devices, protocols and ports.
    pub async fn routing_rules(&self) -> Result<RoutingRules> {
        let mut all = RoutingRules::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut wanted = RuleMessage::default();
            wanted.header.family = family;
            let rules =
                self.dump(RouteNetlinkMessage::GetRule(wanted)).await.context("cannot list the routing rules")?;
            for message in &rules {
                if let RouteNetlinkMessage::NewRule(rule) = message {
                    all.by_service |= is_by_service(rule);
                    all.marks.extend(mark_of(rule));
                }
            }
        }
        Ok(all)
    }
}

/// Whether it is made for a type of service or a flow label.
fn is_by_service(rule: &RuleMessage) -> bool {
    use rtnetlink::packet_core::Nla;

    let by = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::Other(other) if BY_SERVICE.contains(&other.kind()));
    rule.header.tos != 0 || rule.attributes.iter().any(by)
}

/// What it asks of a packet's mark, if it does. A mark without a mask is meant as a whole (`fib_nl2rule` in
/// net/core/fib_rules.c), and one of zero is not told.
fn mark_of(rule: &RuleMessage) -> Option<MarkRule> {
    let told = |of: fn(&RuleAttribute) -> Option<u32>| rule.attributes.iter().find_map(of);
    let mark = told(|attribute| if let RuleAttribute::FwMark(mark) = attribute { Some(*mark) } else { None });
    let mask = told(|attribute| if let RuleAttribute::FwMask(mask) = attribute { Some(*mask) } else { None });
    let mask = mask.or(mark.map(|_| u32::MAX))?;
    Some(MarkRule { mark: mark.unwrap_or_default(), mask, inverted: rule.header.flags.contains(RuleFlags::Invert) })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::DefaultNla;

    use super::*;

    fn rule(attributes: &[RuleAttribute], flags: RuleFlags, tos: u8) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.attributes = attributes.to_vec();
        rule.header.flags = flags;
        rule.header.tos = tos;
        rule
    }

    #[test]
    fn what_a_rule_asks_of_a_mark_is_read_as_the_kernel_tells_it() {
        let of = |attributes: &[RuleAttribute], flags| mark_of(&rule(attributes, flags, 0));
        let (mark, mask) = (RuleAttribute::FwMark(0x1), RuleAttribute::FwMask(0xff));

        assert_eq!(
            of(&[mark.clone(), mask.clone()], RuleFlags::empty()),
            Some(MarkRule { mark: 1, mask: 0xff, inverted: false })
        );
        assert_eq!(of(&[mark], RuleFlags::Invert), Some(MarkRule { mark: 1, mask: u32::MAX, inverted: true }));
        assert_eq!(of(&[mask], RuleFlags::empty()), Some(MarkRule { mark: 0, mask: 0xff, inverted: false }));
        assert_eq!(of(&[RuleAttribute::Source("10.0.0.1".parse().unwrap())], RuleFlags::empty()), None);
    }

    #[test]
    fn a_rule_for_a_type_of_service_is_told_from_others_in_each_of_its_forms() {
        let other = |kind| RuleAttribute::Other(DefaultNla::new(kind, vec![0x10]));

        assert!(is_by_service(&rule(&[], RuleFlags::empty(), 0x10)));
        assert!(is_by_service(&rule(&[other(25)], RuleFlags::empty(), 0)));
        assert!(!is_by_service(&rule(&[other(28)], RuleFlags::empty(), 0)));
        assert!(!is_by_service(&rule(&[RuleAttribute::FwMark(1)], RuleFlags::empty(), 0)));
    }
}
