//! What others' servers have answered, kept as long as they say, and a day longer for when none of them answers.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RData,
};

use super::Server;

/// How long an answer may be given again after its time when no server answers (RFC 8767 section 5: one to three days).
const STALE: Duration = Duration::from_secs(86_400);

/// The time to live of such an answer (RFC 8767 section 4).
const STALE_TTL: u32 = 30;

/// The longest that any answer is kept (RFC 8767 section 4: a week; a day is what resolvers do).
const LONGEST: u32 = 86_400;

/// The longest that the absence of a name is kept (RFC 2308 section 5: one to three hours).
const LONGEST_NEGATIVE: u32 = 3_600;

/// Answers larger than this are not kept, so that what the cache takes of memory is bounded.
const LARGEST: usize = 4_096;

/// What was asked, and whom.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// From which namespace, by its inode; `None` for the host's own.
    pub from: Option<u64>,
    /// The servers, in their order: with others the answer may be another.
    pub servers: Vec<Server>,
    /// In lower case.
    pub name: String,
    /// The type and the class, by their numbers.
    pub kind: (u16, u16),
    /// Whether signatures were wanted (EDNS `DO`), and whether to be given what does not verify (`CD`).
    pub dnssec: (bool, bool),
}

/// What is in the cache for a question.
#[derive(Clone, PartialEq, Debug)]
pub enum Found {
    /// An answer that still holds.
    Fresh(Message),
    /// One whose time is over: for when nothing better is to be had.
    Stale(Message),
    /// Nothing.
    Nothing,
}

struct Entry {
    message: Message,
    kept: Instant,
    lifetime: Duration,
    number: u64,
}

/// A bounded number of answers.
pub struct Cache {
    entries: BTreeMap<Key, Entry>,
    /// In the order in which they came; numbers tell those from others that have taken their places.
    ages: VecDeque<(Key, u64)>,
    capacity: usize,
    next: u64,
}

impl Cache {
    /// An empty one with room for so many answers.
    pub fn new(capacity: usize) -> Self {
        Self { entries: BTreeMap::new(), ages: VecDeque::new(), capacity, next: 0 }
    }

    /// What there is for a question.
    pub fn find(&self, key: &Key, now: Instant) -> Found {
        let Some(entry) = self.entries.get(key) else { return Found::Nothing };
        let age = now.saturating_duration_since(entry.kept);
        let mut message = entry.message.clone();
        if age < entry.lifetime {
            let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            set_ttls(&mut message, |ttl| ttl.saturating_sub(seconds));
            return Found::Fresh(message);
        }
        if age < entry.lifetime + STALE {
            set_ttls(&mut message, |_| STALE_TTL);
            return Found::Stale(message);
        }
        Found::Nothing
    }

    /// Keeps an answer of so many bytes, if it is one that may be kept.
    pub fn keep(&mut self, key: Key, message: &Message, bytes: usize, now: Instant) {
        let Some(seconds) = lifetime(message).filter(|seconds| *seconds > 0 && bytes <= LARGEST) else { return };
        let number = self.next;
        self.next += 1;
        self.ages.push_back((key.clone(), number));
        let lifetime = Duration::from_secs(seconds.into());
        self.entries.insert(key, Entry { message: message.clone(), kept: now, lifetime, number });
        while self.entries.len() > self.capacity || self.ages.len() > 2 * self.capacity {
            let Some((oldest, number)) = self.ages.pop_front() else { return };
            if self.entries.get(&oldest).is_some_and(|entry| entry.number == number) {
                self.entries.remove(&oldest);
            }
        }
    }
}

/// Seconds that an answer holds; `None` if it says nothing that could be kept. An answer without records holds as long as
/// the zone says that a name's absence does (RFC 2308 section 5).
fn lifetime(message: &Message) -> Option<u32> {
    let known = matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    if !known || message.metadata.truncation {
        return None;
    }
    if let Some(shortest) = message.answers.iter().map(|record| record.ttl).min() {
        return Some(shortest.min(LONGEST));
    }
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum).min(LONGEST_NEGATIVE)),
        _ => None,
    })
}

fn set_ttls(message: &mut Message, change: impl Fn(u32) -> u32) {
    let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
    for record in sections.into_iter().flatten() {
        record.ttl = change(record.ttl);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::{
        op::OpCode,
        rr::{
            Name, Record,
            rdata::{A, SOA},
        },
    };

    use super::*;

    #[test]
    fn an_answer_holds_for_its_time_with_what_is_left_of_it_then_is_stale_then_gone() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        cache.keep(key("web.example"), &answer(60), 100, start);

        let after = |seconds| cache.find(&key("web.example"), start + Duration::from_secs(seconds));

        assert_eq!(after(0), Found::Fresh(answer(60)));
        assert_eq!(after(59), Found::Fresh(answer(1)));
        assert_eq!(after(60), Found::Stale(answer(STALE_TTL)));
        assert_eq!(after(60 + 86_399), Found::Stale(answer(STALE_TTL)));
        assert_eq!(after(60 + 86_400), Found::Nothing);
    }

    #[test]
    fn a_names_absence_is_kept_as_long_as_its_zone_says() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        let mut nothing = Message::response(7, OpCode::Query);
        nothing.metadata.response_code = ResponseCode::NXDomain;
        cache.keep(key("a.example"), &nothing, 100, start);
        let root = Name::root();
        let soa = SOA::new(root.clone(), root.clone(), 1, 2, 3, 4, 5);
        nothing.authorities.push(Record::from_rdata(root, 900, RData::SOA(soa)));
        cache.keep(key("b.example"), &nothing, 100, start);

        let found = |name, seconds| cache.find(&key(name), start + Duration::from_secs(seconds));

        assert_eq!(found("a.example", 0), Found::Nothing);
        assert!(matches!(found("b.example", 4), Found::Fresh(_)));
        assert!(matches!(found("b.example", 5), Found::Stale(_)));
    }

    #[test]
    fn failures_truncated_and_huge_answers_are_not_kept() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        let mut failed = answer(60);
        failed.metadata.response_code = ResponseCode::ServFail;
        let mut cut = answer(60);
        cut.metadata.truncation = true;

        cache.keep(key("a"), &failed, 100, start);
        cache.keep(key("b"), &cut, 100, start);
        cache.keep(key("c"), &answer(60), LARGEST + 1, start);
        cache.keep(key("d"), &answer(0), 100, start);

        for name in ["a", "b", "c", "d"] {
            assert_eq!(cache.find(&key(name), start), Found::Nothing, "{name}");
        }
    }

    #[test]
    fn a_full_cache_forgets_what_came_first_and_a_name_that_is_asked_again_is_not_counted_twice() {
        let (mut cache, start) = (Cache::new(3), Instant::now());
        for name in ["a", "b", "a", "a", "a", "a", "a", "c", "d"] {
            cache.keep(key(name), &answer(60), 100, start);
        }

        let there = |name| cache.find(&key(name), start) != Found::Nothing;

        assert_eq!(["a", "b", "c", "d"].map(there), [true, false, true, true]);
        assert!(cache.ages.len() <= 6);
    }

    #[test]
    fn what_one_set_of_servers_said_is_not_told_for_another() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        cache.keep(key("a"), &answer(60), 100, start);
        let server = Server { address: Ipv4Addr::LOCALHOST.into(), zone: None };

        assert_eq!(cache.find(&Key { servers: vec![server], ..key("a") }, start), Found::Nothing);
        assert_eq!(cache.find(&Key { from: Some(7), ..key("a") }, start), Found::Nothing);
    }

    fn key(name: &str) -> Key {
        Key { from: None, servers: Vec::new(), name: name.to_owned(), kind: (1, 1), dnssec: (false, false) }
    }

    fn answer(ttl: u32) -> Message {
        let mut message = Message::response(7, OpCode::Query);
        message.answers.push(Record::from_rdata(Name::root(), ttl, RData::A(A::new(192, 0, 2, 1))));
        message
    }
}
