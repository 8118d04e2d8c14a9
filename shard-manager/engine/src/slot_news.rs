//! Slot news: announcement that the slots of a shard have changed their state.
//!
//! An announcement contains no state: it only causes its receivers to query the database again.
//! Changes in quick succession may share one announcement, and none of them is missed.
//!
//! **Not here:** the state of a slot (the databases), waiting writes (`cluster`).

use tokio::sync::watch;

/// Announcements of one shard.
#[derive(Debug)]
pub struct SlotNews(watch::Sender<u64>);

impl Default for SlotNews {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl SlotNews {
    /// Announces that slots have changed. Called after the change is visible to every new
    /// transaction.
    pub fn announce(&self) {
        self.0.send_modify(|changes| *changes += 1);
    }

    /// Returns a receiver of later announcements.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
