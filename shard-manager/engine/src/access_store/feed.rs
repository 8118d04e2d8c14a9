//! Feed: the latest state of keys, roles and denials, for the tasks that act on it.
//!
//! **Invariant:** subscribers never see a generation after a later one.
//! **Not here:** reading a state (`AccessStore::load`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use access::unix_time::UnixTime;
use tokio::sync::watch;

use super::state::AccessState;

/// Latest state, and the time at which it was confirmed.
#[derive(Debug)]
pub struct AccessFeed {
    latest: watch::Sender<Arc<AccessState>>,
    /// Seconds since 1970; 0 for never.
    confirmed_at: AtomicU64,
    /// True if the catalog was seen in an earlier state than the published one.
    is_rewound: AtomicBool,
}

impl Default for AccessFeed {
    fn default() -> Self {
        Self {
            latest: watch::Sender::new(Arc::default()),
            confirmed_at: AtomicU64::new(0),
            is_rewound: AtomicBool::new(false),
        }
    }
}

impl AccessFeed {
    /// Subscribes to states. The first one has generation 0 until a state is published.
    pub fn subscribe(&self) -> watch::Receiver<Arc<AccessState>> {
        self.latest.subscribe()
    }

    /// Returns true if there are subscribers. Without any, no state needs to be read.
    pub fn is_watched(&self) -> bool {
        self.latest.receiver_count() > 0
    }

    /// Returns the published state, if changes of the catalog can be added to it. A catalog that
    /// was restored to an earlier state may reach the same generation with other keys.
    pub fn base(&self) -> Option<Arc<AccessState>> {
        let latest = Arc::clone(&self.latest.borrow());
        let is_usable = latest.generation > 0 && !self.is_rewound.load(Ordering::Acquire);
        is_usable.then_some(latest)
    }

    /// Publishes a state that is current at this time, unless a later one is known.
    pub fn publish(&self, state: AccessState, now: UnixTime) {
        self.latest.send_if_modified(|latest| {
            let is_later = state.generation > latest.generation;
            if state.generation != latest.generation {
                self.is_rewound.store(!is_later, Ordering::Release);
            }
            if is_later {
                *latest = Arc::new(state);
            }
            is_later
        });
        self.confirm(now);
    }

    /// Records that the published state is the current one at this time, which may be before the
    /// previous one: a clock that was ahead may have been corrected.
    pub fn confirm(&self, now: UnixTime) {
        if self.latest.borrow().generation > 0 {
            self.confirmed_at.store(now.seconds(), Ordering::Relaxed);
        }
    }

    /// Returns the time of the last confirmation, if there was one.
    pub fn confirmed_at(&self) -> Option<UnixTime> {
        let seconds = self.confirmed_at.load(Ordering::Relaxed);
        (seconds > 0).then(|| UnixTime::from_seconds(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_counts_from_the_corrected_clock() {
        let feed = AccessFeed::default();
        let corrected = UnixTime::from_seconds(1_800_000_000);
        feed.confirm(corrected);
        assert_eq!(feed.confirmed_at(), None, "nothing was published");
        let ahead = corrected.plus(86_400);
        feed.publish(AccessState { generation: 1, ..AccessState::default() }, ahead);
        assert_eq!(feed.confirmed_at(), Some(ahead));
        feed.confirm(corrected);
        assert_eq!(feed.confirmed_at(), Some(corrected));
    }
}
