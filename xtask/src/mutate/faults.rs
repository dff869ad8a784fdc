//! The faults, each the smallest change of the packet code that breaks one promise.

/// A text of a file, which occurs there once, and what takes its place.
pub struct Fault {
    /// What is wrong then, in words for a table.
    pub name: &'static str,
    /// Below `netd-common/src`.
    pub file: &'static str,
    /// The text.
    pub right: &'static str,
    /// What takes its place.
    pub wrong: &'static str,
}

const fn fault(name: &'static str, file: &'static str, right: &'static str, wrong: &'static str) -> Fault {
    Fault { name, file, right, wrong }
}

/// All, by where they are.
pub const FAULTS: &[Fault] = &[
    fault(
        "client of the mesh given to who has the address now",
        "overlay/mesh.rs",
        "if parse::ethernet(p)?.destination.0 != [a, b, c, d, e, f] {",
        "if parse::ethernet(p)?.destination.is_group() && [a, b, c, d, e, f] == [0; 6] {",
    ),
    fault(
        "clients of two hosts taken for one",
        "overlay/mesh.rs",
        "s.key.zone = Zone::of_vtep(s.tunnel.vtep);",
        "s.key.zone = Zone::of_vtep(Address::ANY_V6);",
    ),
    fault("flow of the mesh shown to the firewall", "firewall.rs", " && s.flow.via != Via::Tunnel as u8", ""),
    fault(
        "transport checksum not told of the addresses",
        "nat.rs",
        "p.replace_l4(at, addresses, Covers::PseudoHeader, zero)?;",
        "",
    ),
    fault(
        "transport checksum not told of the addresses where the ports stay",
        "nat.rs",
        "if addresses.is_none() { Ok(()) } else { p.replace_l4(at, addresses, Covers::PseudoHeader, zero) }",
        "Ok(())",
    ),
    fault(
        "transport checksum not told of the ports",
        "nat.rs",
        "Some(Field::Checksum) => p.write(at, zero.written(ports.applied_to(after))),",
        "Some(Field::Checksum) => Ok(()),",
    ),
    fault(
        "ports told to a checksum that the device makes",
        "nat.rs",
        "Some(Field::Pseudo) => Ok(()),",
        "Some(Field::Pseudo) => p.write(at, ports.added_to(after)),",
    ),
    fault("header checksum left alone", "nat.rs", "p.replace_l3(ETH + ipv4::CHECKSUM, delta)?;", ""),
    fault(
        "UDP's absent checksum taken for a sum",
        "nat.rs",
        "h.l4, 6, Zero::MeansNone, s)",
        "h.l4, 6, Zero::IsASum, s)",
    ),
    fault("time to live not counted down", "nat.rs", "let lower = h.ttl.saturating_sub(1);", "let lower = h.ttl;"),
    fault(
        "published port given to a container",
        "nat.rs",
        "t.publication(&mut s.publication).is_some() || t.has_socket",
        "t.has_socket",
    ),
    fault(
        "port beside a range taken for one of it",
        "tables/publications.rs",
        "            if found.covers(question.port) {",
        "            if found.covers(found.first) {",
    ),
    fault(
        "range around another overlooked",
        "tables/publications.rs",
        "            question.widen(found)?;",
        "            return question.widen(found).and(None);",
    ),
    fault("port of a socket given to a container", "nat.rs", " || t.has_socket(&s.flow.becomes)", ""),
    fault(
        "port of the ephemeral range kept",
        "nat.rs",
        "!has_port || !settings.ephemeral.contains(key.src_port.number())",
        "true || has_port || settings.ephemeral.is_empty()",
    ),
    fault(
        "start of the search for a port predictable",
        "nat.rs",
        "let hash = hash(settings.secret, &s.flow.becomes);",
        "let hash = hash([0; 2], &s.flow.becomes);",
    ),
    fault("pool one port too long", "nat.rs", "if offset < first.len() {", "if offset <= first.len() {"),
    fault(
        "answers expected in the container's zone",
        "nat.rs",
        "    s.flow.becomes.src = source;\n    s.flow.becomes.zone = Zone::HOST;",
        "    s.flow.becomes.src = source;",
    ),
    fault("reset not noted", "conntrack.rs", "return leg | Leg::SEEN | Leg::RESET;", "return leg | Leg::SEEN;"),
    fault("no reprieve after a reset", "conntrack.rs", "(leg | Leg::SEEN) & !Leg::RESET", "leg | Leg::SEEN"),
    fault(
        "closed connection never over",
        "conntrack.rs",
        "legs[0] & legs[1] & Leg::FIN != 0 || (legs[0] | legs[1]) & Leg::RESET != 0",
        "legs[0] & legs[1] & Leg::FIN != 0 && (legs[0] | legs[1]) & Leg::RESET != 0",
    ),
    fault("any segment opens a connection", "conntrack.rs", "h.tcp_flags & deciding == tcp_flags::SYN", "true"),
    fault("expiry ignored", "conntrack.rs", "if !reopened && now <= s.flow.deadline {", "if !reopened {"),
    fault("check word ignored", "conntrack.rs", "if s.flow.check != digest(&s.key) {", "if s.flow.check == 0 {"),
    fault(
        "flow noted only when its state changes",
        "conntrack.rs",
        "now != s.flow.last_seen || now.low_byte() != s.flow.noted",
        "now < s.flow.last_seen",
    ),
    fault(
        "half not noted for long taken for the flow",
        "conntrack.rs",
        "!even_alive && now <= s.peer.deadline",
        "false",
    ),
    fault("half of the next flow taken for this one's", "conntrack.rs", " && s.peer.check == digest(&s.peer_key)", ""),
    fault("change of the routing not heard", "forward.rs", " && t.ways_changed().after(since) < now", ""),
    fault("way kept as long as nobody tells", "forward.rs", " && is_of_epoch", ""),
    fault("missing half not put back", "conntrack.rs", "let _ = t.claim(&s.peer_key, &s.peer);", ""),
    fault(
        "note written into the next flow's place",
        "conntrack.rs",
        "stored.check != noted.check || stored.becomes != noted.becomes",
        "stored.check != noted.check",
    ),
    fault(
        "port claimed twice",
        "conntrack.rs",
        "t.claim(&s.peer_key, &s.peer)?;",
        "if t.claim(&s.peer_key, &s.peer) == Err(ClaimError::Full) { return Err(EstablishError::Full) }",
    ),
    fault("loser of a race keeps its claim", "conntrack.rs", "    t.release(&s.peer_key);\n    Err(if", "    Err(if"),
    fault(
        "established flow worth less than a new one",
        "evict.rs",
        "Self::Weak => is_weak(protocol, flow, now),",
        "Self::Weak => true,",
    ),
    fault("handshake worth less than a new flow", "evict.rs", "flow.last_seen.after(HANDSHAKE) < now", "true"),
    fault("unacknowledged connection never worth less", "evict.rs", "flow.last_seen.after(HANDSHAKE) < now", "false"),
    fault(
        "flow taken out that another CPU has replaced",
        "evict.rs",
        "if t.release_seen(&s.evicted_key, &s.evicted) {",
        "t.release(&s.evicted_key);\n    if true {",
    ),
    fault(
        "answer to a socket of the host's taken for a client's",
        "publish.rs",
        "s.key.protocol == UDP && t.has_connected(&s.key)",
        "s.key.protocol == UDP && s.key.dst_port == s.key.src_port && t.has_connected(&s.key)",
    ),
    fault("quoted header left alone", "icmp.rs", "rewrite_quoted(p, h.v4, s)?;", ""),
    fault(
        "first fragment remembered whoever sent it",
        "fragment.rs",
        "FragmentKey { src: s.key.src, dst",
        "FragmentKey { src: Default::default(), dst",
    ),
    fault("first fragment never forgotten", "fragment.rs", " || t.now() > s.fragment.deadline", ""),
    fault(
        "loopback believed from the wire",
        "hooks/uplink.rs",
        "let to_group = frame.destination.is_group();\n    if s.key.dst.is_loopback() {",
        "let to_group = frame.destination.is_group();\n    if to_group && s.key.dst.is_loopback() {",
    ),
    fault(
        "container speaks in another's name",
        "policy.rs",
        "if frame.source == device.mac {",
        "if frame.source != frame.destination {",
    ),
    fault(
        "another's packet delivered between hosts",
        "overlay/mod.rs",
        ".filter(|endpoint| endpoint.mac == destination);\n    let Some(endpoint) = endpoint else { return Err(DropReason::NoEndpoint) };\n    if forward",
        ";\n    let Some(endpoint) = endpoint else { return Err(DropReason::NoEndpoint) };\n    if forward",
    ),
    fault(
        "stranger sends into a network of several hosts",
        "overlay/mod.rs",
        "if !t.is_vtep(&VtepKey",
        "if false && !t.is_vtep(&VtepKey",
    ),
    fault(
        "list of sources ignored",
        "publish.rs",
        "if t.is_source(&s.source) { Ok(()) } else",
        "if t.is_source(&s.source) || true { Ok(()) } else",
    ),
    fault(
        "isolated subnet has a gateway",
        "hooks/container.rs",
        "} else if device.has(device_flags::isolated(h.v4)) {",
        "} else if false && device.has(device_flags::isolated(h.v4)) {",
    ),
    fault(
        "the host's routing not asked for netd's mark",
        "forward.rs",
        "== Routing::AskedWithMark as u32 {",
        "== u32::MAX {",
    ),
    fault("routed subnet masqueraded", "forward.rs", "if from.keeps(own) {", "if false && from.keeps(own) {"),
    fault(
        "containers connect that are kept apart",
        "icc.rs",
        "if !t.allows(&s.allowance) {\n            return",
        "if false && !t.allows(&s.allowance) {\n            return",
    ),
    fault(
        "frame for another than its header names",
        "icc.rs",
        "Some(endpoint) if endpoint.mac != station =>",
        "Some(endpoint) if false && endpoint.mac != station =>",
    ),
    fault(
        "what comes from another host let in unasked",
        "overlay/mod.rs",
        "                icc::enter(p, t, s, segment)?;\n",
        "",
    ),
    fault(
        "error let in that is about no flow between the two",
        "icc.rs",
        "if !icmp::find(p, t, s, h) ||",
        "if icmp::find(p, t, s, h) &&",
    ),
    fault(
        "ethertype of the other family given to what had none",
        "forward.rs",
        "let ethertype = if s.key.src.is_v4() {",
        "let ethertype = if !s.key.src.is_v4() {",
    ),
    fault(
        "routing header skipped that leads on",
        "parse/extensions.rs",
        "if leads_on || is_fragment",
        "if is_fragment",
    ),
    fault("another's address advertised", "neighbour.rs", "        require_own(device, s.endpoint.address)?;\n", ""),
    fault(
        "Neighbor Discovery hidden behind another header",
        "neighbour.rs",
        "if hides && h.ttl == nd::HOP_LIMIT {",
        "if false && hides && h.ttl == nd::HOP_LIMIT {",
    ),
    fault(
        "encrypted network's packet taken without the mark of decryption",
        "overlay/mod.rs",
        "(is_elsewhere || p.mark() & DECRYPTED == 0)",
        "is_elsewhere",
    ),
    fault(
        "cleartext of an encrypted network let in",
        "overlay/mod.rs",
        "if segment.has(segment_flags::ENCRYPTED) && (",
        "if false && (",
    ),
    fault("encrypted network's packet sent without keys", "overlay/mod.rs", "if !has_keys(t, s) {", "if false {"),
    fault(
        "what must be encrypted let out in clear",
        "hooks/uplink.rs",
        "if overlay::is_encrypted(p)? { Ok(PASS) }",
        "if true { Ok(PASS) }",
    ),
    fault(
        "checksum that is left to the device updated in a driver",
        "frame/pass_on.rs",
        "|| !is_finished(frame, s, plain)? {",
        "|| !is_finished(frame, s, plain)? && false {",
    ),
    fault(
        "datagram without a checksum summed for one over IPv6",
        "frame/pass_on.rs",
        "!v4 && !tells_its_sum(frame, plain)?",
        "!v4 && !tells_its_sum(frame, plain)? && false",
    ),
    fault(
        "pseudo-header of what a datagram over IPv6 carries not made up for",
        "frame/outer.rs",
        "ends.and(packet)",
        "ends",
    ),
    fault(
        "packet that is due to be noted passed on in a driver",
        "frame/pass_on.rs",
        "&& !conntrack::must_note(s, plain.h, now)",
        "",
    ),
    fault(
        "frame for another station passed on in a driver",
        "frame/pass_on.rs",
        "|| !is_for_us(frame, &s.peer.next)? {",
        "{",
    ),
    fault(
        "what the host's rules would see passed on in a driver",
        "frame/pass_on.rs",
        "settings.firewall.generation == 0 && ",
        "",
    ),
];
