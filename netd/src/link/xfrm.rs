//! The kernel's table of security associations and policies (XFRM), by netlink: ours, and whether the kernel can encrypt at all.
//!
//! An association is ours by its request id, a policy by its priority, which is ours alone and comes before those of key
//! exchange daemons; what others have is not seen and not touched.

use std::{io, net::IpAddr, thread};

use anyhow::{Context, Result};
use netd_common::{tables::DECRYPTED, tuple::UDP};
use netlink_packet_xfrm::{
    AlgAead, ReplayEsn, Selector, UserPolicyId, UserPolicyInfo, UserSaId, UserSaInfo, UserTemplate, XfrmAttrs,
    XfrmMessage,
    policy::{DelGetMessage as PolicyRequest, ModifyMessage as PolicyMessage},
    state::{DelGetMessage as StateRequest, GetDumpMessage, ModifyMessage as StateMessage},
};
use nix::{
    libc,
    sched::{CloneFlags, unshare},
};
use rtnetlink::sys::{Socket, protocols::NETLINK_XFRM};

use super::asked::{dump, socket, tell};
use crate::reconcile::{Association, AssociationId, Family, Ipsec, KEYING, Keying, PolicyId, Protection};

/// `netd`: the request id of our associations, and of the templates in our policies.
const REQUEST: u32 = 0x6e65_7464;
/// The priority of policies for one host, and of those for every one: the lower number comes first.
const PRIORITIES: [u32; 2] = [0x6e65, 0x6e66];
/// ESP's number (RFC 4303).
const ESP: u8 = 50;
/// Packets that may overtake one another: as many come from several processors of the sender.
const WINDOW: u32 = 1024;
/// `XFRM_MODE_TRANSPORT`, `XFRM_STATE_ESN`, `XFRM_POLICY_IN`, `XFRM_POLICY_OUT`, `XFRM_POLICY_BLOCK` of `linux/xfrm.h`.
const TRANSPORT: u8 = 0;
const ESN: u8 = 128;
const IN: u8 = 0;
const OUT: u8 = 1;
const BLOCK: u8 = 1;

/// AES-GCM with an integrity check value of 16 bytes, as the kernel calls it (RFC 4106).
const ALGORITHM: &[u8] = b"rfc4106(gcm(aes))";
const CHECK_BITS: u32 = 128;

/// A way to the tables of the network namespace of the thread that opened it.
pub struct Xfrm(Socket);

impl Xfrm {
    /// Opens it.
    pub fn open() -> Result<Self> {
        socket(NETLINK_XFRM).map(Self).context("cannot ask the kernel about encryption (XFRM)")
    }

    /// What of ours there is.
    pub fn observed(&self) -> Result<Ipsec> {
        let associations = dump(&self.0, &XfrmMessage::GetDumpSa(GetDumpMessage::default()));
        let associations = associations.context("cannot list the security associations")?;
        let policies = dump(&self.0, &XfrmMessage::GetPolicy(PolicyRequest::default()));
        let policies = policies.context("cannot list the policies of encryption")?;
        Ok(Ipsec {
            associations: associations.iter().filter_map(association).collect(),
            policies: policies.iter().filter_map(policy).collect(),
        })
    }

    /// Makes an association. One with its SPI that is there, ours or not, is refused.
    pub fn put_association(&self, id: AssociationId, association: &Association) -> io::Result<()> {
        tell(&self.0, XfrmMessage::AddSa(state(id, association)))
    }

    /// Takes an association away, if it is there.
    pub fn remove_association(&self, id: AssociationId) -> io::Result<()> {
        let mut user_sa_id = UserSaId { spi: id.spi, proto: ESP, ..UserSaId::default() };
        user_sa_id.destination(&id.destination);
        absent(tell(&self.0, XfrmMessage::DeleteSa(StateRequest { user_sa_id, nlas: Vec::new() })))
    }

    /// Makes a policy, or changes it.
    pub fn put_policy(&self, id: PolicyId, protection: Protection) -> io::Result<()> {
        let mut user_policy_info = UserPolicyInfo {
            selector: selector(id),
            priority: PRIORITIES[usize::from(id.peer.is_none())],
            direction: if id.inbound { IN } else { OUT },
            ..UserPolicyInfo::default()
        };
        let nlas = match protection {
            Protection::Block => {
                user_policy_info.action = BLOCK;
                Vec::new()
            }
            Protection::Esp(spi) => vec![XfrmAttrs::Template(vec![template(id.family, spi)])],
        };
        tell(&self.0, XfrmMessage::UpdatePolicy(PolicyMessage { user_policy_info, nlas }))
    }

    /// Takes a policy away, if it is there.
    pub fn remove_policy(&self, id: PolicyId) -> io::Result<()> {
        let direction = if id.inbound { IN } else { OUT };
        let user_policy_id = UserPolicyId { selector: selector(id), direction, ..UserPolicyId::default() };
        absent(tell(&self.0, XfrmMessage::DeletePolicy(PolicyRequest { user_policy_id, nlas: Vec::new() })))
    }
}

/// Takes away all of ours; how many there were.
pub fn remove_everything() -> Result<usize> {
    let xfrm = match socket(NETLINK_XFRM) {
        Ok(socket) => Xfrm(socket),
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        Err(error) => return Err(error).context("cannot ask the kernel about encryption (XFRM)"),
    };
    let Ipsec { associations, policies } = xfrm.observed()?;
    for id in policies.keys() {
        xfrm.remove_policy(*id).with_context(|| format!("cannot remove {id}"))?;
    }
    for id in associations.keys() {
        xfrm.remove_association(*id).with_context(|| format!("cannot remove {id}"))?;
    }
    Ok(associations.len() + policies.len())
}

/// Why the kernel cannot encrypt between hosts of this family; tried in a network namespace that nobody else has.
pub fn obstacle(family: Family) -> Result<Option<String>> {
    let tried = thread::spawn(move || {
        let socket = match socket(NETLINK_XFRM) {
            Ok(socket) => socket,
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
                return Ok(Some("it has no XFRM (CONFIG_XFRM_USER)".to_owned()));
            }
            Err(error) => return Err(error).context("cannot ask the kernel about encryption (XFRM)"),
        };
        drop(socket);
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace to try encryption in")?;
        try_out(&Xfrm::open()?, family)
    });
    tried.join().unwrap_or_else(|_| anyhow::bail!("the trial of encryption has ended early"))
}

fn try_out(xfrm: &Xfrm, family: Family) -> Result<Option<String>> {
    // Addresses for documentation (RFC 5737, RFC 3849).
    let (source, destination): (IpAddr, IpAddr) = match family {
        Family::V4 => ([192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
        Family::V6 => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into()),
    };
    let association = Association { source, port: 1, inbound: true, intact: true, keying: Keying::UNKNOWN };
    let option = if family == Family::V4 { "CONFIG_INET_ESP" } else { "CONFIG_INET6_ESP" };
    let made = xfrm.put_association(AssociationId { destination, spi: 0x100 }, &association);
    Ok(match made.map_err(|error| (error.raw_os_error(), error)) {
        Ok(()) => None,
        Err((Some(libc::EPROTONOSUPPORT), _)) => Some(format!("it has no ESP over {family} ({option})")),
        // The algorithm is looked for first.
        Err((Some(libc::ENOSYS | libc::ENOENT), _)) => {
            Some(format!("it has no ESP with AES-GCM over {family} ({option}, CONFIG_CRYPTO_GCM)"))
        }
        Err((_, error)) => Some(format!("it refuses ESP with AES-GCM over {family}: {error}")),
    })
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Ok(()),
        removed => removed,
    }
}

/// Datagrams to a port, of the hosts that are given.
fn datagrams(family: Family, source: Option<IpAddr>, destination: Option<IpAddr>, port: u16) -> Selector {
    let mut selector = Selector { dport: port, dport_mask: u16::MAX, proto: UDP, ..Selector::default() };
    let length = if family == Family::V4 { 32 } else { 128 };
    selector.source_prefix(&source.unwrap_or(family.unspecified()), length);
    selector.destination_prefix(&destination.unwrap_or(family.unspecified()), length);
    selector
}

fn selector(id: PolicyId) -> Selector {
    datagrams(id.family, None, id.peer, id.port)
}

/// In transport mode the addresses are the packet's.
fn template(family: Family, spi: u32) -> UserTemplate {
    let mut template = UserTemplate { reqid: REQUEST, mode: TRANSPORT, optional: 0, ..UserTemplate::default() };
    template.source(&family.unspecified());
    (template.id.proto, template.id.spi) = (ESP, spi);
    (template.aalgos, template.ealgos, template.calgos) = (u32::MAX, u32::MAX, u32::MAX);
    template
}

fn state(id: AssociationId, association: &Association) -> StateMessage {
    let Association { source, port, inbound, keying, .. } = *association;
    let mut user_sa_info = UserSaInfo {
        selector: datagrams(Family::of(source), Some(source), Some(id.destination), port),
        reqid: REQUEST,
        mode: TRANSPORT,
        flags: ESN,
        ..UserSaInfo::default()
    };
    (user_sa_info.id.spi, user_sa_info.id.proto) = (id.spi, ESP);
    user_sa_info.source(&source);
    user_sa_info.destination(&id.destination);
    let mut alg_name = [0; 64];
    alg_name[..ALGORITHM.len()].copy_from_slice(ALGORITHM);
    let aead =
        AlgAead { alg_name, alg_key_len: 8 * KEYING as u32, alg_icv_len: CHECK_BITS, alg_key: keying.0.to_vec() };
    let words = WINDOW / u32::BITS;
    let bmp = vec![0; words as usize];
    let replay = ReplayEsn { bmp_len: words, replay_window: WINDOW, bmp, ..ReplayEsn::default() };
    let mut nlas = vec![XfrmAttrs::EncryptionAlgAead(aead), XfrmAttrs::ReplayStateEsn(replay)];
    if inbound {
        nlas.extend([XfrmAttrs::MarkVal(DECRYPTED), XfrmAttrs::MarkMask(DECRYPTED)]);
    }
    StateMessage { user_sa_info, nlas }
}

fn association(message: &XfrmMessage) -> Option<(AssociationId, Association)> {
    let XfrmMessage::AddSa(StateMessage { user_sa_info: info, nlas }) = message else { return None };
    if info.reqid != REQUEST || info.id.proto != ESP {
        return None;
    }
    let address = |address: &netlink_packet_xfrm::Address| match i32::from(info.family) {
        libc::AF_INET => IpAddr::V4(address.to_ipv4()),
        _ => IpAddr::V6(address.to_ipv6()),
    };
    let id = AssociationId { destination: address(&info.id.daddr), spi: info.id.spi };
    let (source, port) = (address(&info.saddr), info.selector.dport);
    let inbound = nlas.contains(&XfrmAttrs::MarkVal(DECRYPTED));
    let made = Association { source, port, inbound, intact: true, keying: Keying::UNKNOWN };
    let wanted = state(id, &made).user_sa_info;
    let encrypts = nlas.iter().any(|nla| match nla {
        XfrmAttrs::EncryptionAlgAead(aead) => aead.alg_name.starts_with(ALGORITHM) && aead.alg_icv_len == CHECK_BITS,
        _ => false,
    });
    let remembers = nlas.iter().any(|nla| match nla {
        XfrmAttrs::ReplayStateEsn(replay) => replay.replay_window == WINDOW,
        _ => false,
    });
    let options = |info: &UserSaInfo| (info.selector, info.mode, info.flags);
    let intact = encrypts && remembers && options(info) == options(&wanted);
    Some((id, Association { intact, ..made }))
}

fn policy(message: &XfrmMessage) -> Option<(PolicyId, Protection)> {
    let XfrmMessage::AddPolicy(PolicyMessage { user_policy_info: info, nlas }) = message else { return None };
    if !PRIORITIES.contains(&info.priority) || ![IN, OUT].contains(&info.direction) {
        return None;
    }
    let found = &info.selector;
    let (family, peer) = match i32::from(found.family) {
        libc::AF_INET => (Family::V4, IpAddr::V4(found.daddr.to_ipv4())),
        _ => (Family::V6, IpAddr::V6(found.daddr.to_ipv6())),
    };
    let peer = Some(peer).filter(|_| found.prefixlen_d > 0);
    let id = PolicyId { inbound: info.direction == IN, family, peer, port: found.dport };
    if *found != selector(id) {
        return None;
    }
    let spi = nlas.iter().find_map(|nla| match nla {
        XfrmAttrs::Template(templates) => {
            let spi = templates.first().map_or(0, |template| template.id.spi);
            (templates.as_slice() == [self::template(family, spi)]).then_some(spi)
        }
        _ => None,
    });
    match (info.action, spi) {
        (BLOCK, None) => Some((id, Protection::Block)),
        (_, Some(spi)) => Some((id, Protection::Esp(spi))),
        // Somebody has changed it: what is not seen is made anew.
        (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, process::Command};

    use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

    use super::*;
    use crate::testing::on_a_host_of_its_own;

    #[test]
    fn what_is_made_is_found_as_it_was_made_and_what_others_have_is_not_seen() {
        for (source, destination) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
            for inbound in [false, true] {
                let keying = Keying([7; KEYING]);
                let made = Association { source, port: 4790, inbound, intact: true, keying };
                let id = AssociationId { destination, spi: 0x1234_5678 };

                let mut message = state(id, &made);
                assert_eq!(association(&by_the_kernel(message.clone())), Some((id, made)));
                message.user_sa_info.flags = 0;
                assert_eq!(
                    association(&XfrmMessage::AddSa(message.clone())),
                    Some((id, Association { intact: false, ..made }))
                );
                message.user_sa_info.reqid = 1;
                assert_eq!(association(&XfrmMessage::AddSa(message)), None);
            }
        }
    }

    /// What was sent, in bytes, and read from them again.
    fn by_the_kernel(message: StateMessage) -> XfrmMessage {
        let mut message = NetlinkMessage::from(XfrmMessage::AddSa(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        match NetlinkMessage::<XfrmMessage>::deserialize(&bytes).unwrap().payload {
            NetlinkPayload::InnerMessage(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn policies_are_as_they_were_made_and_those_of_others_stay() {
        on_a_host_of_its_own(async |_| {
            let xfrm = Xfrm::open().unwrap();
            let ip = |words: &str| Command::new("ip").args(words.split(' ')).output().unwrap();
            let others = "xfrm policy add dir out dst 192.0.2.7 proto udp dport 4790 action block priority 7";
            assert!(ip(others).status.success());
            let peer: IpAddr = "2001:db8::2".parse().unwrap();
            let to_peer = PolicyId { inbound: false, family: Family::V6, peer: Some(peer), port: 4790 };
            let wanted: BTreeMap<_, _> = Ipsec::guard(4790).chain([(to_peer, Protection::Esp(0x1234))]).collect();

            for (id, protection) in &wanted {
                xfrm.put_policy(*id, *protection).unwrap();
            }
            assert_eq!(xfrm.observed().unwrap().policies, wanted);
            xfrm.put_policy(to_peer, Protection::Esp(0x5678)).unwrap();
            assert_eq!(xfrm.observed().unwrap().policies[&to_peer], Protection::Esp(0x5678), "in its place");

            for id in wanted.keys() {
                xfrm.remove_policy(*id).unwrap();
                xfrm.remove_policy(*id).unwrap();
            }
            assert_eq!(xfrm.observed().unwrap(), Ipsec::default());
            xfrm.put_policy(to_peer, Protection::Esp(0x5678)).unwrap();
            assert_eq!((remove_everything().unwrap(), remove_everything().unwrap()), (1, 0));
            let left = String::from_utf8(ip("xfrm policy list").stdout).unwrap();
            assert!(left.contains("192.0.2.7"), "{left}");
        });
    }

    #[test]
    #[ignore = "takes a kernel with ESP, as a guest of `cargo xtask vm` has"]
    fn associations_are_as_they_were_made_and_made_once() {
        on_a_host_of_its_own(async |_| {
            let xfrm = Xfrm::open().unwrap();
            for (source, destination, inbound) in
                [("192.0.2.1", "192.0.2.2", true), ("2001:db8::1", "2001:db8::2", false)]
            {
                let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
                let made = Association { source, port: 4790, inbound, intact: true, keying: Keying([7; KEYING]) };
                let id = AssociationId { destination, spi: 0x1234_5678 };

                xfrm.put_association(id, &made).unwrap();
                let told = dump(&xfrm.0, &XfrmMessage::GetDumpSa(GetDumpMessage::default())).unwrap();
                assert_eq!(xfrm.observed().unwrap().associations, [(id, made)].into(), "{told:?}");
                assert!(xfrm.put_association(id, &made).is_err());
                xfrm.remove_association(id).unwrap();
                xfrm.remove_association(id).unwrap();
                assert_eq!(xfrm.observed().unwrap(), Ipsec::default());
            }
        });
    }

    #[test]
    fn keys_are_in_no_log() {
        let keying = Keying([0xab; KEYING]);
        assert!(!format!("{keying:?}").contains("171") && !format!("{keying:x?}").contains("ab"));
    }
}
