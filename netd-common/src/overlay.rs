//! Networks that span hosts.

use crate::{
    hooks::Decided,
    packet::{Label, Packet},
    tables::{Scratch, Tables},
    verdict::DropReason,
};

/// Ingress of the VXLAN device of a port: what other hosts send into the networks of this one.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(p: &mut P, _: &T, _: &mut Scratch) -> Decided {
    p.set_label(Label::None);
    Err(DropReason::UnknownSegment)
}
