//! `netd.toml`: what the daemon's command line does not say, and what a host's operator decides for all networks. A key that
//! nobody knows is refused with its line: a typing error must not be a silent default.
//!
//! `netd.toml` in the repository documents every key.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::{
    etcd::Member,
    firewall::Mode,
    ipam::{Pools, SubnetPool},
    model::{DEFAULT_NETWORK, Name, NetworkOrder},
    reconcile::{Family, LinkName},
};

/// Where it is, unless told otherwise.
pub const FILE: &str = "/etc/netd/netd.toml";

/// Everything that can be configured.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Of the daemon itself. Its command line comes first.
    pub daemon: DaemonConfig,
    /// Where automatic subnets come from.
    pub pools: PoolsConfig,
    /// The network that is made on first use.
    pub bridge: BridgeConfig,
    /// What holds for published ports that say nothing of it.
    pub publish: PublishConfig,
    /// The hosts that this one is among.
    pub cluster: ClusterConfig,
}

/// As the options of `netd daemon`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DaemonConfig {
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--run-dir`.
    pub run_dir: Option<PathBuf>,
    /// `--bpf-dir`.
    pub bpf_dir: Option<PathBuf>,
    /// `--cgroup`.
    pub cgroup: Option<PathBuf>,
    /// `--uplink`.
    pub uplinks: Vec<LinkName>,
    /// `--xdp`.
    pub xdp: Option<XdpWish>,
    /// `--endpoint-attach`.
    pub endpoint_attach: Option<EndpointAttach>,
    /// Whether what is in a tunnel may be summed and cut by the device that sends it, as without it.
    pub tunnel_offload: Option<bool>,
    /// Entries of the flow table, two a flow, where there is none yet. Without it as the machine's memory says.
    pub flows_max: Option<FlowsMax>,
    /// `--firewall`.
    pub firewall: Option<Mode>,
    /// The bit of the packets' marks that says that they are netd's, while the stack has them.
    #[serde(deserialize_with = "one_bit")]
    pub mark: Option<u32>,
}

/// A number of entries that a flow table can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "u32")]
pub struct FlowsMax(u32);

impl FlowsMax {
    /// What a flow table may have. Beyond it the table of buckets alone, which is there from the start, would be 256 MiB.
    const RANGE: RangeInclusive<u32> = 1_024..=16_777_216;

    /// The number.
    pub const fn entries(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for FlowsMax {
    type Error = String;
    fn try_from(entries: u32) -> Result<Self, String> {
        let (least, most) = Self::RANGE.into_inner();
        if Self::RANGE.contains(&entries) {
            Ok(Self(entries))
        } else {
            Err(format!("a flow table of {entries} entries; it may have {least} to {most}"))
        }
    }
}

/// Whether frames are met in the drivers of uplinks (XDP).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XdpWish {
    /// Where a driver of hardware, or of a virtual machine's, has it.
    #[default]
    Auto,
    /// On every uplink, and an error where one has it not.
    Native,
    /// Nowhere.
    Off,
}

/// By what the devices of containers get their programs, and the bridges of their networks at first: later these have them by TCX.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EndpointAttach {
    /// Clsact filters, which all devices share: one comes and goes without a wait.
    #[default]
    Clsact,
    /// A TCX link each, where the kernel takes it: a packet gets by sooner, and each device that comes or goes waits for grace periods of RCU.
    Tcx,
}

/// Pools of each family, in the order in which they are used; the defaults where one has none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoolsConfig {
    /// Of IPv4.
    pub ipv4: Vec<PoolConfig>,
    /// Of IPv6.
    pub ipv6: Vec<PoolConfig>,
}

/// A range, and how large the subnets are that are cut from it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoolConfig {
    /// The range.
    pub base: IpNet,
    /// Prefix length of a subnet.
    pub size: u8,
}

/// As the options of `netd network create`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BridgeConfig {
    /// `--subnet`.
    #[serde(deserialize_with = "one_or_more")]
    pub subnet: Vec<IpNet>,
    /// `--gateway`.
    #[serde(deserialize_with = "one_or_more")]
    pub gateway: Vec<IpAddr>,
    /// `--ip-range`.
    #[serde(deserialize_with = "one_or_more")]
    pub ip_range: Vec<IpNet>,
    /// `--mtu`.
    pub mtu: Option<u32>,
    /// `--ipv6`.
    pub ipv6: bool,
}

/// As parts of a port's specification.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PublishConfig {
    /// HOSTIP, at most one of a family: where ports are published from then on.
    #[serde(deserialize_with = "one_or_more")]
    pub address: Vec<IpAddr>,
    /// `from=`, for every port whose network has none either.
    #[serde(deserialize_with = "one_or_more")]
    pub from: Vec<IpNet>,
}

/// As the options of `netd daemon` for several hosts. The command line comes first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClusterConfig {
    /// `--node`.
    pub node: Option<Name>,
    /// `--vtep`.
    pub vtep: Option<IpAddr>,
    /// `--vxlan-port`.
    pub vxlan_port: Option<u16>,
    /// UDP port of the tunnels of encrypted networks.
    pub encrypted_port: Option<u16>,
    /// Seconds after which the keys of encrypted networks change.
    pub rekey: Option<u64>,
    /// `--etcd`.
    pub etcd: Vec<Member>,
    /// `--etcd-ca`.
    pub etcd_ca: Option<PathBuf>,
    /// `--etcd-cert`.
    pub etcd_cert: Option<PathBuf>,
    /// `--etcd-key`.
    pub etcd_key: Option<PathBuf>,
    /// `--etcd-user`.
    pub etcd_user: Option<String>,
    /// `--etcd-password-file`.
    pub etcd_password_file: Option<PathBuf>,
    /// Seconds without a word after which a node is out.
    pub lease: Option<u32>,
}

/// Why a file is not used.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}, line {line}: {why}", file.display())]
    Wrong { file: PathBuf, line: usize, why: String },
    #[error("{}: pool {base} {why}", file.display())]
    UnfitPool { file: PathBuf, base: IpNet, why: String },
    #[error("{}: [publish] {why}", file.display())]
    UnfitPublish { file: PathBuf, why: String },
}

impl Config {
    /// Reads `file`; without one that at [`FILE`], which need not be there.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(FILE));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => Ok(Self::default()),
            Err(error) => Err(ConfigError::Unreadable { file: path.to_owned(), error }),
        }
    }

    fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            ConfigError::Wrong { file: file.to_owned(), line, why: error.message().replace('\n', " ") }
        })?;
        let pools = &config.pools;
        for (family, pool) in
            pools.ipv4.iter().map(|p| (Family::V4, p)).chain(pools.ipv6.iter().map(|p| (Family::V6, p)))
        {
            if let Some(why) = unfit(family, pool) {
                return Err(ConfigError::UnfitPool { file: file.to_owned(), base: pool.base, why });
            }
        }
        if let Some(why) = unfit_default(&config.publish) {
            return Err(ConfigError::UnfitPublish { file: file.to_owned(), why });
        }
        Ok(config)
    }

    /// The pools, with `automatic` ones where none of a family is configured.
    pub fn pools(&self, automatic: Pools) -> Pools {
        let configured = |pools: &[PoolConfig], automatic: Vec<SubnetPool>| match pools {
            [] => automatic,
            pools => pools.iter().map(|pool| SubnetPool { base: pool.base, size: pool.size }).collect(),
        };
        Pools { ipv4: configured(&self.pools.ipv4, automatic.ipv4), ipv6: configured(&self.pools.ipv6, automatic.ipv6) }
    }

    /// The wish for the network that is made on first use.
    pub fn default_network(&self) -> NetworkOrder {
        let BridgeConfig { subnet, gateway, ip_range, mtu, ipv6 } = &self.bridge;
        NetworkOrder {
            name: DEFAULT_NETWORK.to_owned(),
            subnets: subnet.iter().map(ToString::to_string).collect(),
            gateways: gateway.iter().map(ToString::to_string).collect(),
            ip_ranges: ip_range.iter().map(ToString::to_string).collect(),
            aux_addresses: BTreeMap::new(),
            mtu: *mtu,
            ipv6: *ipv6,
            ..Default::default()
        }
    }
}

/// Why no subnet can be cut from a pool.
fn unfit(family: Family, pool: &PoolConfig) -> Option<String> {
    if Family::of(pool.base.addr()) != family {
        return Some(format!("is not of {family}"));
    }
    if pool.base.trunc() != pool.base {
        return Some(format!("has host bits set: it should be {}", pool.base.trunc()));
    }
    let longest = pool.base.max_prefix_len() - 1;
    let fits = (pool.base.prefix_len()..=longest).contains(&pool.size);
    (!fits).then(|| format!("has no subnets of size {}: it is {} to {longest}", pool.size, pool.base.prefix_len()))
}

/// Why ports cannot be published like this.
fn unfit_default(publish: &PublishConfig) -> Option<String> {
    let host_bits = |net: &&IpNet| net.trunc() != **net;
    if let Some(net) = publish.from.iter().find(host_bits) {
        return Some(format!("from {net} has host bits set: it should be {}", net.trunc()));
    }
    let of = |family| publish.address.iter().filter(move |address| Family::of(**address) == family).count();
    let twice = Family::BOTH.into_iter().find(|family| of(*family) > 1);
    twice.map(|family| format!("address has two of {family}: a port without an address has one of each family"))
}

/// A number with one bit set.
fn one_bit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = u32::deserialize(deserializer)?;
    let wrong = || serde::de::Error::custom(format!("{number:#x} is not one bit"));
    if number.count_ones() == 1 { Ok(Some(number)) } else { Err(wrong()) }
}

/// A value, or an array of them.
fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct OneOrMore<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for OneOrMore<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string or an array of strings")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(serde::de::value::StrDeserializer::new(text)).map(|one| vec![one])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                all.push(item);
            }
            Ok(all)
        }
    }

    deserializer.deserialize_any(OneOrMore(std::marker::PhantomData))
}

#[cfg(test)]
mod tests;
