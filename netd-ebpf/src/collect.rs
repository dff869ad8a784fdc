//! The collector: reads the daemon's order from the packet and hands each tuple to `netd-common`.

use core::{mem::size_of, ops::ControlFlow};

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use netd_common::{
    evict::{self, COLLECT_MAX, CollectOrder, Evict, FOLLOW},
    firewall,
    tables::Tables,
    tuple::Tuple,
};

use crate::maps::{self, Maps};

/// Does as the order says; to how many flows.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let tables = Maps::new(ctx.skb.skb);
    let Ok(order) = ctx.load::<[u32; size_of::<CollectOrder>() / 4]>(0) else { return 0 };
    let [which, count, ..] = order;
    let Some(s) = maps::orders_scratch(which) else { return 0 };
    let now = tables.now();
    let mut done_to = 0;
    s.search.tried = 0;
    tables.repeat(COLLECT_MAX, || {
        let n = s.search.tried;
        s.search.tried = n.wrapping_add(1);
        if n >= count || n >= COLLECT_MAX {
            return ControlFlow::Break(());
        }
        let at = size_of::<CollectOrder>() as u32 + n * size_of::<Tuple>() as u32;
        // SAFETY: the context in hand, and room for the tuple that is asked for.
        let loaded = unsafe {
            bpf_skb_load_bytes(ctx.skb.skb.cast(), at, (&raw mut s.evicted_key).cast(), size_of::<Tuple>() as u32)
        };
        if loaded != 0 {
            return ControlFlow::Break(());
        }
        let done = if which == FOLLOW {
            s.key = s.evicted_key;
            firewall::follow(&tables, s)
        } else {
            evict::collect(&tables, s, now, Evict::from(which))
        };
        done_to += i32::from(done);
        ControlFlow::Continue(())
    });
    done_to
}
