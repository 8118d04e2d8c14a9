//! Slot wait: the wait of refused writes until the shard may accept them.
//!
//! An announcement wakes all of them. In case it is lost, they also try again without one, one
//! after the other and at intervals, so that a long fence costs the database little.
//!
//! **Invariant:** a subscription that began before a write was refused misses no later change.
//! **Not here:** announcements (the engines), where the writes go afterwards (`manager`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::slot_news::SlotNews;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Interval at which one of the waiting writes of a shard checks whether it is accepted.
pub const LOOK: Duration = Duration::from_millis(20);

/// End of a wait.
#[derive(Debug)]
pub enum SlotWake {
    /// The slots of the shard may have changed, the writes may be sent elsewhere, or the time is
    /// over.
    Changed,
    /// The write is to check for all that wait. The next one checks after the permit was dropped.
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
    /// Creates the waits for a shard with these announcements.
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

    /// Waits for a change of the slots or for the turn to check, at most until this time. Ends
    /// early when `is_elsewhere` becomes true, which is checked at intervals.
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

    /// Waits for the turn to check; `None` if there are no more turns.
    async fn take_look(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.look_turn).acquire_owned().await.ok();
        tokio::time::sleep(LOOK).await;
        turn
    }
}
