//! Move news: announcements inside a process that a move was begun or an order was given, so that
//! the mover need not wait for its next look.
//!
//! **Not here:** orders for moves (`moves`), the mover (`mover`). Other processes find orders in
//! the catalog.

use std::time::Duration;

use tokio::sync::watch;

/// Announcements of orders for moves.
#[derive(Debug)]
pub(super) struct MoveNews(watch::Sender<u64>);

/// Receiver of announcements.
#[derive(Clone, Debug)]
pub(super) struct MoveWatch(watch::Receiver<u64>);

impl Default for MoveNews {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl MoveNews {
    /// Announces an order.
    pub(super) fn announce(&self) {
        self.0.send_modify(|orders| *orders += 1);
    }

    /// Returns a receiver of later announcements.
    pub(super) fn watch(&self) -> MoveWatch {
        MoveWatch(self.0.subscribe())
    }
}

impl MoveWatch {
    /// Waits for this time, or until an order is announced that this receiver does not know.
    /// Returns true after an announcement.
    pub(super) async fn rest(&mut self, time: Duration) -> bool {
        matches!(tokio::time::timeout(time, self.0.changed()).await, Ok(Ok(())))
    }
}
