//! What a call of a socket and a frame in an uplink's driver see of the maps.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_prandom_u32, bpf_get_socket_cookie},
    programs::{SockAddrContext, XdpContext},
};
use netd_common::{
    frame, sock,
    tables::{
        Device, Dialled, DialledKey, EndpointKey, Flow, Instant, Led, MeshEnd, NextHop, Publication, PublicationKey,
        Publications, Segment, Settings, SourceKey, segment_flags,
    },
    tuple::{Address, Port, Tuple},
};

use super::{
    DIALLED, FLOWS, HOST_ADDRESSES, LED,
    ask::{find_way_back, has_connected, has_server},
    device, flow_into, is_source, mesh_end, now, published, segment, settings,
};

/// Those that a call of a socket sees.
pub struct Sockets {
    context: *mut bpf_sock_addr,
}

impl Sockets {
    /// The maps for the call of this context.
    #[inline(always)]
    pub fn new(context: *mut bpf_sock_addr) -> Self {
        Self { context }
    }
}

impl Publications for Sockets {
    #[inline(always)]
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        published(question)
    }
}

impl sock::Places for Sockets {
    #[inline(always)]
    fn is_source(&self, key: &SourceKey) -> bool {
        is_source(key)
    }

    #[inline(always)]
    fn elsewhere(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        mesh_end(key)
    }
}

impl sock::Tables for Sockets {
    #[inline(always)]
    fn is_hosts(&self, address: &Address) -> bool {
        HOST_ADDRESSES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn is_encrypted(&self, vni: u32) -> bool {
        segment(vni).is_none_or(|segment| segment.has(segment_flags::ENCRYPTED))
    }

    #[inline(always)]
    fn has_server(&self, protocol: u8, address: Address, port: Port) -> bool {
        has_server(self.context.cast(), protocol, &address, port)
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context in hand.
        unsafe { bpf_get_socket_cookie(self.context.cast()) }
    }

    #[inline(always)]
    fn led(&self) -> Option<&Led> {
        // SAFETY: the context in hand holds its socket, which keeps the value.
        unsafe { LED.get_ptr_mut(&SockAddrContext::new(self.context)).as_ref() }
    }

    #[inline(always)]
    fn keep_led(&self, led: &Led) {
        let mut first = *led;
        // SAFETY: as above. Without memory for it the socket is told the container's own address, and stays when its port goes.
        let kept = unsafe { LED.get_or_insert_ptr_mut(&SockAddrContext::new(self.context), Some(&mut first)) };
        if !kept.is_null() {
            // SAFETY: it has just been looked at. Who reads it meanwhile, in another call of this socket, sees parts of two.
            unsafe { kept.write(*led) };
        }
    }

    #[inline(always)]
    fn dialled(&self, key: &DialledKey) -> Option<&Dialled> {
        // SAFETY: as for devices; what another socket's call makes of the element tells a wrong name and no more.
        unsafe { DIALLED.get(key) }
    }

    #[inline(always)]
    fn keep_dialled(&self, key: &DialledKey, dialled: &Dialled) {
        // Without it the socket is told the container's own address.
        let _ = DIALLED.insert(key, dialled, 0);
    }
}

/// Those that a frame sees before it is a packet.
pub struct Early {
    context: *mut c_void,
}

impl Early {
    /// The maps for the frame of this context.
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { context: context.ctx.cast() }
    }
}

impl Publications for Early {
    #[inline(always)]
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        published(question)
    }
}

impl frame::Tables for Early {
    #[inline(always)]
    fn now(&self) -> Instant {
        now()
    }

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        settings()
    }

    #[inline(always)]
    fn device(&self, ifindex: u32) -> Option<&Device> {
        device(ifindex)
    }

    #[inline(always)]
    fn flow(&self, key: &Tuple, flow: &mut Flow) -> bool {
        flow_into(key, flow)
    }

    #[inline(always)]
    fn segment(&self, vni: u32) -> Option<&Segment> {
        segment(vni)
    }

    #[inline(always)]
    fn mesh_end(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        mesh_end(key)
    }

    #[inline(always)]
    fn find_way_back(&self, device: u32, tuple: &Tuple, length: u32, next: &mut NextHop) -> bool {
        find_way_back(self.context, device, tuple, length, next)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn is_source(&self, key: &SourceKey) -> bool {
        is_source(key)
    }

    #[inline(always)]
    fn is_hosts(&self, address: &Address) -> bool {
        HOST_ADDRESSES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn has_flow(&self, tuple: &Tuple) -> bool {
        FLOWS.get_ptr(tuple).is_some()
    }

    #[inline(always)]
    fn has_connected(&self, tuple: &Tuple) -> bool {
        has_connected(self.context, tuple)
    }
}
