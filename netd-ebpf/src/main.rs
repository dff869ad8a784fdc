//! netd's programs: one function per hook, which hands the packet or the call to `netd-common` and its verdict to the kernel.
//!
//! No decision is made here. `skb` adapts the packet, `xdp` the frame, `sock` the call of a socket, `maps` the tables.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "the classifier macro makes an undocumented function of each documented one")]

mod bytes;
mod chapters;
mod collect;
mod maps;
mod skb;
mod sock;
mod tunnel;
mod xdp;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use netd_common::{hooks, sock::Speaks, tables::Hook};

use crate::{
    maps::Maps,
    skb::Skb,
    sock::{V4, V6},
};

/// Ingress of a container's host-side veth.
#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    run::<false>(Hook::FromContainer, ctx)
}

/// Egress of a container's host-side veth.
#[classifier]
pub fn to_container(ctx: TcContext) -> i32 {
    run::<false>(Hook::ToContainer, ctx)
}

/// Ingress of an uplink.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    run::<false>(Hook::FromUplink, ctx)
}

/// Egress of an uplink.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    run::<false>(Hook::ToUplink, ctx)
}

/// Ingress of an uplink of layer 3.
#[classifier]
pub fn from_l3_uplink(ctx: TcContext) -> i32 {
    run::<true>(Hook::FromL3Uplink, ctx)
}

/// Egress of an uplink of layer 3.
#[classifier]
pub fn to_l3_uplink(ctx: TcContext) -> i32 {
    run::<true>(Hook::ToL3Uplink, ctx)
}

/// An uplink's driver.
#[xdp]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    xdp::run(&ctx)
}

/// Takes flows out that the daemon found to be over. Attached nowhere: the daemon runs it on packets of its own making.
#[classifier]
pub fn collect(ctx: TcContext) -> i32 {
    collect::run(&ctx)
}

/// A socket of the host connects.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    sock::dial::<V4>(&ctx, Speaks::V4)
}

/// An IPv6 socket of the host connects.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    sock::dial::<V6>(&ctx, Speaks::Both)
}

/// A socket of the host without a peer sends a datagram.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::dial::<V4>(&ctx, Speaks::V4)
}

/// An IPv6 socket of the host without a peer sends a datagram.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::dial::<V6>(&ctx, Speaks::V6)
}

/// A socket of the host is told where a datagram came from.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::peer::<V4>(&ctx)
}

/// An IPv6 socket of the host is told where a datagram came from.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::peer::<V6>(&ctx)
}

/// A socket of the host is told with whom it is connected.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    sock::peer::<V4>(&ctx)
}

/// An IPv6 socket of the host is told with whom it is connected.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    sock::peer::<V6>(&ctx)
}

/// A socket of the host wants an address.
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    sock::bind::<V4>(&ctx)
}

/// An IPv6 socket of the host wants an address.
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    sock::bind::<V6>(&ctx)
}

/// Ingress of the VXLAN device of a port.
#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    run::<false>(Hook::FromOverlay, ctx)
}

/// Egress of a network's bridge.
#[classifier]
pub fn from_host(ctx: TcContext) -> i32 {
    run::<false>(Hook::FromHost, ctx)
}

/// Egress of a container's loopback device.
#[classifier]
pub fn dns_lo(ctx: TcContext) -> i32 {
    run::<false>(Hook::DnsLo, ctx)
}

/// `LAYER3` says that packets at this hook have no Ethernet header. A constant and not a field: a program of its own costs the
/// others nothing, neither a look at the device nor an offset that the verifier must follow.
#[inline(always)]
fn run<const LAYER3: bool>(hook: Hook, ctx: TcContext) -> i32 {
    let mut skb = Skb::<LAYER3>::new(ctx.skb.skb, hook as u32);
    let (Some(scratch), Some(counters)) = (maps::scratch(hook as u32), maps::counters(hook)) else {
        // Not reachable: both have an element for every hook. Container traffic would fail closed all the same.
        let container = matches!(hook, Hook::FromContainer | Hook::ToContainer | Hook::FromOverlay);
        return if container { skb::DROP } else { skb::PASS };
    };
    let verdict = hooks::run(hook, &mut skb, &Maps::new(ctx.skb.skb), scratch);
    counters.count(verdict);
    #[cfg(feature = "log")]
    log_drop(&ctx, hook, verdict);
    skb.act(verdict, scratch)
}

/// Tells the daemon of a dropped packet: its hook, device and reason, by their numbers.
#[cfg(feature = "log")]
#[inline(always)]
fn log_drop(ctx: &TcContext, hook: Hook, verdict: netd_common::verdict::Packed) {
    if verdict.action() == netd_common::verdict::Action::Drop {
        // SAFETY: a field of the context in hand.
        let device = unsafe { (*ctx.skb.skb).ifindex };
        aya_log_ebpf::debug!(
            ctx,
            "hook {} device {} drop reason {}",
            hook as u8,
            device,
            (verdict.counter() - netd_common::verdict::Packed::SENT) as u32
        );
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The helpers that rewrite and redirect packets ask for a GPL-compatible licence by this name.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
