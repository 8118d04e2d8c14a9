//! Move news: announcements inside a process that a move was begun or an order was given, so that
//! the mover need not wait for its next look; and the mover's knowledge that this process leads.
//!
//! **Not here:** orders for moves (`moves`), the mover (`mover`). Other processes find orders in
//! the catalog.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Announcements of orders for moves.
#[derive(Debug)]
pub(super) struct MoveNews {
    /// Number of announcements.
    orders: watch::Sender<u64>,
    leads: AtomicBool,
}

/// Receiver of announcements.
#[derive(Clone, Debug)]
pub(super) struct MoveWatch(watch::Receiver<u64>);

impl Default for MoveNews {
    fn default() -> Self {
        Self { orders: watch::Sender::new(0), leads: AtomicBool::new(false) }
    }
}

impl MoveNews {
    /// Announces an order.
    pub(super) fn announce(&self) {
        self.orders.send_modify(|orders| *orders += 1);
    }

    /// Returns a receiver of later announcements.
    pub(super) fn watch(&self) -> MoveWatch {
        MoveWatch(self.orders.subscribe())
    }

    /// Notes whether the catalog lets this process lead. Only the mover asks it, because it must
    /// learn of each loss.
    pub(super) fn set_leading(&self, leads: bool) {
        if self.leads.swap(leads, Ordering::AcqRel) != leads {
            self.announce();
        }
    }

    /// Returns true if the catalog let this process lead when the mover asked it last.
    pub(super) fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }
}

impl MoveWatch {
    /// Waits for this time, or until an order is announced that this receiver does not know.
    /// Returns true after an announcement.
    pub(super) async fn rest(&mut self, time: Duration) -> bool {
        matches!(tokio::time::timeout(time, self.0.changed()).await, Ok(Ok(())))
    }
}
