//! When the shared secret gets another generation, and when an old one goes. Any node may do it: the store takes one's word.

use super::{Compare, Key, Op, Record, Secret, Txn, View};

/// How long an old generation stays after everybody sends by the new one, in seconds: packets are on their way.
const GRACE: u64 = 10;

/// What is due to be written of the secret at `now`, in seconds since 1970-01-01T00:00:00Z: the first one where a network is
/// encrypted, the next one after `interval` seconds, and the end of an old one. `fresh` is random.
pub fn due(view: &View, now: u64, interval: u64, fresh: [u8; 32]) -> Option<Txn> {
    if !view.is_any_encrypted() || view.sessions().next().is_none() {
        return None;
    }
    let Some((newest, secret, _)) = view.secrets().last() else { return Some(next(view, now, fresh)) };
    if view.unsettled().is_some() {
        return None;
    }
    // By a clock that was wrong: until this one says so late, keys would change no more.
    if secret.created > now + interval {
        return Some(next(view, now, fresh));
    }
    let (oldest, _, since) = view.secrets().next()?;
    if oldest < newest {
        let when = vec![Compare::Unchanged(Key::Secret(oldest), since)];
        return (secret.created + GRACE <= now).then(|| Txn { when, then: vec![Op::Delete(Key::Secret(oldest))] });
    }
    (secret.created + interval <= now).then(|| next(view, now, fresh))
}

/// Makes the next generation, unless another has.
pub fn next(view: &View, now: u64, fresh: [u8; 32]) -> Txn {
    let number = view.secrets().last().map_or(1, |(newest, ..)| newest + 1);
    let key = Key::Secret(number);
    let secret = Record::Secret(Secret { secret: super::Shared(fresh), created: now });
    Txn { when: vec![Compare::Absent(key.clone())], then: vec![Op::Put(key, secret)] }
}
