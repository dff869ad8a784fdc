//! What the functions of a profile are parts of: a packet's way through the kernel, told in a dozen words. Nothing here performs IO.

/// A part of what the processors do for a packet, a round trip, a connection or a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// Programs loaded into the kernel: netd's, those of `redirect` and `tracking`, and what else the machine has.
    Programs,
    /// Their maps: hashing, looking up, making and freeing of entries.
    Maps,
    /// What else they call: checksums, routes, making a packet writable.
    Helpers,
    /// What a program at a qdisc costs besides.
    Classifier,
    /// The kernel's redirect.
    Redirect,
    /// Routes and neighbours.
    Routes,
    /// Devices: sending by one, receiving by one, bridges, tunnels.
    Devices,
    /// Netfilter: its hooks, iptables and nftables, nf_conntrack.
    Netfilter,
    /// TCP, UDP, IP and sockets.
    Protocols,
    /// Memory of packets, sockets and files.
    Memory,
    /// Locks, RCU, and where interrupts come in again.
    Locks,
    /// Everything else: the scheduler, system calls, files, the two ends themselves.
    Rest,
}

/// Functions of a part by how their names begin. The first part that fits has a function.
const BEGINNINGS: [(Part, &[&str]); 11] = [
    (Part::Programs, &["bpf_prog_", "bpf_dispatcher_", "__bpf_prog_"]),
    (
        Part::Maps,
        &[
            "htab_",
            "__htab_",
            "lookup_nulls_elem",
            "lookup_elem_raw",
            "alloc_htab_elem",
            "free_htab_elem",
            "trie_",
            "array_map_",
            "percpu_array_",
            "queue_stack_map_",
            "bpf_lru_",
            "__bpf_lru_",
            "bpf_common_lru_",
            "bpf_percpu_lru_",
            "bpf_mem_",
            "unit_alloc",
            "unit_free",
            "bpf_map_",
            "bpf_obj_free",
            "memcmp",
        ],
    ),
    (Part::Redirect, &["skb_do_redirect", "bpf_redirect", "__bpf_redirect", "dev_get_by_index", "veth_peer_dev"]),
    (Part::Helpers, &["bpf_", "__bpf_", "inet_proto_csum_", "skb_ensure_writable", "__cgroup_bpf_"]),
    (Part::Classifier, &["tc_run", "tcf_classify", "__tcf_classify", "cls_bpf_", "tcx_run"]),
    (
        Part::Routes,
        &[
            "fib_",
            "ip_route_",
            "__mkroute_",
            "rt_",
            "ipv4_dst_",
            "ipv4_mtu",
            "find_exception",
            "inet_lookup_ifaddr",
            "__ip_dev_find",
            "inet_addr_type",
            "ip_rcv_finish_core",
            "neigh_",
            "__neigh_",
            "__ipv4_neigh",
            "dst_",
            "l3mdev_",
        ],
    ),
    (
        Part::Devices,
        &[
            "__dev_",
            "dev_",
            "____dev_",
            "veth_",
            "netif_",
            "__netif_",
            "enqueue_to_backlog",
            "process_backlog",
            "__process_backlog",
            "net_rx_action",
            "net_tx_action",
            "__napi_",
            "napi_complete",
            "napi_schedule",
            "eth_",
            "validate_xmit_",
            "skb_network_protocol",
            "skb_csum_hwoffload_help",
            "is_skb_forwardable",
            "netdev_",
            "passthru_features",
            "br_",
            "ip_sabotage_in",
            "vxlan_",
            "udp_tunnel",
            "iptunnel_",
            "skb_tunnel_",
            "gro_",
            "dev_gro_",
            "skb_scrub_packet",
            "sch_",
            "qdisc_",
        ],
    ),
    (
        Part::Netfilter,
        &["nf_", "__nf_", "nft_", "ipt_", "iptable_", "xt_", "ipv4_conntrack_", "hash_conntrack_", "ipv4_confirm"],
    ),
    (
        Part::Memory,
        &[
            "kmem_cache_",
            "__kmem_cache_",
            "kfree",
            "__kfree",
            "kmalloc",
            "__kmalloc",
            "___slab_",
            "__slab_",
            "slab_",
            "__memcg_",
            "memcg_",
            "obj_cgroup_",
            "__alloc_skb",
            "alloc_skb_",
            "skb_release_",
            "skb_free_",
            "skb_defer_free",
            "consume_skb",
            "napi_consume_skb",
            "napi_skb_cache",
            "build_detached_freelist",
            "___cache_free",
            "page_frag_",
            "skb_page_frag",
            "__free_",
            "free_",
            "refill_",
            "try_charge",
        ],
    ),
    (
        Part::Locks,
        &[
            "_raw_spin_",
            "raw_spin_",
            "__raw_",
            "__rcu_",
            "rcu_",
            "__call_rcu",
            "__local_bh_",
            "do_softirq",
            "handle_softirqs",
            "native_queued_spin",
            "mutex_",
            "queued_",
        ],
    ),
    (
        Part::Protocols,
        &[
            "tcp_",
            "__tcp_",
            "udp_",
            "__udp",
            "udp4_",
            "ip_",
            "__ip_",
            "inet_",
            "__inet_",
            "sk_",
            "__sk_",
            "sock_",
            "__sock_",
            "skb_",
            "__skb_",
            "raw_",
            "release_sock",
            "__release_sock",
            "lock_sock",
            "csum_",
            "_copy_",
            "copy_",
            "simple_copy_",
            "bbr_",
            "cubictcp_",
            "xfrm_",
            "__xfrm_",
        ],
    ),
];

impl Part {
    /// All, in the order of a table.
    pub const ALL: [Self; 12] = [
        Self::Programs,
        Self::Maps,
        Self::Helpers,
        Self::Classifier,
        Self::Redirect,
        Self::Routes,
        Self::Devices,
        Self::Netfilter,
        Self::Protocols,
        Self::Memory,
        Self::Locks,
        Self::Rest,
    ];

    /// The one that a function is of.
    pub fn of(function: &str) -> Self {
        let fits = |beginnings: &[&str]| beginnings.iter().any(|beginning| function.starts_with(beginning));
        BEGINNINGS.iter().find(|(_, beginnings)| fits(beginnings)).map_or(Self::Rest, |(part, _)| *part)
    }

    /// What tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Programs => "programs in the kernel",
            Self::Maps => "their maps",
            Self::Helpers => "what else they call",
            Self::Classifier => "a qdisc's classifier",
            Self::Redirect => "the kernel's redirect",
            Self::Routes => "routes and neighbours",
            Self::Devices => "devices",
            Self::Netfilter => "netfilter",
            Self::Protocols => "protocols and sockets",
            Self::Memory => "memory",
            Self::Locks => "locks, RCU, interrupts",
            Self::Rest => "the rest",
        }
    }
}

/// Whether a sample of a task in a function is not of what is profiled: perf's own, or that of a processor that does nothing, which is in
/// the idle task (`swapper`).
pub fn is_beside(task: &str, function: &str) -> bool {
    let is_idle = || ["halt", "idle", "mwait", "cstate"].iter().any(|word| function.contains(word));
    task == "perf" || (task == "swapper" && is_idle())
}

/// A function's name as a reader knows it: of a program's the one that its source has.
pub fn shown(function: &str) -> String {
    let Some(program) = function.strip_prefix("bpf_prog_") else { return function.to_owned() };
    let named = program.split_once('_').map_or(program, |(_tag, name)| name);
    // What follows are the types of a generic one.
    named.split_once("_3C_").map_or(named, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_of_the_first_part_that_its_name_fits() {
        for (function, part) in [
            ("bpf_prog_6aa4e37255eb9972_from_uplink", Part::Programs),
            ("lookup_nulls_elem_raw", Part::Maps),
            ("bpf_lru_pop_free", Part::Maps),
            ("bpf_redirect_peer", Part::Redirect),
            ("bpf_l4_csum_replace", Part::Helpers),
            ("__tcf_classify.constprop.0", Part::Classifier),
            ("fib_table_lookup", Part::Routes),
            ("__netif_receive_skb_core.constprop.0", Part::Devices),
            ("skb_defer_free_flush", Part::Memory),
            ("udp_sendmsg", Part::Protocols),
            ("_raw_spin_unlock_irqrestore", Part::Locks),
            ("finish_task_switch.isra.0", Part::Rest),
        ] {
            assert_eq!(Part::of(function), part, "{function}");
        }
    }

    #[test]
    fn every_part_has_a_row_and_functions_that_are_its_own() {
        for (part, beginnings) in BEGINNINGS {
            assert!(Part::ALL.contains(&part), "{part:?}");
            for beginning in beginnings {
                assert_eq!(Part::of(beginning), part, "{beginning}");
            }
        }
    }

    #[test]
    fn a_program_is_shown_by_the_name_of_its_source() {
        for (function, name) in [
            ("bpf_prog_6aa4e37255eb9972_from_uplink", "from_uplink"),
            ("bpf_prog_f323c61c9d7cf869_rewrite_3C_netd_ebpf_3A__3A_skb_3A__3A_Skb_3C_false_3E__3E_", "rewrite"),
            ("bpf_redirect_peer", "bpf_redirect_peer"),
        ] {
            assert_eq!(shown(function), name);
        }
    }

    #[test]
    fn a_processor_that_handles_packets_while_no_task_runs_is_not_idle() {
        assert!(is_beside("swapper", "pv_native_safe_halt") && is_beside("perf", "perf_poll"));
        assert!(!is_beside("swapper", "process_backlog"));
        assert!(!is_beside("xtask", "cpuidle_select"));
    }
}
