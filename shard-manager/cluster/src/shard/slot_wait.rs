//! Slot wait: the wait of writes whose slots a shard has refused, until the shard may accept them.
//!
//! An announcement that slots have changed wakes all waiting writes. In case it is lost, the writes
//! also try again without it, one at a time and at intervals, so that a long fence (a time in which
//! a shard accepts no writes to some of its slots) costs the database little.
//!
//! **Invariant:** a subscription that began before a write was refused misses no later change.
//! **Not here:** announcements (the engines), where the writes go afterwards (`manager`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::slot_news::SlotNews;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Interval at which one of the waiting writes of a shard checks whether it is accepted.
pub const LOOK: Duration = Duration::from_millis(20);

/// Reason why a wait ended.
#[derive(Debug)]
pub enum SlotWake {
    /// The slots of the shard may have changed, the writes may be sent elsewhere, or the time is
    /// over.
    Changed,
    /// The write must now check, on behalf of all that wait, whether the shard accepts it. The next
    /// write checks after the permit is dropped.
    Look(OwnedSemaphorePermit),
}

/// Writes that wait for the slots of a shard.
pub struct SlotWaits {
    /// Announcements that the slots of the shard have changed.
    news: Arc<SlotNews>,
    /// Permit to check whether the shard accepts writes again, held by one waiting write at a time.
    look_turn: Arc<Semaphore>,
}

impl SlotWaits {
    /// Creates the waits for a shard whose changes of slots are announced by `news`.
    pub fn new(news: Arc<SlotNews>) -> Self {
        Self { news, look_turn: Arc::new(Semaphore::new(1)) }
    }

    /// Returns a receiver of later changes of the shard's slots.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Wakes all writes that wait for the shard.
    pub fn wake(&self) {
        self.news.announce();
    }

    /// Waits for a change of the slots or for the turn to check, at most until `until`. Ends early
    /// if `is_elsewhere` returns true; it is called at intervals.
    pub async fn wait(
        &self,
        news: &mut watch::Receiver<u64>,
        until: Instant,
        is_elsewhere: impl Fn() -> bool,
    ) -> SlotWake {
        let mut look = std::pin::pin!(self.take_look());
        loop {
            let tick = until.min(Instant::now() + LOOK);
            tokio::select! {
                biased;
                _ = news.changed() => return SlotWake::Changed,
                turn = &mut look => return turn.map_or(SlotWake::Changed, SlotWake::Look),
                () = tokio::time::sleep_until(tick.into()) => {
                    if tick == until || is_elsewhere() {
                        return SlotWake::Changed;
                    }
                }
            }
        }
    }

    /// Waits for the turn to check; `None` if the semaphore was closed.
    async fn take_look(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.look_turn).acquire_owned().await.ok();
        tokio::time::sleep(LOOK).await;
        turn
    }
}
