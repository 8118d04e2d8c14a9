//! Move status: the moves that this process carries out or lists, and counts of its work, so that
//! reports need no query.
//!
//! **Invariant:** the moves are those that were last read from the catalog. There are none while
//! another process carries out moves.
//! **Not here:** the moves themselves (`mover`), the reports of other processes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::move_record::{MovePhase, MoveRecord};

/// Work of this process for moves of slots, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveTotals {
    /// Number of rows that were copied. A row that was copied again is counted again.
    pub rows: u64,
    /// Size of these rows in bytes.
    pub bytes: u64,
    /// Number of moves that ended with the slots on the target.
    pub done: u64,
    /// Number of moves that were given up before the target owned the slots.
    pub cancelled: u64,
    /// Number of moves that were rolled back, so that their slots are on the source again.
    pub rolled_back: u64,
    /// Number of moves that could not be carried out.
    pub failed: u64,
    /// Longest time for which a move made the writes of its slots wait.
    pub longest_hold: Duration,
}

/// Moves and counts.
#[derive(Debug, Default)]
pub(super) struct MoveStatus {
    open: Mutex<Vec<MoveRecord>>,
    rows: AtomicU64,
    bytes: AtomicU64,
    done: AtomicU64,
    cancelled: AtomicU64,
    rolled_back: AtomicU64,
    failed: AtomicU64,
    longest_hold_us: AtomicU64,
}

impl MoveStatus {
    /// Records those of the listed moves that have not ended.
    pub(super) fn list(&self, records: &[MoveRecord]) {
        let open = records.iter().filter(|record| !record.phase.has_ended()).cloned().collect();
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }

    /// Returns the moves that have not ended, the latest first.
    pub(super) fn open(&self) -> Vec<MoveRecord> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds the number of rows of a copy round, and their size in bytes.
    pub(super) fn count(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records a time, in microseconds, for which writes waited.
    pub(super) fn note_hold(&self, hold_us: u64) {
        self.longest_hold_us.fetch_max(hold_us, Ordering::Relaxed);
    }

    /// Counts a move that has ended in this phase.
    pub(super) fn count_end(&self, phase: MovePhase) {
        let counter = match phase {
            MovePhase::Done => &self.done,
            MovePhase::Cancelled => &self.cancelled,
            MovePhase::RolledBack => &self.rolled_back,
            MovePhase::Failed => &self.failed,
            MovePhase::Planned
            | MovePhase::Preparing
            | MovePhase::Copying
            | MovePhase::Following
            | MovePhase::Verifying
            | MovePhase::Fencing
            | MovePhase::Activating
            | MovePhase::Keeping
            | MovePhase::Cleaning => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts.
    pub(super) fn totals(&self) -> MoveTotals {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MoveTotals {
            rows: count(&self.rows),
            bytes: count(&self.bytes),
            done: count(&self.done),
            cancelled: count(&self.cancelled),
            rolled_back: count(&self.rolled_back),
            failed: count(&self.failed),
            longest_hold: Duration::from_micros(count(&self.longest_hold_us)),
        }
    }
}
