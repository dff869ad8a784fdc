//! What the packet logic looks up, and the layout of each map.
//!
//! Every key and value here is shared byte for byte with the daemon: padding is explicit and zero, and `bytemuck::Pod`
//! refuses what is not.

mod allowance;
mod flow;
mod hook;
mod overlay;
mod places;
mod publications;
mod settings;
mod sources;
mod time;

use core::ops::ControlFlow;

pub use allowance::AllowanceKey;
pub use flow::{Flow, Fragment, FragmentKey, NextHop, Orphans, Via};
pub use hook::{Counters, Hook, Quote, Scratch, Search};
pub use overlay::{
    DECRYPTED, MeshEnd, OUTER_TTL, PEERS_MAX, PeerKey, Remote, RemoteKey, Segment, Station, StationKey, TunnelKey,
    VtepKey, overhead, segment_flags,
};
pub use places::{DEVICE_SLOTS, Device, DeviceKind, Dialled, DialledKey, Endpoint, EndpointKey, Led, device_flags};
pub use publications::{Publication, PublicationKey, Publications};
pub use settings::{CURSORS, Firewall, PortRange, ReservedPorts, Routing, SEARCHES, Settings, Timeout, firewall_flags};
pub use sources::{SourceKey, SourceList};
pub use time::{Instant, Span};

use crate::{
    conntrack::Noted,
    tuple::{Address, Tuple},
    verdict::DropReason,
};

/// Part of the directory that maps are pinned in. A change of any layout below takes the next number.
pub const LAYOUT: &str = "v7";

/// Names of the maps, as the object has them and as they are pinned.
pub mod names {
    /// [`Tuple`](super::Tuple) → [`Flow`](super::Flow), hash.
    pub const FLOWS: &str = "FLOWS";
    /// [`slot`](super::Device::slot) → [`Device`](super::Device), array of [`DEVICE_SLOTS`](super::DEVICE_SLOTS).
    pub const DEVICES: &str = "DEVICES";
    /// Interface index → [`Device`](super::Device), hash, for those whose slot is another's.
    pub const DEVICES_FAR: &str = "DEVICES_FAR";
    /// [`EndpointKey`](super::EndpointKey) → [`Endpoint`](super::Endpoint), hash.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// [`PublicationKey`](super::PublicationKey) → [`Publication`](super::Publication), longest-prefix-match trie.
    pub const PUBLICATIONS: &str = "PUBLICATIONS";
    /// [`SourceKey`](super::SourceKey) → nothing of meaning, longest-prefix-match trie.
    pub const SOURCES: &str = "SOURCES";
    /// [`AllowanceKey`](super::AllowanceKey) → nothing of meaning, hash.
    pub const ALLOWANCES: &str = "ALLOWANCES";
    /// [`Address`](super::super::tuple::Address) of the host → nothing of meaning, hash.
    pub const HOST_ADDRESSES: &str = "HOST_ADDRESSES";
    /// A socket → [`Led`](super::Led), socket storage.
    pub const LED: &str = "LED";
    /// [`DialledKey`](super::DialledKey) → [`Dialled`](super::Dialled), LRU hash.
    pub const DIALLED: &str = "DIALLED";
    /// VNI → [`Segment`](super::Segment), hash.
    pub const SEGMENTS: &str = "SEGMENTS";
    /// [`RemoteKey`](super::RemoteKey) → [`Remote`](super::Remote), hash.
    pub const REMOTES: &str = "REMOTES";
    /// [`VtepKey`](super::VtepKey) → nothing of meaning, hash.
    pub const VTEPS: &str = "VTEPS";
    /// [`EndpointKey`](super::EndpointKey) → [`MeshEnd`](super::MeshEnd), hash.
    pub const MESH: &str = "MESH";
    /// [`PeerKey`](super::PeerKey) → [`Address`](super::super::tuple::Address), hash.
    pub const PEERS: &str = "PEERS";
    /// [`StationKey`](super::StationKey) → [`Station`](super::Station), LRU hash.
    pub const STATIONS: &str = "STATIONS";
    /// 0 → [`Settings`](super::Settings), array of one.
    pub const SETTINGS: &str = "SETTINGS";
    /// Destination bucket → how many places of the pools were looked at for it, array of [`CURSORS`](super::CURSORS).
    pub const CURSORS: &str = "CURSORS";
    /// 0 → [`Instant`](super::Instant) at which the host's routing was last heard to have changed, array of one.
    pub const WAYS: &str = "WAYS";
    /// 0 → [`ReservedPorts`](super::ReservedPorts), array of one.
    pub const RESERVED: &str = "RESERVED";
    /// Ports tried, 0 for a search that failed → how many searches for a port, per CPU, array of
    /// [`SEARCHES`](super::SEARCHES).
    pub const SEARCHES: &str = "SEARCHES";
    /// 0 → 1 once a flow of the host's own was given another port, array of one.
    pub const GUARD: &str = "GUARD";
    /// [`Tuple`](super::Tuple) of each flow's first packet, the oldest first, queue.
    pub const AGES: &str = "AGES";
    /// [`Tuple`](super::Tuple) of each connection that waits for nf_conntrack to bear gaps, ring buffer.
    pub const UNFOLLOWED: &str = "UNFOLLOWED";
    /// [`FragmentKey`](super::FragmentKey) → [`Fragment`](super::Fragment), LRU hash.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// [`FragmentKey`](super::FragmentKey) → [`Orphans`](super::Orphans), LRU hash, not pinned.
    pub const ORPHANS: &str = "ORPHANS";
    /// [`Hook`](super::Hook) → the hook's [`Counters`](super::Counters), per CPU, array.
    pub const COUNTERS: &str = "COUNTERS";
    /// Hook → [`Scratch`](super::Scratch), per CPU, array.
    pub const SCRATCH: &str = "SCRATCH";
}

/// Why a place in the flow table was not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimError {
    /// Another flow has it.
    Taken,
    /// The table is full.
    Full,
    /// The kernel refused for the moment: the bucket is locked on this CPU, or its allocator empty. Another try may do.
    Busy,
}

impl ClaimError {
    /// What an insertion that must find no entry answers, as `bpf_map_update_elem` does: an error's number below zero.
    #[inline(always)]
    pub const fn of(answer: i32) -> Self {
        match answer {
            // EEXIST.
            -17 => Self::Taken,
            // E2BIG.
            -7 => Self::Full,
            // ENOMEM, EBUSY, and what has been EBUSY's place since 6.15 (EDEADLK, ETIMEDOUT): all of the moment.
            _ => Self::Busy,
        }
    }
}

/// What the host's routing says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// It leaves by the next hop that was filled in.
    Forward,
    /// It is for the host itself.
    Local,
    /// There is no way, or none that a program may take: the stack must answer.
    Stack,
}

/// What the kernel's `bpf_fib_lookup` returns (`BPF_FIB_LKUP_RET_*` in linux/bpf.h).
pub mod fib {
    /// The next hop and its neighbour are known.
    pub const SUCCESS: i64 = 0;
    /// A route that drops in silence.
    pub const BLACKHOLE: i64 = 1;
    /// A route that refuses as unreachable.
    pub const UNREACHABLE: i64 = 2;
    /// A route that refuses as prohibited.
    pub const PROHIBIT: i64 = 3;
    /// For the host itself or a group, or nowhere.
    pub const NOT_FORWARDED: i64 = 4;
    /// The device it came by does not forward.
    pub const FORWARDING_DISABLED: i64 = 5;
    /// The route puts it into a tunnel.
    pub const ENCAPSULATED: i64 = 6;
    /// The next hop is known, its neighbour not.
    pub const NO_NEIGHBOUR: i64 = 7;
    /// It does not fit. Not of a question of one byte.
    pub const FRAGMENTATION_NEEDED: i64 = 8;
    /// No source address is known for the route. Not of a question without the flag that asks for one.
    pub const NO_SOURCE_ADDRESS: i64 = 9;
}

impl Route {
    /// What an answer of [`fib`] comes to. Whatever is no way for a program is the stack's to take, answer or drop.
    #[inline(always)]
    pub const fn of_fib(answer: i64) -> Self {
        match answer {
            // The neighbour is the sending's to find.
            fib::SUCCESS | fib::NO_NEIGHBOUR => Self::Forward,
            // Also what has no route at all: either way the stack knows what to say.
            fib::NOT_FORWARDED => Self::Local,
            _ => Self::Stack,
        }
    }
}

/// What the packet logic looks up and keeps.
pub trait Tables: Publications {
    /// An element of the flow table, once it is found. It stays an element while the packet is in hand, though it may be freed and given
    /// to another key meanwhile: who reads it or writes to it makes sure.
    type Place: Copy;

    /// This moment.
    fn now(&self) -> Instant;

    /// The record of a device.
    fn device(&self, ifindex: u32) -> Option<&Device>;

    /// Whether an address is the host's, gateways of its networks included; those of one link are not known.
    fn is_hosts(&self, address: &Address) -> bool;

    /// The container at an address of a network.
    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint>;

    /// Whether a list of sources has this address.
    fn is_source(&self, key: &SourceKey) -> bool;

    /// Whether this is allowed between two containers.
    fn allows(&self, key: &AllowanceKey) -> bool;

    /// The segment with this VNI.
    fn segment(&self, vni: u32) -> Option<&Segment>;

    /// The container of another host at an address of a segment.
    fn remote(&self, key: &RemoteKey) -> Option<&Remote>;

    /// Whether a host may send into a segment.
    fn is_vtep(&self, key: &VtepKey) -> bool;

    /// Another host's end of what is published on every host.
    fn mesh_end(&self, key: &EndpointKey) -> Option<&MeshEnd>;

    /// One of the hosts that a segment floods to.
    fn peer(&self, key: &PeerKey) -> Option<&Address>;

    /// Copies what is known of a station; false if nothing is.
    fn station(&self, key: &StationKey, station: &mut Station) -> bool;

    /// Keeps what was heard of a station, in place of what was known.
    fn keep_station(&self, key: &StationKey, station: &Station);

    /// Counts a packet of a hook that is dropped and answered.
    fn count_drop(&self, hook: Hook, reason: DropReason);

    /// The settings; `None` before the daemon has written them.
    fn settings(&self) -> Option<&Settings>;

    /// How many places of the pools were looked at for this bucket so far, counting this one.
    fn cursor(&self, bucket: u32) -> u32;

    /// Whether the host's operator keeps this port from being picked (`net.ipv4.ip_local_reserved_ports`).
    fn is_reserved(&self, port: u16) -> bool;

    /// Counts a search for a port that tried this many, 0 for one that failed.
    fn count_search(&self, tried: u32);

    /// Whether a flow of the host's own was ever given another port ([`guard`](crate::guard)).
    fn guards(&self) -> bool;

    /// From now on one may have been.
    fn start_guarding(&self);

    /// Copies the flow with this key; false if there is none.
    #[inline(always)]
    fn flow(&self, key: &Tuple, flow: &mut Flow) -> bool {
        self.place(key).map(|place| self.read(place, flow)).is_some()
    }

    /// Finds the flow with this key.
    fn place(&self, key: &Tuple) -> Option<Self::Place>;

    /// Copies the flow at a place.
    fn read(&self, place: Self::Place, flow: &mut Flow);

    /// Inserts a flow where none is.
    fn claim(&self, key: &Tuple, flow: &Flow) -> Result<(), ClaimError>;

    /// Takes a flow out, if it is there.
    fn release(&self, key: &Tuple);

    /// Takes a flow out if it [still is](Flow::is_still) what was seen of it, and true then: of two that would take it out one does,
    /// and what another has put in its place meanwhile stays.
    fn release_seen(&self, key: &Tuple, seen: &Flow) -> bool;

    /// Writes what a packet of `direction` noted into the flow at a place, by [`write_note`](crate::conntrack::write_note).
    fn note(&self, place: Self::Place, noted: &Flow, direction: u8) -> Noted;

    /// Writes how the flow with this key stands to the host's firewall, in place, by
    /// [`write_passage`](crate::firewall::write_passage).
    fn put_passage(&self, key: &Tuple, flow: &Flow);

    /// Asks the daemon to have nf_conntrack bear gaps in the connection with this tuple of packets that its container sends. It may
    /// be lost: who waits asks again.
    fn ask_to_follow(&self, key: &Tuple);

    /// Puts the tuple of a flow's first packet behind the others; false if there is no room.
    fn put_youngest(&self, key: &Tuple) -> bool;

    /// Takes the tuple out that was put longest ago; false if there is none.
    fn take_oldest(&self, key: &mut Tuple) -> bool;

    /// Copies what the first fragment of a packet said; false if none has come by.
    fn fragment(&self, key: &FragmentKey, fragment: &mut Fragment) -> bool;

    /// Keeps what a first fragment says, in place of what an earlier one with the same key said.
    fn keep_fragment(&self, key: &FragmentKey, fragment: &Fragment);

    /// Copies what is known of a packet's fragments that came before its first; false if none did.
    fn orphans(&self, key: &FragmentKey, orphans: &mut Orphans) -> bool;

    /// Keeps that, in place of what was known.
    fn keep_orphans(&self, key: &FragmentKey, orphans: Orphans);

    /// Counts packets as dropped that an earlier verdict let go to where they end.
    fn count_lost(&self, reason: DropReason, count: u32);

    /// Calls `round` until it breaks, at most `times` times. Loops that look things up go by this: the kernel's verifier then
    /// follows one round instead of every path through all of them.
    fn repeat<F: FnMut() -> ControlFlow<()>>(&self, times: u32, round: F);

    /// Whether a socket of the host would get the answers to a packet with this tuple.
    fn has_socket(&self, tuple: &Tuple) -> bool;

    /// Whether a UDP socket of the host is connected to the sender of a packet with this tuple, and would get it.
    fn has_connected(&self, tuple: &Tuple) -> bool;

    /// Whether a socket at exactly its destination, and not at every address, would get a packet with this IPv4 tuple, in the
    /// namespace that the packet is in.
    fn has_socket_at(&self, tuple: &Tuple) -> bool;

    /// Asks the host's routing for the way of a packet with this mark that enters by `input`, and fills in the next hop; an MTU of
    /// 0 says that the route has none of its own. Kernels before 6.10 cannot be asked for another mark than 0: the stack knows.
    fn route(&self, input: u32, mark: u32, tuple: &Tuple, next: &mut NextHop) -> Route;

    /// When that was last heard to have changed.
    fn ways_changed(&self) -> Instant;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_kernels_routing_has_an_action() {
        let answers = [
            (fib::SUCCESS, Route::Forward),
            (fib::BLACKHOLE, Route::Stack),
            (fib::UNREACHABLE, Route::Stack),
            (fib::PROHIBIT, Route::Stack),
            (fib::NOT_FORWARDED, Route::Local),
            (fib::FORWARDING_DISABLED, Route::Stack),
            (fib::ENCAPSULATED, Route::Stack),
            (fib::NO_NEIGHBOUR, Route::Forward),
            (fib::FRAGMENTATION_NEEDED, Route::Stack),
            (fib::NO_SOURCE_ADDRESS, Route::Stack),
            // One that this version does not know, and the refusals of the helper itself (EINVAL, ENODEV).
            (10, Route::Stack),
            (-22, Route::Stack),
            (-19, Route::Stack),
        ];
        for (answer, route) in answers {
            assert_eq!(Route::of_fib(answer), route, "{answer}");
        }
    }
}
