//! What changes, as it changes: an answer without an end, an object a line.

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{EtcdError, wire};
use crate::cluster::Event;

/// Changes that came together.
#[derive(Debug, Default)]
pub struct News {
    /// Up to here everything is told; 0 where that is what the events say.
    pub revision: i64,
    /// In order.
    pub events: Vec<Event>,
}

/// A watch.
pub struct Watch {
    /// The number of the member that tells.
    pub(super) member: usize,
    body: Incoming,
    /// What came of a line that is not whole.
    rest: Vec<u8>,
}

impl Watch {
    pub(super) fn new(member: usize, body: Incoming) -> Self {
        Self { member, body, rest: Vec::new() }
    }

    /// The next changes. Nothing is lost where this is dropped before it is ready.
    pub async fn next(&mut self) -> Result<News, EtcdError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return news(&line);
            }
            let frame = self.body.frame().await.ok_or_else(|| EtcdError::Away("the watch has ended".to_owned()))?;
            let frame = frame.map_err(|error| EtcdError::Away(format!("the watch has ended: {error}")))?;
            self.rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
    }
}

fn news(line: &[u8]) -> Result<News, EtcdError> {
    let streamed: wire::Streamed<wire::Changes> = wire::read(line)?;
    let Some(changes) = streamed.result else {
        let why = streamed.error.map_or_else(String::new, |error| format!(": {error}"));
        return Err(EtcdError::Away(format!("the watch has ended{why}")));
    };
    if changes.canceled {
        return Err(EtcdError::Away(format!("the watch has ended: {}", changes.cancel_reason)));
    }
    // What comes with events is the store's revision, of which a watch that catches up has more to tell.
    let is_progress = changes.events.is_empty() && !changes.created;
    let revision = if is_progress { changes.header.revision } else { 0 };
    let events = changes.events.into_iter().filter_map(|change| change.event().transpose());
    Ok(News { revision, events: events.collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_told_is_taken_for_told() {
        let of = |line: &str| news(line.as_bytes()).unwrap();
        let put = r#"{"kv":{"key":"L25ldGQvdjEvZHJhaW5lZC9h","mod_revision":"7"}}"#;

        let created = of(r#"{"result":{"header":{"revision":"9"},"created":true}}"#);
        let behind = of(&format!(r#"{{"result":{{"header":{{"revision":"9"}},"events":[{put}]}}}}"#));
        let progress = of(r#"{"result":{"header":{"revision":"9"}}}"#);

        assert_eq!((created.revision, created.events.len()), (0, 0), "what happened until then is told next");
        assert_eq!((behind.revision, behind.events.iter().map(Event::revision).max()), (0, Some(7)));
        assert_eq!((progress.revision, progress.events.len()), (9, 0));
    }
}
