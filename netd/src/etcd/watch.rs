//! What changes, as it changes: an answer without an end, an object a line.

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{EtcdError, wire};
use crate::cluster::Event;

/// Changes that came together.
#[derive(Debug, Default)]
pub struct News {
    /// Up to here everything is told.
    pub revision: i64,
    /// In order.
    pub events: Vec<Event>,
}

/// A watch.
pub struct Watch {
    body: Incoming,
    /// What came of a line that is not whole.
    rest: Vec<u8>,
}

impl Watch {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, rest: Vec::new() }
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
    let events = changes.events.into_iter().filter_map(|change| change.event().transpose());
    Ok(News { revision: changes.header.revision, events: events.collect::<Result<_, _>>()? })
}
