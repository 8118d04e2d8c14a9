//! Parked writes: the limits and counters of writes that a shard has refused for their slots, and
//! that wait until a shard accepts them.
//!
//! **Invariant:** the rows that wait are at most [`ROWS_MAX`] and [`BYTES_MAX`]; each is counted
//! from its refusal to its end.
//! **Not here:** the wait itself (`shard::slot_wait`), the next shard (`manager`).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::stats::ParkedStats;

/// Highest number of rows that wait at the same time: as many as wait in a few full lanes.
pub const ROWS_MAX: usize = 65_536;
/// Highest size of all rows that wait, so that large rows cannot fill memory.
pub const BYTES_MAX: usize = 64 << 20;

/// The counters of a cluster's parked writes.
#[derive(Debug, Default)]
pub struct ParkedWrites {
    rows: AtomicUsize,
    bytes: AtomicUsize,
    total: AtomicU64,
    refused: AtomicU64,
    longest: AtomicU64,
}

/// Rows that wait. They are counted until this value is dropped.
pub struct ParkedRows<'p> {
    parked: &'p ParkedWrites,
    rows: usize,
    bytes: usize,
    since: Instant,
}

impl ParkedWrites {
    /// Counts rows that begin to wait; `None` if there is no room for them.
    pub fn park(&self, rows: usize, bytes: usize) -> Option<ParkedRows<'_>> {
        let all_rows = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        let all_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut parked = ParkedRows { parked: self, rows, bytes, since: Instant::now() };
        if all_rows > ROWS_MAX || all_bytes > BYTES_MAX {
            parked.leave();
            self.refused.fetch_add(rows as u64, Ordering::Relaxed);
            return None;
        }
        self.total.fetch_add(rows as u64, Ordering::Relaxed);
        Some(parked)
    }

    /// Returns the counters.
    pub fn stats(&self) -> ParkedStats {
        ParkedStats {
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            rows_max: ROWS_MAX,
            bytes_max: BYTES_MAX,
            total: self.total.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            longest: Duration::from_micros(self.longest.load(Ordering::Relaxed)),
        }
    }
}

impl ParkedRows<'_> {
    /// Returns the time for which the rows have waited.
    pub fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    fn leave(&mut self) {
        self.parked.rows.fetch_sub(self.rows, Ordering::Relaxed);
        self.parked.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        (self.rows, self.bytes) = (0, 0);
    }
}

impl Drop for ParkedRows<'_> {
    fn drop(&mut self) {
        if self.rows > 0 {
            let waited = self.waited().as_micros() as u64;
            self.parked.longest.fetch_max(waited, Ordering::Relaxed);
        }
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_over_a_limit_do_not_wait_and_take_no_room() {
        let parked = ParkedWrites::default();
        let most = parked.park(ROWS_MAX, 10);
        assert!(most.is_some() && parked.park(1, 1).is_none());
        drop(most);
        assert!(parked.park(1, BYTES_MAX + 1).is_none());
        let stats = parked.stats();
        assert_eq!((stats.rows, stats.bytes), (0, 0));
        assert_eq!((stats.total, stats.refused), (ROWS_MAX as u64, 2));
    }
}
