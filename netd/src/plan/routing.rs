//! Whether programs can ask for the way that the stack would find, where the host's rules pick routes by marks.
//!
//! In the stack a container's packet carries netd's own bit, and whatever netfilter has put beside it before the routing. Of that a
//! program cannot know, since it comes first.

use netd_common::tables::Routing;

use crate::{
    firewall::FirewallFacts,
    reconcile::{MarkRule, RoutingRules},
};

/// How the way out is found.
pub fn routing(rules: &RoutingRules, firewall: &FirewallFacts) -> Routing {
    if rules.by_service || rules.marks.iter().any(|rule| firewall.may_decide(rule)) {
        return Routing::ByStack;
    }
    // Most rules for marks are for other packets than those of containers, and say the same to one that has no mark at all.
    let of_ours = |rule: &MarkRule| rule.holds_for(firewall.mark) != rule.holds_for(0);
    match rules.marks.iter().any(of_ours) {
        false => Routing::Asked,
        true if rules.marks_can_be_asked_for => Routing::AskedWithMark,
        true => Routing::ByStack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::{self, MARK};

    const WG_QUICK: MarkRule = MarkRule { mark: 0xca6c, mask: u32::MAX, inverted: true };
    const ONE: MarkRule = MarkRule { mark: 1, mask: 0xff, inverted: false };
    const OURS: MarkRule = MarkRule { mark: MARK, mask: MARK, inverted: false };
    const UNMARKED: MarkRule = MarkRule { mark: 0, mask: u32::MAX, inverted: false };

    fn rules(marks: &[MarkRule]) -> RoutingRules {
        RoutingRules { marks: marks.iter().copied().collect(), by_service: false, marks_can_be_asked_for: true }
    }

    fn host(saved: &str) -> FirewallFacts {
        let ruleset = firewall::of_save(saved, firewall::Family::Ip, true);
        FirewallFacts { ruleset, mark: MARK, generation: 1, ..FirewallFacts::default() }
    }

    #[test]
    fn rules_for_marks_that_no_packet_of_a_container_has_are_as_good_as_none() {
        for rule in [ONE, WG_QUICK] {
            assert_eq!(routing(&rules(&[rule]), &host("")), Routing::Asked, "{rule:?}");
        }
    }

    #[test]
    fn a_rule_that_tells_netds_bit_is_asked_with_it_where_the_kernel_can_be_and_else_the_stack_knows() {
        for rule in [OURS, MarkRule { inverted: true, ..OURS }, UNMARKED] {
            let before = RoutingRules { marks_can_be_asked_for: false, ..rules(&[ONE, rule]) };

            assert_eq!(routing(&rules(&[ONE, rule]), &host("")), Routing::AskedWithMark, "{rule:?}");
            assert_eq!(routing(&before, &host("")), Routing::ByStack, "{rule:?}");
        }
    }

    #[test]
    fn where_netfilter_sets_a_mark_that_a_rule_asks_for_the_stack_alone_knows() {
        let before = |rule: &str| host(&format!("*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {rule}\nCOMMIT\n"));
        let cases = [
            ("-j MARK --set-xmark 0x1/0xffffffff", ONE, Routing::ByStack),
            ("-j MARK --set-xmark 0x1/0xffffffff", WG_QUICK, Routing::ByStack),
            ("-j MARK --set-xmark 0x100/0x100", ONE, Routing::Asked),
            ("-j MARK --set-xmark 0x100/0x100", OURS, Routing::AskedWithMark),
            ("-j MARK --set-xmark 0x0/0x8000000", OURS, Routing::ByStack),
            // What wg-quick has for its own packets: a connection's mark is none that a container's packet was given before.
            ("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", WG_QUICK, Routing::Asked),
            ("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", ONE, Routing::ByStack),
            ("-p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1", ONE, Routing::ByStack),
        ];
        for (rule, wanted, found) in cases {
            assert_eq!(routing(&rules(&[wanted]), &before(rule)), found, "{rule} and {wanted:?}");
        }
        let unread = FirewallFacts { unread: Some("no nft".to_owned()), ..host("") };
        assert_eq!(routing(&rules(&[ONE]), &unread), Routing::ByStack);
        assert_eq!(routing(&rules(&[]), &unread), Routing::Asked);
    }

    #[test]
    fn a_mark_that_is_set_after_the_routing_decides_nothing() {
        let after = host("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n");

        assert_eq!(routing(&rules(&[ONE]), &after), Routing::Asked);
    }

    #[test]
    fn by_a_type_of_service_the_stack_alone_finds_a_way() {
        let by_service = RoutingRules { by_service: true, ..rules(&[]) };

        assert_eq!(routing(&by_service, &host("")), Routing::ByStack);
    }
}
