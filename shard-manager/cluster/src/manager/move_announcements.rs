//! Move announcements: announcements inside a process that a move was begun or an order was given,
//! so that the mover, the task that carries out moves, does not have to wait until it next reads
//! the catalog. A flag also says if this process leads, that is, if the catalog lets it carry out
//! moves.
//!
//! **Not here:** orders for moves (`moves`), the mover (`mover`). Other processes find orders in
//! the catalog.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Announcements of moves and of orders for moves.
#[derive(Debug)]
pub(super) struct MoveAnnouncements {
    /// Number of announcements.
    news: watch::Sender<u64>,
    /// Number of orders for moves. A run, which carries out one move, is woken only by orders:
    /// there may be many runs, and most of them only keep their source. That is, the slots have
    /// moved, and the source keeps its old rows for a while.
    orders: watch::Sender<u64>,
    leads: AtomicBool,
    /// Number of runs that keep their source.
    kept: Arc<AtomicUsize>,
}

/// Guard that counts a run that keeps its source, until it is dropped.
#[derive(Debug)]
pub(super) struct KeptRun(Arc<AtomicUsize>);

impl Drop for KeptRun {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Receiver of announcements.
#[derive(Clone, Debug)]
pub(super) struct MoveWatch(watch::Receiver<u64>);

impl Default for MoveAnnouncements {
    fn default() -> Self {
        let (news, orders) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { news, orders, leads: AtomicBool::new(false), kept: Arc::default() }
    }
}

impl MoveAnnouncements {
    /// Announces that a move, a rebalance or a change of an index has begun, or that a waiting move
    /// may begin.
    pub(super) fn announce(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    /// Announces an order for a move, or for the moves of a rebalance.
    pub(super) fn announce_order(&self) {
        self.orders.send_modify(|orders| *orders += 1);
        self.announce();
    }

    /// Returns a receiver of all later announcements.
    pub(super) fn watch(&self) -> MoveWatch {
        MoveWatch(self.news.subscribe())
    }

    /// Returns a receiver of later orders.
    pub(super) fn watch_orders(&self) -> MoveWatch {
        MoveWatch(self.orders.subscribe())
    }

    /// Counts a run that keeps its source.
    pub(super) fn count_kept(&self) -> KeptRun {
        self.kept.fetch_add(1, Ordering::AcqRel);
        KeptRun(Arc::clone(&self.kept))
    }

    /// Returns the number of runs that keep their source.
    pub(super) fn kept(&self) -> usize {
        self.kept.load(Ordering::Acquire)
    }

    /// Records whether the catalog lets this process lead. Only the mover requests the lead,
    /// because the mover must notice each loss of the lead.
    pub(super) fn set_leading(&self, leads: bool) {
        if self.leads.swap(leads, Ordering::AcqRel) != leads {
            self.announce();
        }
    }

    /// Returns true if the catalog let this process lead when the mover last requested it.
    pub(super) fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }
}

impl MoveWatch {
    /// Waits for this time, or until there is an announcement that this receiver has not seen.
    /// Returns true in the second case.
    pub(super) async fn rest(&mut self, time: Duration) -> bool {
        matches!(tokio::time::timeout(time, self.0.changed()).await, Ok(Ok(())))
    }
}
