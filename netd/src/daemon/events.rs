//! What happens, told to whoever listens: typed events, the last of them kept, so that one can ask for what was before.
//!
//! The daemon's task tells; nothing here ever makes it wait. A listener that is slow finds the oldest events gone and is
//! told how many.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{
    Deserialize, Serialize,
    de::{
        DeserializeOwned,
        value::{self, StrDeserializer},
    },
};
use tokio::{sync::watch, time::timeout};

use super::moment::Moment;
use crate::model::Rejection;

/// How many events are kept.
const KEPT: usize = 4096;

/// Something that happened, and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// By the host's clock; never that of the event before.
    pub time: Moment,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen. On the wire `type` names the kind of thing, the other fields are the variant's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Happening {
    /// To the daemon itself.
    Daemon { action: DaemonAction },
    /// To a network.
    Network { action: NetworkAction, network: String },
    /// To an endpoint; `network` where it is about its place in one.
    Endpoint { action: EndpointAction, endpoint: String, network: Option<String> },
    /// To ports that an endpoint publishes, as they were asked for.
    Port { action: PortAction, endpoint: String, ports: Vec<String> },
    /// To a node of the cluster.
    Node { action: NodeAction, node: String },
    /// Something of netd's on the host was not as it should be, and was mended.
    Repair { action: RepairAction, message: String },
    /// Something works, and not as well as the user may think.
    Warning { action: WarningAction, message: String },
    /// The listener was too slow for so many events.
    Lost { count: u64 },
}

/// Of a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonAction {
    Start,
    Stop,
}

/// Of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkAction {
    Create,
    Update,
    Remove,
}

/// Of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointAction {
    Attach,
    Connect,
    Disconnect,
    Detach,
    /// Another may open something to it.
    Allow,
    /// Another may open something to it no more.
    Deny,
}

/// Of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortAction {
    Publish,
    Unpublish,
}

/// Of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAction {
    Join,
    Leave,
}

/// Of a repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairAction {
    /// It is as it should be again.
    Mend,
    /// It could not be.
    Fail,
}

/// Of a warning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningAction {
    /// It holds from now on.
    Raise,
    /// It holds no more.
    Clear,
}

/// The events so far, by their numbers: the first that is kept, and those that follow it.
#[derive(Default, Debug)]
struct Ring {
    first: u64,
    kept: VecDeque<Arc<Event>>,
    /// Whether the last one was told.
    ended: bool,
}

impl Ring {
    fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Keeps what has happened at a moment of the host's clock, or a microsecond after the last event where that has the same one: so
    /// an event's time says which were before it.
    fn push(&mut self, now: Moment, what: Happening) {
        let last = self.kept.back().map(|event| event.time);
        let time = last.map_or(now, |last| now.apart_from(last));
        self.kept.push_back(Arc::new(Event { time, what }));
        if self.kept.len() > KEPT {
            self.kept.pop_front();
            self.first += 1;
        }
    }

    /// The events from number `from` on, and how many of them are not kept any more.
    fn since(&self, from: u64) -> (u64, Vec<Arc<Event>>) {
        let lost = self.first.saturating_sub(from);
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (lost, self.kept.iter().skip(skipped).cloned().collect())
    }
}

/// Where events are told and listened to; clones are the same place.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<watch::Sender<Ring>>);

impl Events {
    /// Tells.
    pub fn tell(&self, what: Happening) {
        self.0.send_modify(|ring| ring.push(Moment::now(), what));
    }

    /// Tells that the daemon ends; nothing is told after.
    pub fn end(&self) {
        self.tell(Happening::Daemon { action: DaemonAction::Stop });
        self.0.send_modify(|ring| ring.ended = true);
    }

    /// Listens to what fits `wish`.
    pub fn listen(&self, wish: EventWish) -> Listener {
        let mut ring = self.0.subscribe();
        let next = if wish.since.is_some() { ring.borrow_and_update().first } else { ring.borrow_and_update().next() };
        Listener { ring, next, wish, waiting: VecDeque::new() }
    }
}

/// Which events are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventWish {
    /// From then on; `None` for from now on.
    since: Option<Moment>,
    /// Until then; `None` for ever.
    until: Option<Moment>,
    /// By key: one of the values.
    filters: BTreeMap<String, Vec<String>>,
}

impl EventWish {
    /// What events can be filtered by.
    pub const FILTERS: &str = "type, action, network, endpoint, node";
    const TYPES: [&str; 8] = ["daemon", "network", "endpoint", "port", "node", "repair", "warning", "lost"];
    const A_TYPE: &str = "a type of event: daemon, network, endpoint, port, node, repair, warning or lost";

    /// Reads pairs of a query: `since`, `until`, and filters, of which those with one key are alternatives.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Rejection> {
        let mut wish = Self::default();
        let now = Moment::now();
        let moment = |given: String| {
            let wanted = "a moment: RFC 3339, seconds since 1970, or how long ago, like 10m";
            Moment::parse(&given, now).ok_or(Rejection::Malformed { given, wanted })
        };
        for (key, value) in pairs {
            match key.as_str() {
                "since" => wish.since = Some(moment(value)?),
                "until" => wish.until = Some(moment(value)?),
                "type" if !Self::TYPES.contains(&value.as_str()) => {
                    return Err(Rejection::Malformed { given: value, wanted: Self::A_TYPE });
                }
                "action" if !is_action(&value) => {
                    return Err(Rejection::Malformed { given: value, wanted: "an action of an event, like attach" });
                }
                "type" | "action" | "network" | "endpoint" | "node" => wish.filters.entry(key).or_default().push(value),
                _ => return Err(Rejection::UnknownFilter(key, Self::FILTERS.into())),
            }
        }
        if wish.until.is_some_and(|until| until <= now) && wish.since.is_none() {
            // What ends in the past begins with all there is.
            wish.since = Some(Moment::default());
        }
        Ok(wish)
    }

    fn wants(&self, event: &Event) -> bool {
        let in_time = self.since.is_none_or(|since| since <= event.time);
        in_time && self.filters.iter().all(|(key, values)| event.what.fits(key, values))
    }
}

/// Whether an event can have it for its action.
fn is_action(word: &str) -> bool {
    fn of<T: DeserializeOwned>(word: &str) -> bool {
        T::deserialize(StrDeserializer::<value::Error>::new(word)).is_ok()
    }
    let of_any: [fn(&str) -> bool; 7] = [
        of::<DaemonAction>,
        of::<NetworkAction>,
        of::<EndpointAction>,
        of::<PortAction>,
        of::<NodeAction>,
        of::<RepairAction>,
        of::<WarningAction>,
    ];
    of_any.iter().any(|is| is(word))
}

impl Happening {
    /// Whether it has one of `values` for `key`. What a happening does not have fits nothing; but that some were lost
    /// matters to every listener.
    fn fits(&self, key: &str, values: &[String]) -> bool {
        if matches!(self, Self::Lost { .. }) {
            return true;
        }
        let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(self) else { return false };
        let found = fields.get(key).and_then(serde_json::Value::as_str);
        found.is_some_and(|found| values.iter().any(|value| value == found))
    }
}

/// Listens.
pub struct Listener {
    ring: watch::Receiver<Ring>,
    next: u64,
    wish: EventWish,
    waiting: VecDeque<Arc<Event>>,
}

impl Listener {
    /// The next event that is wanted; `None` when there will be none.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            while let Some(event) = self.waiting.pop_front() {
                if self.wish.until.is_some_and(|until| event.time >= until) {
                    return None;
                }
                if self.wish.wants(&event) {
                    return Some(event);
                }
            }
            if !self.take() && !self.changed().await {
                return None;
            }
        }
    }

    /// Takes what is there and was not seen; whether there was something.
    fn take(&mut self) -> bool {
        let ring = self.ring.borrow_and_update();
        let (lost, events) = ring.since(self.next);
        // Nobody has seen what was before the first look: that is not lost.
        self.next = ring.next();
        if lost > 0 {
            let what = Happening::Lost { count: lost };
            self.waiting.push_back(Arc::new(Event { time: Moment::now(), what }));
        }
        self.waiting.extend(events);
        !self.waiting.is_empty()
    }

    async fn changed(&mut self) -> bool {
        if self.ring.borrow().ended {
            return false;
        }
        match self.wish.until {
            None => self.ring.changed().await.is_ok(),
            Some(until) => timeout(until.time_left(), self.ring.changed()).await.is_ok_and(|changed| changed.is_ok()),
        }
    }
}

#[cfg(test)]
mod tests;
