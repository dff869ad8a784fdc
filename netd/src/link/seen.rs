//! What was listed last, kept for as long as nothing tells of a change.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;

/// After this long it is listed anew even so.
const STALE: Duration = Duration::from_secs(30);

/// One listing.
#[derive(Debug)]
pub struct Seen<T>(Mutex<Option<Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    version: u64,
    listed: Instant,
    value: Arc<T>,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Seen<T> {
    /// What was listed when the host was at `version`, or else what `list` finds.
    pub async fn or_listed(&self, version: u64, list: impl Future<Output = Result<T>>) -> Result<Arc<T>> {
        let listed = Instant::now();
        if let Some(entry) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner)
            && entry.version == version
            && listed < entry.listed + STALE
        {
            return Ok(Arc::clone(&entry.value));
        }
        let value = Arc::new(list.await?);
        let entry = Entry { version, listed, value: Arc::clone(&value) };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
        Ok(value)
    }
}
