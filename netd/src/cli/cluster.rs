//! How a daemon comes to be among others: its options, and the file's where they say nothing.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result, anyhow, bail};

use super::args::ClusterArgs;
use crate::{
    cluster::announcements,
    config::ClusterConfig,
    etcd::{EtcdConfig, Member, User},
    membership::{Membership, Settings, Word},
    model::{Model, Name, VXLAN_PORT},
};

/// Seconds without a word after which a node is out, unless configured.
const LEASE: u32 = 15;

/// Seconds after which the keys of encrypted networks change, unless configured: a day.
const REKEY: u64 = 86_400;

/// A change takes as long as every node takes to say that it has the new keys.
const LEAST_REKEY: u64 = 60;

/// A lease that etcd would lengthen, or that a busy host would lose.
const LEAST_LEASE: u32 = 3;

/// Everything about it that does not come from the store.
pub struct Joining {
    node: Name,
    vtep: IpAddr,
    vxlan_port: u16,
    encrypted_port: u16,
    lease: u32,
    rekey: u64,
    etcd: EtcdConfig,
}

/// What the options and the file say; `None` for a host by itself.
pub fn joining(args: ClusterArgs, configured: ClusterConfig) -> Result<Option<Joining>> {
    let given = args.etcd.iter().map(|url| url.parse()).collect::<Result<Vec<Member>, _>>()?;
    let members = if given.is_empty() { configured.etcd } else { given };
    let node = args.node.map(|name| name.parse()).transpose()?.or(configured.node);
    let vtep = args.vtep.or(configured.vtep);
    if members.is_empty() {
        if node.is_some() || vtep.is_some() {
            bail!("--node and --vtep are for a host among others: give --etcd too");
        }
        return Ok(None);
    }
    let vtep =
        vtep.ok_or_else(|| anyhow!("--etcd needs --vtep, the address by which the other nodes reach this host"))?;
    if vtep.is_unspecified() || vtep.is_loopback() || vtep.is_multicast() {
        bail!("--vtep {vtep} is not the address of a host");
    }
    let lease = configured.lease.unwrap_or(LEASE);
    if lease < LEAST_LEASE {
        bail!("a lease of {lease} s is too short: {LEAST_LEASE} s at least");
    }
    let user = args.etcd_user.or(configured.etcd_user);
    let password = args.etcd_password_file.or(configured.etcd_password_file);
    let etcd = EtcdConfig {
        members,
        ca: args.etcd_ca.or(configured.etcd_ca),
        cert: args.etcd_cert.or(configured.etcd_cert),
        key: args.etcd_key.or(configured.etcd_key),
        user: user_of(user, password.as_deref())?,
    };
    let vxlan_port = args.vxlan_port.or(configured.vxlan_port).unwrap_or(VXLAN_PORT);
    if vxlan_port == 0 {
        bail!("UDP port 0 is none for VXLAN");
    }
    let encrypted_port = configured.encrypted_port.unwrap_or(if vxlan_port == u16::MAX { 1 } else { vxlan_port + 1 });
    if encrypted_port == 0 || encrypted_port == vxlan_port {
        bail!("encrypted-port {encrypted_port} is none that encrypted networks could have for themselves");
    }
    let rekey = configured.rekey.unwrap_or(REKEY);
    if rekey < LEAST_REKEY {
        bail!("rekey after {rekey} s is too often: {LEAST_REKEY} s at least");
    }
    let node = node.map_or_else(own_name, Ok)?;
    Ok(Some(Joining { node, vtep, vxlan_port, encrypted_port, lease, rekey, etcd }))
}

impl Joining {
    /// Starts to join, as the host that this store is of, with what its model has.
    pub fn start(self, store: u64, model: &Model) -> Result<Membership> {
        let Self { node, vtep, vxlan_port, encrypted_port, lease, rekey, etcd } = self;
        let host = format!("{store:010x}");
        let settings = Settings { node, host, vtep, vxlan_port, encrypted_port, rekey, lease, etcd };
        Membership::start(settings, Word { endpoints: announcements(model), ..Word::default() })
    }
}

fn own_name() -> Result<Name> {
    let name = nix::unistd::gethostname().context("cannot tell this host's name: give --node")?;
    let name = name.to_string_lossy();
    name.parse().with_context(|| format!("this host's name, {name}, is none for a node: give --node"))
}

fn user_of(name: Option<String>, password: Option<&Path>) -> Result<Option<User>> {
    match (name, password) {
        (None, None) => Ok(None),
        (Some(name), Some(file)) => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let password = text.lines().next().unwrap_or_default().to_owned();
            Ok(Some(User { name, password }))
        }
        _ => bail!("--etcd-user and --etcd-password-file go together"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ClusterArgs {
        ClusterArgs {
            node: Some("a".into()),
            vtep: Some([192, 0, 2, 1].into()),
            vxlan_port: None,
            etcd: vec!["http://192.0.2.9:2379".into()],
            etcd_ca: None,
            etcd_cert: None,
            etcd_key: None,
            etcd_user: None,
            etcd_password_file: None,
        }
    }

    fn refusal(args: ClusterArgs) -> String {
        match joining(args, ClusterConfig::default()) {
            Ok(_) => panic!("it is taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_host_by_itself_joins_nothing() {
        let nothing = ClusterArgs { node: None, vtep: None, etcd: Vec::new(), ..options() };
        assert!(joining(nothing, ClusterConfig::default()).unwrap().is_none());
        assert!(refusal(ClusterArgs { etcd: Vec::new(), ..options() }).contains("give --etcd too"));
    }

    #[test]
    fn what_is_not_given_is_as_configured_or_as_usual() {
        let configured = ClusterConfig { vxlan_port: Some(8472), lease: Some(60), ..ClusterConfig::default() };
        let joining = joining(options(), configured).unwrap().unwrap();
        assert_eq!((joining.vxlan_port, joining.lease, joining.node.as_str()), (8472, 60, "a"));
        let usual = super::joining(options(), ClusterConfig::default()).unwrap().unwrap();
        assert_eq!((usual.vxlan_port, usual.lease), (4789, 15));
        assert_eq!((usual.encrypted_port, usual.rekey), (4790, 86_400));
    }

    #[test]
    fn a_port_of_encrypted_networks_that_is_not_their_own_and_keys_that_never_settle_are_refused() {
        let cases = [
            (ClusterConfig { encrypted_port: Some(4789), ..ClusterConfig::default() }, "encrypted-port 4789"),
            (ClusterConfig { encrypted_port: Some(0), ..ClusterConfig::default() }, "encrypted-port 0"),
            (ClusterConfig { rekey: Some(1), ..ClusterConfig::default() }, "rekey after 1 s"),
        ];
        for (configured, line) in cases {
            let refusal = joining(options(), configured).err().expect("it is refused").to_string();
            assert!(refusal.contains(line), "{refusal}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_a_line() {
        for (args, line) in [
            (ClusterArgs { vtep: None, ..options() }, "--etcd needs --vtep"),
            (ClusterArgs { vtep: Some([127, 0, 0, 1].into()), ..options() }, "is not the address of a host"),
            (ClusterArgs { etcd: vec!["192.0.2.9".into()], ..options() }, "is no URL of an etcd member"),
            (ClusterArgs { node: Some("a b".into()), ..options() }, "a b"),
            (ClusterArgs { vxlan_port: Some(0), ..options() }, "port 0"),
            (ClusterArgs { etcd_user: Some("root".into()), ..options() }, "go together"),
        ] {
            let refusal = refusal(args);
            assert!(refusal.contains(line) && !refusal.contains('\n'), "{refusal}");
        }
    }
}
