//! Where a packet goes by a VXLAN device, and whence one came: the kernel's tunnel keys.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key, bpf_tunnel_key__bindgen_ty_1,
        bpf_tunnel_key__bindgen_ty_2, bpf_tunnel_key__bindgen_ty_3,
    },
    helpers::generated::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key},
};
use netd_common::{
    tables::{OUTER_TTL, TunnelKey},
    tuple::Address,
};

/// Bytes of a tunnel's key without the local address: the kernel's routing picks one (and kernels before 6.0 know none).
const TUNNEL_KEY: u32 = offset_of!(bpf_tunnel_key, __bindgen_anon_3) as u32;

/// Tells the VXLAN device that the packet goes to next where to. Over IPv4 without a checksum of the outer datagram, which RFC
/// 7348 asks for; over IPv6 with one (RFC 8200 section 8.1).
#[inline(never)]
pub fn set_tunnel_key(skb: *mut __sk_buff, to: &TunnelKey) -> bool {
    let mut key = tunnel_key();
    key.tunnel_id = to.vni;
    key.tunnel_ttl = OUTER_TTL;
    let flags = if to.vtep.is_v4() {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(to.vtep.v4_bytes());
        BPF_F_ZERO_CSUM_TX
    } else {
        key.__bindgen_anon_1.remote_ipv6 = to.vtep.words();
        BPF_F_TUNINFO_IPV6
    };
    // SAFETY: the context in hand, and a key of which that many bytes are told.
    unsafe { bpf_skb_set_tunnel_key(skb, &raw mut key, TUNNEL_KEY, flags.into()) == 0 }
}

/// Whether a packet came through a tunnel, and then from where. The kernel tells of one family at a time.
#[inline(always)]
pub fn came_through(skb: *mut __sk_buff, from: &mut TunnelKey) -> bool {
    let mut key = tunnel_key();
    // SAFETY: the context in hand, and a key with room for that many bytes.
    if unsafe { bpf_skb_get_tunnel_key(skb, &raw mut key, TUNNEL_KEY, 0) } == 0 {
        // SAFETY: of an IPv4 tunnel the kernel fills this member in; every byte of the union is defined.
        let vtep = Address::v4(unsafe { key.__bindgen_anon_1.remote_ipv4 }.to_be_bytes());
        *from = TunnelKey { vtep, vni: key.tunnel_id };
        return true;
    }
    // SAFETY: as above.
    if unsafe { bpf_skb_get_tunnel_key(skb, &raw mut key, TUNNEL_KEY, BPF_F_TUNINFO_IPV6.into()) } == 0 {
        // SAFETY: of an IPv6 tunnel the kernel fills this member in.
        let vtep = Address::from_words(unsafe { key.__bindgen_anon_1.remote_ipv6 });
        *from = TunnelKey { vtep, vni: key.tunnel_id };
        return true;
    }
    false
}

#[inline(always)]
const fn tunnel_key() -> bpf_tunnel_key {
    bpf_tunnel_key {
        tunnel_id: 0,
        __bindgen_anon_1: bpf_tunnel_key__bindgen_ty_1 { remote_ipv6: [0; 4] },
        tunnel_tos: 0,
        tunnel_ttl: 0,
        __bindgen_anon_2: bpf_tunnel_key__bindgen_ty_2 { tunnel_ext: 0 },
        tunnel_label: 0,
        __bindgen_anon_3: bpf_tunnel_key__bindgen_ty_3 { local_ipv6: [0; 4] },
    }
}
