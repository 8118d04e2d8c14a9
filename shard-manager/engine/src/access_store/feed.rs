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
    /// Time of the last confirmation in seconds since 1970; 0 if there was none.
    confirmed_at: AtomicU64,
    /// True if a read has found the catalog in an earlier state than the published one.
    is_rewound: AtomicBool,
}

/// Read of the catalog whose result is to be published.
#[derive(Debug)]
pub struct AccessRead {
    /// State to which only the later changes of the catalog need to be added, if there is one.
    pub base: Option<Arc<AccessState>>,
    /// Generation that was published before the read began.
    since: u64,
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
    /// Subscribes to states. The initial state has generation 0 until a state is published.
    pub fn subscribe(&self) -> watch::Receiver<Arc<AccessState>> {
        self.latest.subscribe()
    }

    /// Returns true if there are subscribers. Without any, no state needs to be read.
    pub fn is_watched(&self) -> bool {
        self.latest.receiver_count() > 0
    }

    /// Begins a read of the catalog. The read has no base if the catalog was found in an earlier
    /// state, because a catalog that was restored from a backup may reach the same generation with
    /// other keys.
    pub fn begin_read(&self) -> AccessRead {
        // The state stays borrowed while the flag is read, because the two change together.
        let latest = self.latest.borrow();
        let since = latest.generation;
        let is_usable = since > 0 && !self.is_rewound.load(Ordering::Acquire);
        AccessRead { base: is_usable.then(|| Arc::clone(&latest)), since }
    }

    /// Publishes the state that a read returned, unless a later state is known; `now` is a time at
    /// which the state was current. If the state is older than the one that was published when the
    /// read began, the catalog was restored from a backup. If it is only older than a state that
    /// another read has published meanwhile, it was not.
    pub fn publish(&self, read: &AccessRead, state: AccessState, now: UnixTime) {
        self.latest.send_if_modified(|latest| {
            let is_later = state.generation > latest.generation;
            if is_later || state.generation < read.since {
                self.is_rewound.store(!is_later, Ordering::Release);
            }
            if is_later {
                *latest = Arc::new(state);
            }
            is_later
        });
        self.confirm(now);
    }

    /// Records that the published state is current at this time. The time may be earlier than the
    /// one recorded before, because a clock that was fast may have been corrected.
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

    fn state(generation: u64) -> AccessState {
        AccessState { generation, ..AccessState::default() }
    }

    fn base(feed: &AccessFeed) -> Option<u64> {
        feed.begin_read().base.map(|state| state.generation)
    }

    #[test]
    fn a_read_that_another_one_has_overtaken_leaves_the_base_in_place() {
        let feed = AccessFeed::default();
        let now = UnixTime::from_seconds(1_800_000_000);
        feed.publish(&feed.begin_read(), state(5), now);
        let overtaken = feed.begin_read();
        feed.publish(&feed.begin_read(), state(7), now);
        feed.publish(&overtaken, state(6), now);
        assert_eq!(base(&feed), Some(7));
    }

    #[test]
    fn a_catalog_that_was_restored_is_read_as_a_whole_until_a_later_state_is_published() {
        let feed = AccessFeed::default();
        let now = UnixTime::from_seconds(1_800_000_000);
        feed.publish(&feed.begin_read(), state(5), now);
        feed.publish(&feed.begin_read(), state(4), now);
        assert_eq!(base(&feed), None);
        feed.publish(&feed.begin_read(), state(5), now);
        assert_eq!(base(&feed), None);
        feed.publish(&feed.begin_read(), state(6), now);
        assert_eq!(base(&feed), Some(6));
    }

    #[test]
    fn a_confirmation_counts_from_the_corrected_clock() {
        let feed = AccessFeed::default();
        let corrected = UnixTime::from_seconds(1_800_000_000);
        feed.confirm(corrected);
        assert_eq!(feed.confirmed_at(), None, "nothing was published");
        let ahead = corrected.plus(86_400);
        feed.publish(&feed.begin_read(), state(1), ahead);
        assert_eq!(feed.confirmed_at(), Some(ahead));
        feed.confirm(corrected);
        assert_eq!(feed.confirmed_at(), Some(corrected));
    }
}
