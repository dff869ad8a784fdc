//! Whatever is desired and whatever is there: the steps lead from one to the other, and from every place in between.

use std::collections::BTreeMap;

use netd_common::{
    tables::{Publication, SourceList},
    tuple::{Address, Mac, Port, Zone},
};
use proptest::{collection::btree_map, prelude::*, sample::subsequence};

use super::*;
use crate::{
    firewall::Xtables,
    reconcile::{Interface, Ipsec, Keying, ResolverState, Sandbox, fake::FakeKernel},
};

fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

fn bridge() -> impl Strategy<Value = Bridge> {
    (0..2_u8, 0..2_u8, 0..2_u32, 0..2_u8).prop_map(|(owner, mac, mtu, address)| Bridge {
        owner: owner.to_string(),
        mac: Mac([2, 0, 0, 0, 0, mac]),
        mtu: 1400 + mtu,
        intact: true,
        addresses: [format!("10.0.{address}.1/24").parse().unwrap()].into(),
    })
}

fn veth() -> impl Strategy<Value = Veth> {
    (0..2_u8, 0..3_usize, 0..2_u64, 0..2_u8, 0..2_u8).prop_map(|(owner, bridge, inode, name, address)| Veth {
        owner: owner.to_string(),
        bridge: link(["ndb-a", "ndb-b", "ndb-c"][bridge]),
        mtu: 1500,
        intact: true,
        apart: inode == 1,
        sandbox: Sandbox { path: "/run/netns/x".into(), inode },
        interface: Interface {
            name: link(["eth0", "eth1"][usize::from(name)]),
            mac: Mac([2, 0, 0, 0, 1, address]),
            addresses: [format!("10.0.0.{}/24", address + 2).parse().unwrap()].into(),
            gateways: ["10.0.0.1".parse().unwrap()].into(),
        },
    })
}

fn join() -> impl Strategy<Value = Join> {
    (0..2_u8, 0..3_usize, 0..3_usize).prop_map(|(owner, bridge, further)| Join {
        owner: owner.to_string(),
        bridge: link(["ndb-a", "ndb-b", "ndb-c"][bridge]),
        far: link("ndk-a"),
        further: link(["ndb-a", "ndb-b", "ndb-c"][further]),
        mtu: 1500,
        intact: true,
        apart: bridge == 1,
    })
}

fn record(bridge: usize, mtu: u32) -> DeviceRecord {
    DeviceRecord {
        kind: 1,
        flags: 0,
        zone: Zone(1),
        bridge: Some(link(["ndb-a", "ndb-b", "ndb-c"][bridge])),
        mtu,
        vni: 0,
        ipv4: [0; 4],
        gateway_ipv4: [0; 4],
        ipv6: [0; 16],
        gateway_ipv6: [0; 16],
        mac: Mac::default(),
        gateway_mac: Mac::default(),
    }
}

/// What there is of networks that span hosts, by some bits: each thing in one of two kinds, or not at all.
fn spanning(bits: u32, state: State) -> State {
    let kind = |salt: u32| Some(bits.rotate_left(salt * 3) % 3).filter(|kind| *kind < 2);
    let names = ["ndx-4789", "ndx-8472"].map(link);
    let tunnels = (0..2).filter_map(|i| {
        let tunnel = Tunnel { port: [4789, 8472][i], offload: i == 0, intact: kind(i as u32)? == 0 };
        Some((names[i].clone(), tunnel))
    });
    let tunnels: BTreeMap<_, _> = tunnels.collect();
    let hooks = tunnels.keys().filter(|_| bits & 1 == 1).map(|link| (link.clone(), Hook::FromOverlay));
    let hooks: Vec<_> = hooks.collect();
    let there = |link: &LinkName| if tunnels.contains_key(link) { link.clone() } else { self::link("gone-0") };
    let bridges: Vec<_> = state.bridges.keys().cloned().collect();
    let segments = (0..2).filter_map(|i| {
        let (kind, bridge) = (kind(2 + i)?, bridges.get(i as usize)?);
        Some((i + 1, segment(there(&names[kind as usize]), bridge.clone())))
    });
    let segments = segments.collect();
    let address = |last: u32| Address::v4([192, 0, 2, last as u8]);
    let remote = |vtep: u32| Remote { vtep: address(vtep), ..Remote::default() };
    let host = |last: u8| std::net::IpAddr::from([192, 0, 2, last]);
    let association = |i: u32| {
        let id = AssociationId { destination: host(i as u8), spi: 256 + i };
        let (port, keying) = (4790, Keying::UNKNOWN);
        let intact = kind(3 + i)? > 0;
        Some((id, Association { source: host(9), port, inbound: i == 0, intact, keying }))
    };
    let to_peer = |i: u32| {
        let id = PolicyId { inbound: false, family: Family::V4, peer: Some(host(i as u8)), port: 4790 };
        Some((id, Protection::Esp(256 + kind(1 + i)?)))
    };
    let guard = Ipsec::guard(4790).filter(|_| bits & 2 == 2);
    let ipsec = Ipsec {
        associations: (0..3).filter_map(association).collect(),
        policies: guard.chain((0..2).filter_map(to_peer)).collect(),
    };
    State {
        ipsec,
        segments,
        remotes: (0..3)
            .filter_map(|i| Some((RemoteKey { address: address(i), vni: 1 }, remote(kind(4 + i)?))))
            .collect(),
        vteps: (0..2).filter(|i| kind(7 + i).is_some()).map(|i| VtepKey { address: address(i), vni: 1 }).collect(),
        mesh: (0..2)
            .filter_map(|i| {
                let end = MeshEnd { vtep: address(kind(5 + i)?), ..MeshEnd::default() };
                Some((EndpointKey { address: address(i), zone: Zone(1), pad: 0 }, end))
            })
            .collect(),
        peers: (0..2).filter_map(|i| Some((PeerKey { vni: 1, index: i }, address(kind(8 + i)?)))).collect(),
        hooks: state.hooks.into_iter().chain(hooks).collect(),
        tunnels,
        ..state
    }
}

fn segment(tunnel: LinkName, bridge: LinkName) -> SegmentRecord {
    SegmentRecord {
        tunnel,
        bridge,
        underlay_mtu: 1500,
        peers: 0,
        flags: 0,
        port: 4789,
        zone: Zone(1),
        gateway_mac: Mac::default(),
        gateway_ipv4: [0; 4],
        gateway_ipv6: [0; 16],
    }
}

/// A state that a host can be in: what hangs on a link of ours hangs on one that is there.
fn state() -> impl Strategy<Value = State> {
    let names = |names: &'static [&'static str]| prop::sample::select(names).prop_map(link);
    let links = (
        btree_map(names(&["ndb-a", "ndb-b", "ndb-c"]), bridge(), 0..3),
        btree_map(names(&["ndv-a", "ndv-b"]), veth(), 0..3),
        btree_map(names(&["ndj-a"]), join(), 0..2),
    );
    let tables = (
        btree_map(0..4_u8, 0..2_u32, 0..4),
        btree_map(1..4_u16, 0..2_u16, 0..3),
        (prop::option::of(0..2_u32), btree_map(1..4_u64, any::<bool>(), 0..3)),
        subsequence(vec![1001_u32, 1002], 0..=2),
    );
    (links, tables, any::<u32>()).prop_map(
        |((bridges, veths, joins), (endpoints, publications, (secret, resolvers), orphans), bits)| {
            let sides = joins.iter().flat_map(|(near, join)| [near, &join.far]);
            let all = bridges.keys().chain(veths.keys()).chain(sides).cloned().chain([link("eth0")]);
            let all: Vec<LinkName> = all.collect();
            let some = |salt: u32| {
                let chosen = move |i: usize| bits.rotate_left(salt * 5) >> i & 1 == 1;
                all.iter().enumerate().filter(move |(i, _)| chosen(*i)).map(|(_, link)| link.clone())
            };
            let devices: BTreeMap<_, _> =
                some(0).enumerate().map(|(i, link)| (link, record((bits as usize + i) % 3, 1500 + bits % 2))).collect();
            let endpoints = endpoints.into_iter().map(|(address, mtu)| {
                let key = EndpointKey { address: Address::v4([10, 0, 0, address]), zone: Zone(1), pad: 0 };
                let device = all[(bits as usize + usize::from(address)) % all.len()].clone();
                (key, EndpointRecord { device, mtu, mac: Mac::default(), gateway_mac: Mac::default() })
            });
            let lists = (0..2).filter(|i| bits >> (10 + i) & 1 == 1).map(SourceList::numbered);
            let sources = lists.map(|list| SourceKey::range(list, Address::ANY_V4, 8)).collect();
            let publications = publications.into_iter().map(|(host, port)| {
                let key = PublicationKey::new(Address::ANY_V4, 6, Port::new(host));
                (key, Publication::new(Zone(1), Address::v4([10, 0, 0, 2]), host, port))
            });
            let state = State {
                unclear: BTreeMap::new(),
                unrouted: some(5)
                    .filter(|link| bridges.contains_key(link) || veths.contains_key(link))
                    .map(|link| (link, ["10.0.0.0/24".parse().unwrap()].into()))
                    .collect(),
                misnamed: BTreeMap::new(),
                forwarding: some(1)
                    .map(|link| (link, Family::V4))
                    .chain(some(4).map(|link| (link, Family::V6)))
                    .collect(),
                hooks: some(2)
                    .map(|link| (link, Hook::FromContainer))
                    .chain(some(3).map(|l| (l, Hook::ToUplink)))
                    .collect(),
                resolvers: resolvers
                    .into_iter()
                    .map(|(namespace, whole)| {
                        (namespace, if whole { ResolverState::Whole } else { ResolverState::Partial })
                    })
                    .collect(),
                devices,
                orphans: orphans.into_iter().collect(),
                endpoints: endpoints.collect(),
                sources,
                allowances: (0..4_u8)
                    .filter(|i| bits.rotate_left(13) >> i & 1 == 1)
                    .map(|i| {
                        let [src, dst] = [2, 3 + i].map(|host| Address::v4([10, 0, 0, host]));
                        AllowanceKey::of_everything(Zone(1), src, dst)
                    })
                    .collect(),
                publications: publications.collect(),
                reserved: secret.map(|port| PortRange { first: port as u16, last: port as u16 }).into_iter().collect(),
                calls: ["bind4", "connect4"].into_iter().filter(|call| bits >> (call.len() + 9) & 1 == 1).collect(),
                addresses: (0..3).filter(|i| bits >> (7 + i) & 1 == 1).map(|i| Address::v4([192, 0, 2, i])).collect(),
                settings: secret.map(|secret| Settings { secret: [secret, 0], ..Default::default() }),
                bridges,
                joins,
                veths,
                ..State::default()
            };
            spanning(bits.reverse_bits(), state)
        },
    )
}

/// A state as a plan makes one: no orphans, settings there, ports of bridges that are there.
fn desired() -> impl Strategy<Value = State> {
    state().prop_map(|mut state| {
        state.orphans.clear();
        state.unrouted.clear();
        state.resolvers.values_mut().for_each(|state| *state = ResolverState::Whole);
        state.settings.get_or_insert_default();
        let bridges = state.bridges.clone();
        state.veths.retain(|_, veth| bridges.contains_key(&veth.bridge));
        state.joins.retain(|_, join| bridges.contains_key(&join.bridge) && bridges.contains_key(&join.further));
        state.devices.retain(|_, record| record.bridge.as_ref().is_some_and(|bridge| bridges.contains_key(bridge)));
        let there = |link: &LinkName| {
            let is_side = state.joins.iter().any(|(near, join)| near == link || join.far == *link);
            let ours = bridges.contains_key(link) || state.veths.contains_key(link) || is_side;
            ours || state.tunnels.contains_key(link) || link.as_str() == "eth0"
        };
        state.devices.retain(|link, _| there(link));
        state.hooks.retain(|(link, _)| there(link));
        state.forwarding.retain(|(link, _)| there(link));
        state.endpoints.retain(|_, record| there(&record.device));
        state.segments.retain(|_, segment| there(&segment.tunnel) && there(&segment.bridge));
        state.tunnels.values_mut().for_each(|tunnel| tunnel.intact = true);
        state
    })
}

proptest! {
    #[test]
    fn the_steps_lead_to_what_is_desired_and_then_there_are_none(desired in desired(), observed in state()) {
        let mut kernel = FakeKernel { state: observed, ..Default::default() };

        for step in diff(&desired, &kernel.state.clone()) {
            kernel.take(&step);
        }

        prop_assert_eq!(&kernel.state, &desired);
        prop_assert_eq!(diff(&desired, &kernel.state), Vec::new());
    }

    #[test]
    fn stopping_after_any_step_and_looking_again_leads_there_too(
        desired in desired(),
        observed in state(),
        stop in 0..40_usize,
    ) {
        let mut kernel = FakeKernel { state: observed, ..Default::default() };
        for step in diff(&desired, &kernel.state.clone()).iter().take(stop) {
            kernel.take(step);
        }

        for step in diff(&desired, &kernel.state.clone()) {
            kernel.take(&step);
        }

        prop_assert_eq!(&kernel.state, &desired);
    }

    #[test]
    fn a_state_differs_from_itself_in_nothing(state in desired()) {
        prop_assert_eq!(diff(&state, &state), Vec::new());
    }
}

#[test]
fn programs_and_records_stand_before_a_veth_carries_packets() {
    let mut desired = State::default();
    let veth = Veth {
        owner: "c1".into(),
        bridge: link("ndb-a"),
        mtu: 1500,
        intact: true,
        apart: false,
        sandbox: Sandbox { path: "/run/netns/c1".into(), inode: 1 },
        interface: Interface {
            name: link("eth0"),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: ["10.0.0.2/24".parse().unwrap()].into(),
            gateways: BTreeSet::new(),
        },
    };
    desired.veths.insert(link("ndv-a"), veth);
    desired.hooks.insert((link("ndv-a"), Hook::FromContainer));
    desired.devices.insert(link("ndv-a"), record(0, 1500));

    let steps: Vec<_> = diff(&desired, &State::default()).iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "make the veth ndv-a of endpoint c1",
            "record the device ndv-a",
            "attach from_container to ndv-a",
            "connect ndv-a of endpoint c1 to ndb-a"
        ]
    );

    desired.forwarding.insert((link("eth0"), Family::V4));
    desired.hooks.insert((link("eth0"), Hook::ToUplink));
    desired.devices.insert(link("eth0"), record(0, 1500));
    let steps = diff(&desired, &State::default());
    let place = |begin: &str| steps.iter().position(|step| step.to_string().starts_with(begin)).unwrap();
    assert!(place("attach to_uplink to eth0") < place("switch IPv4 forwarding on for eth0"));
    assert!(place("record the device eth0") < place("switch IPv4 forwarding on for eth0"));
    desired.forwarding.clear();
    desired.hooks.remove(&(link("eth0"), Hook::ToUplink));
    desired.devices.remove(&link("eth0"));

    let steps: Vec<_> = diff(&State::default(), &desired).iter().map(ToString::to_string).collect();
    assert_eq!(steps, ["forget the device ndv-a", "delete the veth ndv-a"]);
}

#[test]
fn an_accept_for_another_bit_goes_when_there_is_one_for_the_bit_of_netds_packets() {
    let with = |marks: &[u32]| {
        let accepts = marks.iter().map(|mark| Accept { table: Xtables::Nft4, mark: *mark });
        State { accepts: accepts.collect(), ..State::default() }
    };
    let [old, new] = [1, 2].map(|mark| Accept { table: Xtables::Nft4, mark });

    assert_eq!(diff(&with(&[2]), &with(&[1])), [Step::Accept(new), Step::RemoveAccept(old)]);
    assert_eq!(diff(&with(&[]), &with(&[1])), [Step::RemoveAccept(old)]);
}
