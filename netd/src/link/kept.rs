//! What is known of the host, kept: of what the kernel tells has changed only that is asked for again.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// After this long everything is listed anew, whatever is told.
const STALE: Duration = Duration::from_secs(30);

/// Of more devices than this everything is listed.
const ONE_BY_ONE: usize = 48;

/// Devices of which something may be other than it was, by their indexes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Touched {
    /// All of them, and what belongs to none.
    Everything,
    /// These.
    Of(BTreeSet<u32>),
}

impl Default for Touched {
    fn default() -> Self {
        Self::Of(BTreeSet::new())
    }
}

impl Touched {
    /// One more.
    pub fn add(&mut self, index: u32) {
        if let Self::Of(indexes) = self {
            indexes.insert(index);
        }
    }
}

/// One listing, by device.
#[derive(Debug)]
pub struct Kept<T> {
    value: Arc<T>,
    /// When everything was listed; `None` where what is kept is not all that was told of.
    listed: Option<Instant>,
}

/// What is to be done before a listing can be used.
#[derive(PartialEq, Eq, Debug)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// To ask for what belongs to these devices.
    Of(BTreeSet<u32>),
    /// To list everything.
    Everything,
}

impl<T: Default> Default for Kept<T> {
    fn default() -> Self {
        Self { value: Arc::default(), listed: None }
    }
}

impl<T: Clone> Kept<T> {
    /// What is to be done where this has been touched. Until it has been, and [`renew`](Self::renew) or [`mend`](Self::mend) has
    /// said so, everything is due.
    pub fn due(&mut self, touched: Touched) -> Due {
        let fresh = self.listed.is_some_and(|listed| listed.elapsed() < STALE);
        match touched {
            Touched::Of(indexes) if fresh && indexes.is_empty() => Due::Nothing,
            Touched::Of(indexes) if fresh && indexes.len() <= ONE_BY_ONE => Due::Of(indexes),
            _ => {
                self.forget();
                Due::Everything
            }
        }
    }

    /// Everything was listed, since `begun`.
    pub fn renew(&mut self, value: T, begun: Instant) {
        self.value = Arc::new(value);
        self.listed = Some(begun);
    }

    /// What belongs to single devices has been asked for; if not all of it, everything is due the next time.
    pub fn mend<E>(&mut self, mended: Result<(), E>) -> Result<(), E> {
        if mended.is_err() {
            self.forget();
        }
        mended
    }

    /// Has everything be listed the next time.
    pub const fn forget(&mut self) {
        self.listed = None;
    }

    /// What is kept, to be mended.
    pub fn mended(&mut self) -> &mut T {
        Arc::make_mut(&mut self.value)
    }

    /// When everything was listed.
    #[cfg(test)]
    pub const fn listed_at(&self) -> Option<Instant> {
        self.listed
    }

    /// What is kept.
    pub fn value(&self) -> Arc<T> {
        Arc::clone(&self.value)
    }
}
