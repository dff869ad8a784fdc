//! Whatever somebody does to what the plan has written to a map, it is seen and mended: entry by entry, map by map.

use std::{collections::BTreeMap, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, lpm_trie::Key},
};
use netd_common::{
    tables::{
        AllowanceKey, DEVICE_SLOTS, Device, Endpoint, EndpointKey, LAYOUT, MeshEnd, PeerKey, PortRange, Publication,
        PublicationKey, Remote, RemoteKey, ReservedPorts, Segment, Settings, SourceKey, SourceList, VtepKey, names,
    },
    tuple::{Address, Mac, Port, TCP, Zone},
};

use crate::{
    host::{Host, fixtures::*},
    reconcile::{DeviceRecord, EndpointRecord, Kernel, SegmentRecord, State, Step, diff},
    testing::{add_veth, link, on_a_host_of_its_own},
};

/// What somebody does to a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    /// Takes every entry out.
    Loss,
    /// Turns every bit of every value.
    Change,
    /// Puts each entry in another place as well.
    Stranger,
}

#[test]
fn whatever_somebody_does_to_a_map_that_the_plan_fills_is_seen_and_mended() {
    on_a_host_of_its_own(async |directory| {
        add_veth("wan0", "wan1", 7).await;
        add_veth("wan2", "wan3", 7 + DEVICE_SLOTS).await;
        let mut host = open(&directory, false).await;
        for step in one_entry_in_each_map() {
            host.apply(&step).await.unwrap();
        }
        let whole = host.observe().await.unwrap();
        let maps = directory.join("bpf").join(LAYOUT).join("maps");

        for (map, spoil) in MAPS {
            for harm in [Harm::Loss, Harm::Change, Harm::Stranger] {
                let meaningless = harm == Harm::Change && WITHOUT_VALUES.contains(&map);
                spoil(&maps.join(map), harm);
                let found = host.observe().await.unwrap();
                assert_eq!(found == whole, meaningless, "{harm:?} of {map} is seen");
                let steps = mended(&mut host, &whole, &found).await;
                assert_eq!(host.observe().await.unwrap(), whole, "{harm:?} of {map} is mended by {steps:?}");
            }
        }
    });
}

/// Takes the steps from what was found to what should be, as they are said to people.
async fn mended(host: &mut Host, whole: &State, found: &State) -> Vec<String> {
    let steps = diff(whole, found);
    for step in &steps {
        host.apply(step).await.unwrap();
    }
    steps.iter().map(ToString::to_string).collect()
}

/// Maps in which an entry is there or not, and its value is never looked at.
const WITHOUT_VALUES: [&str; 4] = [names::SOURCES, names::ALLOWANCES, names::HOST_ADDRESSES, names::VTEPS];

/// A map that the plan fills, and what spoils it.
type Spoiled = (&'static str, fn(&Path, Harm));

const MAPS: [Spoiled; 14] = [
    (names::DEVICES, array::<{ size_of::<Device>() }>),
    (names::DEVICES_FAR, hash::<4, { size_of::<Device>() }>),
    (names::ENDPOINTS, hash::<{ size_of::<EndpointKey>() }, { size_of::<Endpoint>() }>),
    (names::PUBLICATIONS, trie::<{ PublicationKey::PLACE }, { size_of::<Publication>() }>),
    (names::SOURCES, trie::<{ SourceKey::PLACE }, 1>),
    (names::ALLOWANCES, hash::<{ size_of::<AllowanceKey>() }, 1>),
    (names::HOST_ADDRESSES, hash::<{ size_of::<Address>() }, 1>),
    (names::SEGMENTS, hash::<4, { size_of::<Segment>() }>),
    (names::REMOTES, hash::<{ size_of::<RemoteKey>() }, { size_of::<Remote>() }>),
    (names::VTEPS, hash::<{ size_of::<VtepKey>() }, 1>),
    (names::MESH, hash::<{ size_of::<EndpointKey>() }, { size_of::<MeshEnd>() }>),
    (names::PEERS, hash::<{ size_of::<PeerKey>() }, { size_of::<Address>() }>),
    (names::SETTINGS, array::<{ size_of::<Settings>() }>),
    (names::RESERVED, array::<{ size_of::<ReservedPorts>() }>),
];

fn one_entry_in_each_map() -> Vec<Step> {
    let list = SourceList::numbered(9);
    let peer = Address::v4([192, 0, 2, 2]);
    let endpoint = EndpointRecord { device: link("wan0"), mtu: 1400, mac: Mac([2; 6]), gateway_mac: Mac([4; 6]) };
    let allowance = AllowanceKey {
        src: address(2),
        dst: address(3),
        port: Port::new(80),
        protocol: TCP,
        zone: Zone(5),
        ..AllowanceKey::default()
    };
    let segment = SegmentRecord {
        tunnel: link("wan0"),
        bridge: link("wan1"),
        underlay_mtu: 1500,
        peers: 1,
        flags: 1,
        port: 4789,
        zone: Zone(5),
        gateway_mac: Mac([2; 6]),
        gateway_ipv4: [10, 176, 0, 1],
        gateway_ipv6: [0; 16],
    };
    let device = DeviceRecord { bridge: Some(link("wan1")), ..uplink() };
    vec![
        Step::PutSettings(settings()),
        Step::PutReserved([PortRange { first: 8080, last: 8090 }].into()),
        Step::PutDevice(link("wan0"), device),
        // It wants the same slot.
        Step::PutDevice(link("wan2"), uplink()),
        Step::PutEndpoint(endpoint_key(), endpoint),
        Step::PutVtep(VtepKey { address: peer, vni: 7 }),
        Step::PutMeshEnd(endpoint_key(), MeshEnd { vtep: peer, vni: 7, mac: Mac([2; 6]), pad: 0 }),
        Step::PutPeer(PeerKey { vni: 7, index: 0 }, peer),
        Step::PutRemote(RemoteKey { address: address(9), vni: 7 }, Remote { vtep: peer, ..Remote::default() }),
        Step::PutSegment(7, segment),
        Step::PutAllowance(allowance),
        Step::PutAddress(peer),
        Step::PutSource(SourceKey::range(list, peer, 32)),
        Step::PutPublication(publication_key(), Publication::new(Zone(5), address(2), 8080, 80).with_sources(list)),
    ]
}

fn turned<const N: usize>(bytes: [u8; N]) -> [u8; N] {
    bytes.map(|byte| !byte)
}

fn opened<T: TryFrom<Map, Error: std::fmt::Debug>>(pin: &Path, kind: fn(MapData) -> Map) -> T {
    T::try_from(kind(MapData::from_pin(pin).unwrap())).unwrap()
}

fn all<K: Pod + Ord, V: Pod>(entries: impl Iterator<Item = Result<(K, V), aya::maps::MapError>>) -> BTreeMap<K, V> {
    let entries: BTreeMap<K, V> = entries.map(Result::unwrap).collect();
    assert!(!entries.is_empty(), "there is something to spoil");
    entries
}

fn hash<const K: usize, const V: usize>(pin: &Path, harm: Harm) {
    let mut map: HashMap<MapData, [u8; K], [u8; V]> = opened(pin, Map::HashMap);
    for (key, value) in all(map.iter()) {
        match harm {
            Harm::Loss => map.remove(&key).unwrap(),
            Harm::Change => map.insert(key, turned(value), 0).unwrap(),
            Harm::Stranger => map.insert(turned(key), value, 0).unwrap(),
        }
    }
}

fn trie<const K: usize, const V: usize>(pin: &Path, harm: Harm) {
    let mut map: LpmTrie<MapData, [u8; K], [u8; V]> = opened(pin, Map::LpmTrie);
    let entries: Vec<_> = map.iter().map(Result::unwrap).collect();
    assert!(!entries.is_empty(), "there is something to spoil");
    for (key, value) in entries {
        match harm {
            Harm::Loss => map.remove(&key).unwrap(),
            Harm::Change => map.insert(&key, turned(value), 0).unwrap(),
            // Of fewer bits than any of netd's.
            Harm::Stranger => map.insert(&Key::new(9, turned(key.data())), value, 0).unwrap(),
        }
    }
}

/// Elements of an array are there for ever: what is taken out is zeroed. Of an array of one there is no other place.
fn array<const V: usize>(pin: &Path, harm: Harm) {
    let mut map: Array<MapData, [u8; V]> = opened(pin, Map::Array);
    let used: Vec<(u32, [u8; V])> = (0..map.len()).map(|slot| (slot, map.get(&slot, 0).unwrap())).collect();
    for (slot, value) in used.into_iter().filter(|(_, value)| value.iter().any(|byte| *byte != 0)) {
        match harm {
            Harm::Loss => map.set(slot, [0; V], 0).unwrap(),
            Harm::Change => map.set(slot, turned(value), 0).unwrap(),
            Harm::Stranger if map.len() > 1 => map.set(slot + 1, value, 0).unwrap(),
            Harm::Stranger => map.set(slot, [7; V], 0).unwrap(),
        }
    }
}
