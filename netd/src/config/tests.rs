//! Every documented key is known, what is not understood is refused with its line, and what is configured holds.

use super::*;

/// The file that documents every key, all of them commented out.
const DOCUMENTED: &str = include_str!("../../../netd.toml");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("netd.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn the_documented_file_says_what_holds_without_one_and_knows_every_key() {
    assert_eq!(parse(DOCUMENTED), Ok(Config::default()));
    let uncommented: String = DOCUMENTED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();

    let Config { daemon, pools, bridge, publish, cluster } = parse(&uncommented).unwrap();

    let DaemonConfig { state_dir, run_dir, bpf_dir, cgroup, uplinks, flows_max, firewall, mark, .. } = daemon.clone();
    assert_eq!((daemon.xdp, daemon.tunnel_offload), (Some(XdpWish::Auto), Some(true)));
    assert_eq!(daemon.endpoint_attach, Some(EndpointAttach::Clsact));
    assert!(
        flows_max.is_some() && [state_dir, run_dir, bpf_dir, cgroup].iter().all(Option::is_some) && !uplinks.is_empty()
    );
    assert!(firewall.is_some() && mark.is_some());
    let PoolsConfig { ipv4, ipv6 } = pools;
    assert!(!ipv4.is_empty() && !ipv6.is_empty());
    let BridgeConfig { subnet, gateway, ip_range, mtu, ipv6 } = bridge;
    assert!(!subnet.is_empty() && !gateway.is_empty() && !ip_range.is_empty() && mtu.is_some() && ipv6);
    let PublishConfig { address, from } = publish;
    assert!(!address.is_empty() && !from.is_empty());
    let ClusterConfig { node, vtep, vxlan_port, encrypted_port, rekey, etcd, lease, .. } = cluster.clone();
    assert!(encrypted_port.is_some() && rekey.is_some());
    assert!(node.is_some() && vtep.is_some() && vxlan_port.is_some() && !etcd.is_empty() && lease.is_some());
    let ClusterConfig { etcd_ca, etcd_cert, etcd_key, etcd_user, etcd_password_file, .. } = cluster;
    assert!([etcd_ca, etcd_cert, etcd_key, etcd_password_file].iter().all(Option::is_some) && etcd_user.is_some());
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    let cases = [
        ("[bridge]\nmtu = 1400\nsubnets = \"10.0.0.0/24\"\n", "netd.toml, line 3: unknown field `subnets`"),
        ("\n[bridges]\n", "netd.toml, line 2: unknown field `bridges`"),
        ("[bridge]\nsubnet = \"10.0.0.0\"\n", "netd.toml, line 2: "),
        ("[bridge]\nsubnet = [\"10.0.0.0/24\", 7]\n", "netd.toml, line 2: "),
        ("[bridge]\nmtu = \"1400\"\n", "netd.toml, line 2: invalid type: string"),
        ("[daemon]\nmark = 3\n", "netd.toml, line 2: 0x3 is not one bit"),
        ("[daemon]\nfirewall = \"on\"\n", "netd.toml, line 2: unknown variant `on`"),
        ("[daemon]\nuplinks = [\"a/b\"]\n", "netd.toml, line 2: `a/b` is not the name of a network device"),
        ("[daemon]\nflows-max = 100\n", "netd.toml, line 2: a flow table of 100 entries; it may have 1024 to 16777216"),
        ("[pools]\nipv4 = [{ base = \"fd00::/48\", size = 64 }]\n", "netd.toml: pool fd00::/48 is not of IPv4"),
        ("[pools]\nipv4 = [{ base = \"10.0.0.1/8\", size = 24 }]\n", "it should be 10.0.0.0/8"),
        ("[pools]\nipv4 = [{ base = \"10.0.0.0/24\", size = 16 }]\n", "no subnets of size 16: it is 24 to 31"),
        ("[pools]\nipv4 = [{ base = \"10.0.0.0/24\" }]\n", "netd.toml, line 2: missing field `size`"),
        (
            "[publish]\nfrom = \"10.0.0.1/8\"\n",
            "netd.toml: [publish] from 10.0.0.1/8 has host bits set: it should be 10.0.0.0/8",
        ),
        ("[publish]\naddress = [\"::1\", \"::\"]\n", "netd.toml: [publish] address has two of IPv6"),
        ("[bridge\n", "netd.toml, line 1: "),
    ];
    for (text, expected) in cases {
        let refusal = parse(text).unwrap_err();
        assert!(refusal.contains(expected) && !refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn configured_pools_take_the_place_of_the_automatic_ones_of_their_family() {
    let automatic = Pools::automatic("fd12:3456:789a::/48".parse().unwrap());
    let config = parse("[pools]\nipv4 = [{ base = \"172.30.0.0/16\", size = 26 }]\n").unwrap();

    let pools = config.pools(automatic.clone());

    assert_eq!(pools.ipv4, [SubnetPool { base: "172.30.0.0/16".parse().unwrap(), size: 26 }]);
    assert_eq!(pools.ipv6, automatic.ipv6);
}

#[test]
fn the_default_network_has_what_is_configured() {
    let text = "[bridge]\nsubnet = [\"10.9.0.0/24\", \"fd00:9::/64\"]\ngateway = \"10.9.0.254\"\nmtu = 1400\n";
    let order = parse(text).unwrap().default_network();

    assert_eq!((order.name.as_str(), order.subnets.len(), order.mtu), ("bridge", 2, Some(1400)));
    assert_eq!(order.gateways, ["10.9.0.254"]);
}
