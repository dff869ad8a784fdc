//! What the program in an uplink's driver asks of a host, and the buffer that its frames are in.

use netd_common::{
    frame,
    tables::{Device, EndpointKey, Flow, Instant, MeshEnd, NextHop, Segment, Settings, SourceKey, Tables},
    tuple::{Address, Tuple},
};

use super::{RouteTo, World};

/// A frame in a driver's buffer.
pub(super) struct Buffer<'a> {
    pub(super) device: u32,
    pub(super) bytes: &'a mut Vec<u8>,
}

impl frame::Frame for Buffer<'_> {
    fn device(&self) -> u32 {
        self.device
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at + N)?.try_into().ok()
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        self.bytes.get_mut(at..at + N).map(|place| place.copy_from_slice(&bytes))
    }

    fn prepend(&mut self, bytes: usize) -> Option<()> {
        self.bytes.splice(0..0, std::iter::repeat_n(0xee, bytes));
        Some(())
    }

    fn cut(&mut self, length: usize) -> Option<()> {
        (length <= self.bytes.len()).then(|| self.bytes.truncate(length))
    }
}

impl frame::Tables for World {
    fn now(&self) -> Instant {
        Tables::now(self)
    }

    fn settings(&self) -> Option<&Settings> {
        Tables::settings(self)
    }

    fn device(&self, ifindex: u32) -> Option<&Device> {
        Tables::device(self, ifindex)
    }

    fn is_source(&self, key: &SourceKey) -> bool {
        Tables::is_source(self, key)
    }

    fn is_hosts(&self, address: &Address) -> bool {
        Tables::is_hosts(self, address)
    }

    fn has_flow(&self, tuple: &Tuple) -> bool {
        self.flows.borrow().contains_key(tuple)
    }

    fn flow(&self, key: &Tuple, flow: &mut Flow) -> bool {
        Tables::flow(self, key, flow)
    }

    fn has_connected(&self, tuple: &Tuple) -> bool {
        Tables::has_connected(self, tuple)
    }

    fn segment(&self, vni: u32) -> Option<&Segment> {
        Tables::segment(self, vni)
    }

    fn mesh_end(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        Tables::mesh_end(self, key)
    }

    fn find_way_back(&self, device: u32, tuple: &Tuple, length: u32, next: &mut NextHop) -> bool {
        let Some(RouteTo::Device(by, mtu, via)) = self.route_to(0, tuple.dst) else { return false };
        let Some([neighbour, own]) = self.neighbours.get(&via.unwrap_or(tuple.dst)) else { return false };
        *next = NextHop::peer(by, 0, *neighbour, *own);
        by == device && length <= mtu
    }

    fn random(&self) -> u32 {
        self.random.get()
    }
}
