//! Published ports: which container answers where a client knocks.

use crate::tables::{Publication, PublicationKey, Route, Scratch, Tables};

/// The publication that a packet with the tuple `s.key` knocks at: of exactly its destination, or of every address if the
/// destination is the host's own. Traffic in transit to the same port is nobody's.
#[inline(always)]
pub fn at<T: Tables>(t: &T, s: &mut Scratch, input: u32) -> Option<Publication> {
    s.publication = PublicationKey::new(s.key.dst, s.key.protocol, s.key.dst_port);
    if let Some(publication) = t.publication(&s.publication) {
        return Some(*publication);
    }
    // An answer to another host of one link would have to say which: such a client is the host's own.
    if s.key.dst.is_link_local() {
        return None;
    }
    s.publication.address = s.key.dst.any_of_family();
    let publication = *t.publication(&s.publication)?;
    (t.route(input, &s.key, &mut s.flow.next) == Route::Local).then_some(publication)
}
