//! A question in bytes to what is said to it: an answer from the directory, or what to ask others and how to hand on their answer.

use std::{collections::BTreeSet, net::IpAddr};

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};
use rand::{RngCore, seq::SliceRandom};

use super::{Directory, Forwarding};

/// Seconds for which an answer from the directory may be kept: containers come and go.
const TTL: u32 = 5;

/// The most bytes of a datagram that this side takes, and asks for: what fits any link (RFC 9715 section 3).
const DATAGRAM: u16 = 1_232;

/// The most bytes of an answer to a client that says nothing of itself (RFC 1035 section 4.2.1).
const PLAIN: usize = 512;

/// Bytes of a message's header.
const HEADER: usize = 12;

/// What is done about a question.
#[derive(Clone, PartialEq, Debug)]
pub enum Asked {
    /// This is said.
    Answer(Message),
    /// Others are asked.
    Relay(Relay),
    /// Nothing is said: it is no question.
    Nothing,
}

/// A question that others are to answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Relay {
    /// What is asked.
    pub question: Question,
    /// Who is to be asked.
    pub forwarding: Forwarding,
    client: Message,
}

/// What is asked of another server.
#[derive(Clone, PartialEq, Debug)]
pub struct Question {
    query: Query,
    recursion: bool,
    /// Whether signatures are wanted (EDNS `DO`).
    pub dnssec: bool,
    /// Whether what does not verify is wanted as well (`CD`).
    pub unchecked: bool,
}

impl Question {
    /// For the name servers of the root (RFC 1035 section 4.1), which every server can answer that resolves names.
    pub fn for_the_root() -> Self {
        let query = Query::query(Name::root(), RecordType::NS);
        Self { query, recursion: true, dnssec: false, unchecked: false }
    }

    /// The name, in lower case.
    pub fn name(&self) -> String {
        self.query.name.to_ascii().to_ascii_lowercase()
    }

    /// The type and the class, by their numbers.
    pub fn kind(&self) -> (u16, u16) {
        (self.query.query_type.into(), self.query.query_class.into())
    }

    /// The message that asks it, of this id; with EDNS, except of servers that do not know it.
    pub fn message(&self, id: u16, edns: bool) -> Message {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.recursion;
        message.metadata.checking_disabled = self.unchecked;
        message.queries.push(self.query.clone());
        if edns {
            message.edns = Some(own_edns(self.dnssec));
        }
        message
    }

    /// Whether a message of a server is the answer to this, asked with this id.
    pub fn is_answered_by(&self, answer: &Message, id: u16) -> bool {
        let metadata = &answer.metadata;
        let same = |query: &Query| {
            query.name == self.query.name
                && query.query_type == self.query.query_type
                && query.query_class == self.query.query_class
        };
        // A server that understands nothing of the question may leave it out.
        let about_it = match answer.queries.as_slice() {
            [] => !matches!(metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain),
            queries => queries.iter().all(same),
        };
        metadata.id == id && metadata.message_type == MessageType::Response && about_it
    }
}

/// What is done about a message that came from a container's namespace.
pub fn respond(bytes: &[u8], directory: &Directory, asker: u64, rng: &mut dyn RngCore) -> Asked {
    let Ok(client) = Message::from_vec(bytes) else { return malformed(bytes) };
    if client.metadata.message_type != MessageType::Query {
        return Asked::Nothing;
    }
    let refused = |code| Asked::Answer(failure_to(&client, code));
    if client.metadata.op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    let [query] = client.queries.as_slice() else { return refused(ResponseCode::FormErr) };
    if client.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refused(ResponseCode::BADVERS);
    }
    if !directory.knows(asker) {
        return refused(ResponseCode::Refused);
    }
    if query.query_class == DNSClass::IN
        && let Some(found) = known(query, directory, asker, rng)
    {
        let mut answer = answer_to(&client);
        answer.metadata.authoritative = true;
        match found {
            Known::Records(records) => answer.answers = records,
            Known::NoName => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        return Asked::Answer(answer);
    }
    let forwarding = directory.forwarding(asker).clone();
    if forwarding == Forwarding::Never {
        // All that such a container can reach is in the directory.
        return refused(ResponseCode::NXDomain);
    }
    let question = Question {
        query: query.clone(),
        recursion: client.metadata.recursion_desired,
        dnssec: client.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
        unchecked: client.metadata.checking_disabled,
    };
    Asked::Relay(Relay { question, forwarding, client })
}

/// A server's answer as it is told to the client that asked.
pub fn relayed(relay: &Relay, answer: &Message) -> Message {
    let mut told = answer_to(&relay.client);
    told.metadata.response_code = answer.metadata.response_code;
    told.metadata.authoritative = answer.metadata.authoritative;
    told.metadata.authentic_data = answer.metadata.authentic_data;
    told.metadata.truncation = answer.metadata.truncation;
    told.answers.clone_from(&answer.answers);
    told.authorities.clone_from(&answer.authorities);
    told.additionals.clone_from(&answer.additionals);
    told
}

/// What is told where no server has answered.
pub fn failure(relay: &Relay) -> Message {
    failure_to(&relay.client, ResponseCode::ServFail)
}

/// An answer as bytes, of which a client without a connection takes so many as it says, or 512. What does not fit is left out,
/// and that it is said: the client asks again over TCP, and one that cannot has at least a part.
pub fn written(answer: &Message, datagram: bool) -> Option<Vec<u8>> {
    let limit = match &answer.edns {
        _ if !datagram => usize::from(u16::MAX),
        Some(edns) => usize::from(edns.max_payload()).max(PLAIN),
        None => PLAIN,
    };
    let fitting = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    let mut answer = answer.clone();
    if let Some(edns) = &mut answer.edns {
        edns.set_max_payload(DATAGRAM);
    }
    if let Some(bytes) = fitting(&answer) {
        return Some(bytes);
    }
    answer.additionals.clear();
    if let Some(bytes) = fitting(&answer) {
        return Some(bytes);
    }
    answer.metadata.truncation = true;
    answer.authorities.clear();
    let records = std::mem::take(&mut answer.answers);
    let with = |count: usize| {
        let mut part = answer.clone();
        part.answers = records[..count].to_vec();
        fitting(&part)
    };
    let (mut fits, mut too_many) = (0, records.len() + 1);
    while too_many - fits > 1 {
        let middle = fits.midpoint(too_many);
        if with(middle).is_some() { fits = middle } else { too_many = middle }
    }
    with(fits)
}

/// What the directory says of a name.
enum Known {
    /// It is there, with these records of the type that was asked for.
    Records(Vec<Record>),
    /// It would be there if it were.
    NoName,
}

/// `None` if it is not the directory's to know.
fn known(query: &Query, directory: &Directory, asker: u64, rng: &mut dyn RngCore) -> Option<Known> {
    if let Some(address) = reversed(&query.name) {
        let Some(name) = directory.name(asker, address)? else { return Some(Known::NoName) };
        let target = Name::from_ascii(format!("{name}.")).ok()?;
        let wanted = matches!(query.query_type, RecordType::PTR | RecordType::ANY);
        let record = wanted.then(|| Record::from_rdata(query.name.clone(), TTL, RData::PTR(PTR(target))));
        return Some(Known::Records(record.into_iter().collect()));
    }
    let name = query.name.to_ascii().to_ascii_lowercase();
    let addresses = directory.addresses(asker, name.trim_end_matches('.'))?;
    Some(Known::Records(records(query, addresses, rng)))
}

/// Shuffled, so that clients that take the first spread over all.
fn records(query: &Query, addresses: BTreeSet<IpAddr>, rng: &mut dyn RngCore) -> Vec<Record> {
    let any = query.query_type == RecordType::ANY;
    let data = addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) if any || query.query_type == RecordType::A => Some(RData::A(A(address))),
        IpAddr::V6(address) if any || query.query_type == RecordType::AAAA => Some(RData::AAAA(AAAA(address))),
        _ => None,
    });
    let mut records: Vec<_> = data.map(|data| Record::from_rdata(query.name.clone(), TTL, data)).collect();
    records.shuffle(rng);
    records
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` stands for.
fn reversed(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

fn malformed(bytes: &[u8]) -> Asked {
    let is_answer = bytes.get(2).is_none_or(|flags| flags & 0x80 != 0);
    match bytes {
        [high, low, ..] if bytes.len() >= HEADER && !is_answer => {
            let id = u16::from_be_bytes([*high, *low]);
            Asked::Answer(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
        }
        _ => Asked::Nothing,
    }
}

fn failure_to(client: &Message, code: ResponseCode) -> Message {
    let mut answer = answer_to(client);
    answer.metadata.response_code = code;
    answer
}

/// An empty answer. Its EDNS says, until it is written, how many bytes the client takes.
fn answer_to(client: &Message) -> Message {
    let mut answer = Message::response(client.metadata.id, client.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&client.metadata);
    answer.metadata.recursion_available = true;
    answer.queries.clone_from(&client.queries);
    answer.edns = client.edns.as_ref().map(|edns| {
        let mut own = own_edns(edns.flags().dnssec_ok);
        own.set_max_payload(edns.max_payload());
        own
    });
    answer
}

fn own_edns(dnssec: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM).set_dnssec_ok(dnssec);
    edns
}

#[cfg(test)]
mod tests;
