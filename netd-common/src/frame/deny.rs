//! What a published port does not let in (`from=`) is dropped: what `from_uplink` would drop for the same reason.

use super::Tables;
use crate::{
    tables::{Publication, PublicationKey, Scratch, SourceKey},
    tuple::UDP,
};

/// Whether what the tuple in `s.key` opens is at a published port that is not for its source. `None` where nothing is published.
#[inline(always)]
pub fn is_denied<T: Tables>(t: &T, s: &mut Scratch) -> Option<bool> {
    let publication = publication(t, s)?;
    if publication.sources.is_anyone() {
        return Some(false);
    }
    s.source = SourceKey::new(publication.sources, s.key.src);
    // What goes on with a flow is its flow's: an answer to a container that asked before the port was published. So is an answer
    // to a socket of the host the socket's.
    Some(!t.is_source(&s.source) && !t.has_flow(&s.key) && (s.key.protocol != UDP || !t.has_connected(&s.key)))
}

/// The publication that the tuple in `s.key` knocks at.
#[inline(always)]
fn publication<T: Tables>(t: &T, s: &mut Scratch) -> Option<Publication> {
    s.publication = PublicationKey::new(s.key.dst, s.key.protocol, s.key.dst_port);
    if let Some(publication) = t.publication(&mut s.publication) {
        return Some(*publication);
    }
    if !t.is_hosts(&s.key.dst) {
        return None;
    }
    s.publication = PublicationKey::new(s.key.dst.any_of_family(), s.key.protocol, s.key.dst_port);
    t.publication(&mut s.publication).copied()
}
