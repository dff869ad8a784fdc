//! The chapters of a packet's story, each a function that the verifier reads by itself: one with C's calling convention and a name
//! of its own has global linkage in the object's BTF, takes the context and numbers, and
//! gives a number back. The scratch, which kernels before 6.3 take for no key of a map once it is an argument, each finds itself.

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;
use netd_common::{
    chapter::{self, Chapter},
    verdict::{DropReason, Packed},
};

use crate::{
    maps::{self, Maps},
    skb::Skb,
};

macro_rules! chapters {
    ($($chapter:ident: $plain:ident, $layer3:ident;)+) => {
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $plain(skb: *mut __sk_buff, hook: u64, with: u64) -> u64 {
                tell::<false>(Chapter::$chapter, skb, hook, with).word()
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $layer3(skb: *mut __sk_buff, hook: u64, with: u64) -> u64 {
                tell::<true>(Chapter::$chapter, skb, hook, with).word()
            }
        )+

        /// Calls the function of a chapter, of packets without an Ethernet header where `LAYER3`.
        #[inline(always)]
        pub fn call<const LAYER3: bool>(
            chapter: Chapter,
            skb: *mut __sk_buff,
            hook: u64,
            with: u64,
        ) -> Packed {
            Packed::of_word(match chapter {
                $(
                    Chapter::$chapter if LAYER3 => $layer3(skb, hook, with),
                    Chapter::$chapter => $plain(skb, hook, with),
                )+
            })
        }
    };
}

chapters! {
    Note: note, l3_note;
    Make: make, l3_make;
    Search: search, l3_search;
    Rewrite: rewrite, l3_rewrite;
    RewriteError: rewrite_error, l3_rewrite_error;
    Refuse: refuse, l3_refuse;
    Arp: arp, l3_arp;
    Discovery: discovery, l3_discovery;
    Leave: leave, l3_leave;
    LeadContainer: lead_container, l3_lead_container;
    ErrorByContainer: error_by_container, l3_error_by_container;
    LeadFromOutside: lead_from_outside, l3_lead_from_outside;
    ErrorFromOutside: error_from_outside, l3_error_from_outside;
    Forwarded: forwarded, l3_forwarded;
    LeaveForwarded: leave_forwarded, l3_leave_forwarded;
    OfHost: of_host, l3_of_host;
    ErrorByHost: error_by_host, l3_error_by_host;
    IntoTunnel: into_tunnel, l3_into_tunnel;
    PassOn: pass_on, l3_pass_on;
    ErrorFromOverlay: error_from_overlay, l3_error_from_overlay;
    LeadApart: lead_apart, l3_lead_apart;
}

#[inline(always)]
fn tell<const LAYER3: bool>(chapter: Chapter, skb: *mut __sk_buff, hook: u64, with: u64) -> Packed {
    // What the chapter of a name does not use LLVM would not have its callers pass, and the verifier misses it.
    // SAFETY: two instructions that leave two registers of ours as they are.
    unsafe {
        asm!("{skb} = {skb}", "{with} = {with}", skb = in(reg) skb, with = in(reg) with, options(nomem, nostack))
    };
    let Some(scratch) = maps::scratch(hook as u32) else { return chapter::settle(Err(DropReason::Refused)) };
    chapter::tell(chapter, &mut Skb::<LAYER3>::new(skb, hook as u32), &Maps::new(skb), scratch, with)
}
