//! Conversations in raw packets between container `b` and an address that no kernel answers for: what a contender does with each
//! packet is seen by itself, before any stack has made something else of it.

use netd_common::{
    packet::ETH,
    parse::tcp_flags::{ACK, FIN, RST, SYN},
};
use netd_tests::packets::{Build, fragments, icmp, ping, pong, tcp, udp};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    frames::{Frame, stories},
    site::{A, B, FAR_RAW, HOST, ROUTER},
    stage::{Sender, Stage},
};

/// Which side a packet comes from: the one that opened the conversation or the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Opener,
    Answerer,
}

impl Side {
    fn other(self) -> Self {
        if self == Self::Opener { Self::Answerer } else { Self::Opener }
    }
}

/// A packet of a conversation.
#[derive(Clone, Debug)]
pub enum Move {
    /// A TCP segment with these flags and so many bytes.
    Segment(Side, u8, usize),
    /// The last segment of a side once more.
    Again(Side),
    /// A datagram of so many bytes, in fragments of at most so many bytes in this order; whole if there are none.
    Datagram { from: Side, size: usize, fragment: usize, order: Vec<usize>, checksum: bool },
    /// An echo request or an answer to one.
    Echo(Side),
    /// An ICMP error about the last packet that this side got: type, code, and how many bytes of it are quoted.
    Error(Side, u8, u8, usize),
    /// The same by the router, about the last packet that left the host.
    RoutersError(u8, u8, usize),
}

/// What travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
    Echo,
}

/// A conversation of one flow.
#[derive(Clone, Debug)]
pub struct Conversation {
    pub protocol: Protocol,
    /// Whether the container opens it; else the peer does, to a published port.
    pub outward: bool,
    pub tos: u8,
    pub options: usize,
    pub moves: Vec<Move>,
}

impl Conversation {
    pub fn arbitrary(random: &mut StdRng) -> Self {
        let protocol = [Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Echo].choose(random).copied();
        let protocol = protocol.unwrap_or(Protocol::Tcp);
        let outward = protocol == Protocol::Echo || random.random();
        let options = if random.random_ratio(1, 8) { 8 } else { 0 };
        let mut moves = match protocol {
            Protocol::Tcp => segments(random),
            Protocol::Udp => datagrams(random),
            Protocol::Echo => [Side::Opener, Side::Answerer]
                .into_iter()
                .cycle()
                .take(random.random_range(1..7))
                .map(Move::Echo)
                .collect(),
        };
        for _ in 0..random.random_range(0..3) {
            let error = error(random, outward, options);
            // What a refusal leaves behind is among the odd packets.
            let refused = matches!(moves.last(), Some(Move::Segment(Side::Answerer, flags, _)) if flags & RST != 0 && moves.len() < 5);
            let last = if refused { moves.len() - 1 } else { moves.len() };
            moves.insert(random.random_range(1..=last), error);
        }
        let tos = if random.random() { 0 } else { random.random::<u8>() & 0xfc };
        Self { protocol, outward, tos, options, moves }
    }

    /// Plays it, and tells what each side got.
    pub fn play(&self, stage: &Stage) -> Vec<String> {
        let mut speakers =
            Speakers { last_got: [None, None], last_left: None, next: [1000, 500_000], sent: [None, None] };
        let mut story = Vec::new();
        for step in &self.moves {
            let (from, packets) = self.packets(step, &mut speakers);
            if packets.is_empty() {
                continue;
            }
            packets.iter().for_each(|packet| stage.send(from, packet));
            stage.settle();
            story.push(format!("{step:?}"));
            let got = stage.frames();
            for (place, frames) in &got {
                story.extend(stories(frames).into_iter().map(|told| format!("  {place} {told}")));
            }
            self.listen(step, got, &mut speakers);
        }
        story
    }

    /// Keeps what arrived where, to answer it.
    fn listen(&self, step: &Move, got: Vec<(&'static str, Vec<Frame>)>, speakers: &mut Speakers) {
        for (place, frames) in got {
            let side = if (place == "b") == self.outward { Side::Opener } else { Side::Answerer };
            let own = frames.into_iter().filter(|frame| !frame.sent && frame.protocol() == self.number());
            for frame in own.filter(|frame| self.protocol != Protocol::Echo || matches!(frame.icmp_type(), 0 | 8)) {
                if let Move::Segment(from, flags, length) = step
                    && *from == side.other()
                {
                    let counted = *length as u32 + u32::from(flags & (SYN | FIN) != 0);
                    speakers.next[*from as usize] = speakers.next[*from as usize].wrapping_add(counted);
                }
                if frame.is_first() {
                    if place == "far" {
                        speakers.last_left = Some(frame.clone());
                    }
                    speakers.last_got[side as usize] = Some(frame);
                }
            }
        }
    }

    fn number(&self) -> u8 {
        match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Echo => 1,
        }
    }

    fn sender(&self, side: Side) -> Sender {
        if (side == Side::Opener) == self.outward { Sender::B } else { Sender::Far }
    }

    /// Where a side sends from and to. The answerer of what a container opened learns it from what arrived.
    fn ends(&self, from: Side, speakers: &Speakers) -> Option<[(String, u16); 2]> {
        let published = if self.protocol == Protocol::Tcp { 8004 } else { 8005 };
        let id = 0x1234;
        let echo = self.protocol == Protocol::Echo;
        let client = if echo { id } else { 40_000 };
        Some(match (from, self.outward) {
            (Side::Opener, true) => [(B.to_owned(), client), (FAR_RAW.to_owned(), if echo { id } else { 7001 })],
            (Side::Opener, false) => [(FAR_RAW.to_owned(), client), (HOST.to_owned(), published)],
            (Side::Answerer, _) => {
                let got = speakers.last_got[Side::Answerer as usize].as_ref()?;
                let [source, destination] = got.ports();
                [(got.destination().to_string(), destination), (got.source().to_string(), source)]
            }
        })
    }

    fn packets(&self, step: &Move, speakers: &mut Speakers) -> (Sender, Vec<Vec<u8>>) {
        match step {
            Move::Segment(from, flags, length) => {
                let Some(packet) = self.segment(*from, *flags, *length, speakers) else { return (Sender::B, vec![]) };
                speakers.sent[*from as usize] = Some(packet.clone());
                (self.sender(*from), vec![packet])
            }
            Move::Again(from) => (self.sender(*from), speakers.sent[*from as usize].clone().into_iter().collect()),
            Move::Datagram { from, size, fragment, order, checksum } => {
                let Some([source, destination]) = self.ends(*from, speakers) else { return (Sender::B, vec![]) };
                let build = udp(&joined(&source), &joined(&destination)).payload(&pattern(*size));
                let build = if *checksum { build } else { build.without_udp_checksum() };
                let whole = self.dressed(build).bytes();
                let parts = if order.is_empty() { vec![whole.clone()] } else { fragments(&whole, *fragment, 0x7001) };
                let order = if order.is_empty() { vec![0] } else { order.clone() };
                (self.sender(*from), order.into_iter().filter_map(|part| parts.get(part).cloned()).collect())
            }
            Move::Echo(from) => {
                let Some([source, destination]) = self.ends(*from, speakers) else { return (Sender::B, vec![]) };
                let build = if *from == Side::Opener { ping } else { pong };
                let packet = self.dressed(build(&source.0, &destination.0, destination.1)).bytes();
                (self.sender(*from), vec![packet])
            }
            Move::Error(from, kind, code, length) => {
                let about = speakers.last_got[*from as usize].as_ref();
                let packets = about.map(|about| {
                    let (own, to) = (about.destination().to_string(), about.source().to_string());
                    error_about(&own, &to, (*kind, *code), about, *length)
                });
                (self.sender(*from), packets.into_iter().collect())
            }
            Move::RoutersError(kind, code, length) => {
                let about = speakers.last_left.as_ref();
                let packets = about.map(|about| error_about(ROUTER, HOST, (*kind, *code), about, *length));
                (Sender::Router, packets.into_iter().collect())
            }
        }
    }

    fn segment(&self, from: Side, flags: u8, length: usize, speakers: &Speakers) -> Option<Vec<u8>> {
        let [source, destination] = self.ends(from, speakers)?;
        let sequence = speakers.next[from as usize];
        let acknowledgement = if flags & ACK == 0 { 0 } else { speakers.next[from.other() as usize] };
        let build = tcp(&joined(&source), &joined(&destination)).flags(flags).numbers(sequence, acknowledgement);
        Some(self.dressed(build.payload(&pattern(length))).bytes())
    }

    fn dressed(&self, build: Build) -> Build {
        build.tos(self.tos).ip_options(self.options).identification(0x7000)
    }
}

/// What the two sides know.
struct Speakers {
    last_got: [Option<Frame>; 2],
    last_left: Option<Frame>,
    next: [u32; 2],
    sent: [Option<Vec<u8>>; 2],
}

fn joined((address, port): &(String, u16)) -> String {
    format!("{address}:{port}")
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 13 + length) as u8).collect()
}

fn error_about(from: &str, to: &str, (kind, code): (u8, u8), about: &Frame, length: usize) -> Vec<u8> {
    let quoted = &about.bytes[ETH..];
    // Next-hop MTU for what is too big, and nothing else.
    let rest = if (kind, code) == (3, 4) { [0, 0, 4, 0xd2] } else { [0; 4] };
    let message = [&[kind, code, 0, 0], &rest[..], &quoted[..length.min(quoted.len())]].concat();
    icmp(from, to, &message).bytes()
}

/// A connection as two stacks would have it, with retransmissions and resets.
fn segments(random: &mut StdRng) -> Vec<Move> {
    use Side::{Answerer, Opener};
    let mut moves = vec![Move::Segment(Opener, SYN, 0)];
    if random.random_ratio(1, 4) {
        moves.push(Move::Again(Opener));
    }
    if random.random_ratio(1, 8) {
        moves.push(Move::Segment(Answerer, RST | ACK, 0));
        return moves;
    }
    moves.push(Move::Segment(Answerer, SYN | ACK, 0));
    if random.random_ratio(1, 6) {
        moves.push(Move::Again(Answerer));
    }
    moves.push(Move::Segment(Opener, ACK, 0));
    let mut open = vec![Opener, Answerer];
    for _ in 0..random.random_range(0..8) {
        let Some(side) = open.choose(random).copied() else { break };
        match random.random_range(0..8) {
            0..=3 => moves.push(Move::Segment(side, ACK, random.random_range(1..1400))),
            4 => moves.push(Move::Again(side)),
            5 | 6 => {
                moves.push(Move::Segment(side, FIN | ACK, 0));
                moves.push(Move::Segment(side.other(), ACK, 0));
                open.retain(|other| *other != side);
            }
            _ => {
                moves.push(Move::Segment(side, RST | ACK, 0));
                if random.random() {
                    moves.push(Move::Segment(side.other(), ACK, 50));
                }
                break;
            }
        }
    }
    moves
}

fn datagrams(random: &mut StdRng) -> Vec<Move> {
    let mut moves = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let from = if moves.is_empty() || random.random() { Side::Opener } else { Side::Answerer };
        let size = [0, 1, 100, 1400, 3000, 5000].choose(random).copied().unwrap_or(1);
        let fragment = [520, 1000, 1440].choose(random).copied().unwrap_or(1000);
        let parts = (size + 8usize).div_ceil(fragment);
        let order = if size > 1400 || (parts > 1 && random.random()) { (0..parts).collect() } else { vec![] };
        moves.push(Move::Datagram { from, size, fragment, order, checksum: random.random_ratio(3, 4) });
    }
    moves
}

fn error(random: &mut StdRng, outward: bool, options: usize) -> Move {
    let (kind, code) =
        [(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)].choose(random).copied().unwrap_or((3, 1));
    let length = options + [28, 36, 48, 576].choose(random).copied().unwrap_or(28);
    // A router on the way hears what leaves the host, whoever opened the conversation.
    match random.random_range(0..3) {
        0 => Move::RoutersError(kind, code, length),
        1 => Move::Error(if outward { Side::Answerer } else { Side::Opener }, kind, code, length),
        _ => Move::Error(if outward { Side::Opener } else { Side::Answerer }, kind, code, length),
    }
}

/// Two containers that use one source port, or one identifier, towards one address at once.
#[derive(Clone, Debug)]
pub struct Twins {
    pub protocol: Protocol,
    pub order: Vec<Sender>,
}

impl Twins {
    pub fn arbitrary(random: &mut StdRng) -> Self {
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Echo].choose(random).copied().unwrap_or(Protocol::Udp);
        let order = if random.random() { vec![Sender::A, Sender::B] } else { vec![Sender::B, Sender::A] };
        Self { protocol, order }
    }

    /// Each sends, each is answered, and each gets its own answer.
    pub fn play(&self, stage: &Stage) -> Vec<String> {
        let mut story = Vec::new();
        let mut arrived = Vec::new();
        for sender in &self.order {
            let (from, name) = if *sender == Sender::A { (A, b"of a") } else { (B, b"of b") };
            stage.send(*sender, &self.packet(from, FAR_RAW, [40_001, 7002], name, true));
            stage.settle();
            for (place, frames) in stage.frames() {
                story.extend(stories(&frames).into_iter().map(|told| format!("{place} {told}")));
                let left = frames.into_iter().filter(|frame| place == "far" && !frame.sent);
                arrived.extend(left.map(|frame| (*name, frame)));
            }
        }
        if let [(_, one), (_, two)] = &arrived[..] {
            story.push(format!("kept apart: {}", one.ports() != two.ports()));
        }
        for (name, frame) in arrived {
            let [port, own] = frame.ports();
            stage.send(Sender::Far, &self.packet(FAR_RAW, HOST, [own, port], &name, false));
            stage.settle();
            for (place, frames) in stage.frames() {
                story.extend(stories(&frames).into_iter().map(|told| format!("{place} {told}")));
            }
        }
        story
    }

    fn packet(&self, from: &str, to: &str, [source, destination]: [u16; 2], name: &[u8], opens: bool) -> Vec<u8> {
        let (from_port, to_port) = (format!("{from}:{source}"), format!("{to}:{destination}"));
        match self.protocol {
            // Data on a SYN is as good a name as any (RFC 9293 section 3.4).
            Protocol::Tcp if opens => tcp(&from_port, &to_port).payload(name).bytes(),
            Protocol::Tcp => tcp(&from_port, &to_port).flags(SYN | ACK).numbers(500, 1005).payload(name).bytes(),
            Protocol::Udp => udp(&from_port, &to_port).payload(name).bytes(),
            Protocol::Echo if opens => ping(from, to, source).payload(name).bytes(),
            Protocol::Echo => pong(from, to, destination).payload(name).bytes(),
        }
    }
}
