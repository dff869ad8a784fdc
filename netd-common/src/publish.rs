//! Published ports: which container answers where a client knocks.

use crate::{
    forward,
    tables::{Device, Publication, PublicationKey, Route, Scratch, SourceKey, SourceList, Tables, Via},
    tuple::UDP,
    verdict::DropReason,
};

/// The publication that a packet with the tuple `s.key` knocks at: of exactly its destination, or of every address if the
/// destination is the host's own. Traffic in transit to the same port is nobody's.
#[inline(always)]
pub fn at<T: Tables>(t: &T, s: &mut Scratch, input: u32) -> Option<Publication> {
    if let Some(publication) = exactly(t, s) {
        return Some(publication);
    }
    // An answer to another host of one link would have to say which: such a client is the host's own.
    if s.key.dst.is_link_local() {
        return None;
    }
    let publication = everywhere(t, s)?;
    (t.route(input, 0, &s.key, &mut s.flow.next) == Route::Local).then_some(publication)
}

/// Leads a container's packet, whose tuple is `s.key`, to the container that is published there: at an address of the host
/// (`hosts`), or at its own in another network. Fills in what it becomes and its way. False if nothing is.
///
/// The source becomes the gateway of the target's network, so that answers come back by it whoever asked: a neighbour, a
/// container of another network, whose addresses may be the same, or the target itself. Who keeps its address on its way out
/// keeps it here too, where it comes to the target's own.
#[inline(never)]
pub fn lead_within<T: Tables>(t: &T, s: &mut Scratch, from: &Device, hosts: bool) -> Result<bool, DropReason> {
    let published = exactly(t, s).or_else(|| if hosts { everywhere(t, s).filter(|_| is_hosts(t, s)) } else { None });
    let Some(publication) = published else { return Ok(false) };
    if answers_host(t, s) {
        return Ok(false);
    }
    require_source(t, s, publication.sources)?;
    if publication.address.is_v4() != s.key.dst.is_v4() {
        // No process has the port, so the host refuses at once.
        return Ok(false);
    }
    become_published(s, &publication);
    forward::find_way_in(t, s)?;
    if s.flow.via == Via::Tunnel as u8 {
        // The other host knows this one's addresses alone.
        s.flow.becomes.src = s.key.dst;
        return Ok(hosts && from.gateway(s.key.dst) != s.key.dst);
    }
    let Some(target) = t.device(s.flow.next.device) else { return Err(DropReason::UnknownDevice) };
    if !hosts && from.keeps(s.key.src) {
        return Ok(true);
    }
    s.flow.becomes.src = target.gateway(s.key.src);
    if s.flow.becomes.src == s.key.src.any_of_family() {
        return Err(DropReason::NoEndpoint);
    }
    Ok(true)
}

/// Whether a packet with the tuple `s.key` that knocks at a publication answers a socket of the host: a datagram does not say
/// whether it asks or answers, and a socket that is connected to its sender has asked. A segment that answers opens nothing.
///
/// Not inlined, as what calls it.
#[inline(never)]
pub fn answers_host<T: Tables>(t: &T, s: &Scratch) -> bool {
    s.key.protocol == UDP && t.has_connected(&s.key)
}

/// Refuses a packet with the tuple `s.key` whose source is not of a publication's list: a client's address as it came, a
/// container's own.
#[inline(always)]
pub fn require_source<T: Tables>(t: &T, s: &mut Scratch, sources: SourceList) -> Result<(), DropReason> {
    if sources.is_anyone() {
        return Ok(());
    }
    s.source = SourceKey::new(sources, s.key.src);
    if t.is_source(&s.source) { Ok(()) } else { Err(DropReason::SourceDenied) }
}

/// Fills in what a packet that knocks at a publication becomes, its source as it is.
#[inline(always)]
pub fn become_published(s: &mut Scratch, publication: &Publication) {
    s.flow.becomes = s.key;
    s.flow.becomes.dst = publication.address;
    s.flow.becomes.dst_port = publication.port(s.key.dst_port);
    s.flow.becomes.zone = publication.zone;
}

/// Whether the destination is the host's own: the kernel has one answer for what is, and for what it knows no way to.
#[inline(always)]
fn is_hosts<T: Tables>(t: &T, s: &Scratch) -> bool {
    s.key.dst.is_link_local() || t.is_hosts(&s.key.dst)
}

#[inline(always)]
fn exactly<T: Tables>(t: &T, s: &mut Scratch) -> Option<Publication> {
    s.publication = PublicationKey::new(s.key.dst, s.key.protocol, s.key.dst_port);
    t.publication(&mut s.publication).copied()
}

#[inline(always)]
fn everywhere<T: Tables>(t: &T, s: &mut Scratch) -> Option<Publication> {
    s.publication = PublicationKey::new(s.key.dst.any_of_family(), s.key.protocol, s.key.dst_port);
    t.publication(&mut s.publication).copied()
}
